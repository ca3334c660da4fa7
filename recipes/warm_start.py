"""A first training of the detector's network, many times faster than `crycli train`: the start that it goes on from.

    python recipes/warm_start.py DATA -o START -c recipes/detector.yaml [--without COLUMN=VALUE] [--heard FILE]

The first two convolutions of mini-random start as the filters of a spectrogram. Here they stay so, and what they make
of each training clip and of some augmented copies is computed once. The rest of the network learns from that. START is
a folder that `model.backbone` takes; `crycli train` then goes on with the head, and calibrates.

DATA is what `crycli prepare` wrote; its validation and test parts are not looked at. With --without the clips of all
parts are, but for those with that value in that column: `fold=1` for cross-validation, `corpus=esc10` for a corpus from
which nothing shall be learnt. How well these are told apart, each heard as a whole, is printed at the end. --heard
keeps what was computed of the clips for the next training on the same DATA, some GB.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from crycli import audio
from crycli.augment import TrainingView
from crycli.checkpoint import build_model, load_feature_extractor
from crycli.config import Config, load_config
from crycli.manifest import PARTS, Clip, read_manifest

COPIES = 4  # augmented ones of each clip, beside the clip itself
FROZEN = 2  # convolutions
STEPS = 1400
BATCH = 64
PEAK_RATE = 1.5e-3
WARMUP_SHARE = 0.2  # of the updates; the rate falls by a cosine afterwards
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.02
MIXUP = 1.0  # of Beta(MIXUP, MIXUP)
DOUBTFUL = "cry"  # some of DonateACry's uploads hold none: silence, speech, a television
IGNORED = 2 / 32  # of the clips with that label in a batch, those with the greatest loss
IGNORED_FROM = 0.3  # of the updates: before, what the network finds hard says little
AVERAGED = 0.005  # share of each update's weights in the running average that is kept
RECALL = 0.9
RATE = audio.SAMPLE_RATE


def main() -> None:
    """Compute, train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that `crycli prepare` wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--without", metavar="COLUMN=VALUE", default="", help="learn nothing from such clips")
    parser.add_argument("--heard", type=Path, metavar="FILE", help="an .npz file: read where it exists, else written")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    if given.output.exists():
        parser.error(f"{given.output} exists: name a new folder")
    config = load_config(given.config, ["model.backbone=mini-random", "model.keep_head=false"], {})
    clips = [clip for part in PARTS for clip in read_manifest(given.data / f"{part}.csv")]
    learnt = _are_learnt(clips, given.data, given.without)
    labels = sorted({clip.label for clip in clips})
    model = build_model(config, None, labels)
    features, lengths = _recall(given.heard, clips, model, config)
    features, lengths = features[learnt], lengths[learnt]
    truth = np.array([labels.index(clip.label) for clip, taken in zip(clips, learnt, strict=True) if taken])
    doubtful = labels.index(DOUBTFUL)
    model = _train(model, features, lengths, truth, doubtful, given.steps, config.train.seed)
    model.save_pretrained(given.output)
    load_feature_extractor(None).save_pretrained(given.output)
    if given.without:
        _report(model, [clip for clip, taken in zip(clips, learnt, strict=True) if not taken], doubtful, config)


def _are_learnt(clips: Sequence[Clip], data: Path, without: str) -> npt.NDArray[np.bool_]:
    """(clips,), which of the clips of all parts the network learns from."""
    if not without:
        count = len(read_manifest(data / f"{PARTS[0]}.csv"))  # the training part comes first
        return np.arange(len(clips)) < count
    column, _, value = without.partition("=")
    return np.array([str(getattr(clip, column, clip.extra.get(column))) != value for clip in clips])


def _recall(
    heard: Path | None, clips: Sequence[Clip], model: Any, config: Config
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """What `_hear` gives, from the file where it holds that of these clips and this configuration."""
    of = f"{[str(clip.path) for clip in clips]} {config.augment} {config.data.max_seconds} {config.train.seed}"
    if heard is not None and heard.exists():
        with np.load(heard) as kept:
            if str(kept["of"]) == of:
                return kept["features"], kept["lengths"]
    features, lengths = _hear(clips, model, config)
    if heard is not None:
        np.savez(heard, features=features, lengths=lengths, of=of)
    return features, lengths


def _hear(clips: Sequence[Clip], model: Any, config: Config) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """What the frozen convolutions make of each clip and its copies.

    Returns:
        (clips, copies + 1, frames, channels), zeros after a clip's end; and (clips, copies + 1), its samples.
    """
    longest = round(config.data.max_seconds * RATE)
    view = TrainingView(config, RATE)
    layers = model.eval().backbone.feature_extractor.conv_layers[:FROZEN]
    frames, channels = model.count_frames(longest, FROZEN), layers[-1].conv.weight.shape[0]
    heard = np.zeros((len(clips), COPIES + 1, frames, channels), np.float16)
    lengths = np.zeros((len(clips), COPIES + 1), np.int64)
    for index, clip in enumerate(clips):
        samples = audio.load(clip.path, RATE, clip.start, clip.end)
        first = max(0, (len(samples) - longest) // 2)
        for copy in range(COPIES + 1):
            part = samples[first : first + longest]
            if copy:
                part, _ = view.waveform([samples].__getitem__, 0, (config.train.seed, copy, index, 0), 1)
            with torch.no_grad():
                hidden = torch.from_numpy(audio.normalise(part))[None, None]
                for layer in layers:
                    hidden = layer(hidden)
            heard[index, copy, : hidden.shape[2]] = hidden[0].T.numpy()
            lengths[index, copy] = len(part)
        if index % 500 == 0:
            print(f"heard {index:,} of {len(clips):,} clips", flush=True)
    return heard, lengths


def _train(
    model: Any,
    features: npt.NDArray[np.float16],
    lengths: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    doubtful: int,
    steps: int,
    seed: int,
) -> Any:
    """Train all behind the frozen convolutions, with every label as often, on a random copy of each clip.

    Two clips make one by mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412). Of the doubtful label the clips
    with the greatest loss are passed over, as in trimmed loss (Shen and Sanghavi 2019,
    https://arxiv.org/abs/1810.11874).

    Args:
        model: changed.
        features: from `_hear`.
        lengths: from `_hear`.
        truth: (clips,) class numbers.
        doubtful: the class of which not every clip is what its label says.
        steps: updates.
        seed: of what is drawn.

    Returns:
        The running average of the model (Polyak and Juditsky 1992).
    """
    encoder = model.backbone.feature_extractor
    whole = encoder.forward
    encoder.forward = types.MethodType(_behind_the_frozen, encoder)
    frozen = {id(weight) for layer in encoder.conv_layers[:FROZEN] for weight in layer.parameters()}
    weights = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in frozen]
    optimiser = torch.optim.AdamW(weights, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_RATE, total_steps=steps, pct_start=WARMUP_SHARE, cycle_momentum=False, final_div_factor=100.0
    )
    average = {name: value.clone() for name, value in model.state_dict().items()}
    rng = np.random.default_rng(seed)
    pools = [np.flatnonzero(truth == number) for number in range(truth.max() + 1)]
    ignored = round(BATCH // len(pools) * IGNORED)
    model.train()
    for step in range(steps):
        chosen = np.concatenate([rng.choice(pool, BATCH // len(pools)) for pool in pools])
        copies = rng.integers(0, features.shape[1], len(chosen))
        values = torch.from_numpy(features[chosen, copies].astype(np.float32))
        target = torch.nn.functional.one_hot(torch.from_numpy(truth[chosen]), len(pools)).float()
        target = target * (1.0 - LABEL_SMOOTHING) + LABEL_SMOOTHING / len(pools)
        share = float(rng.beta(MIXUP, MIXUP))
        share = max(share, 1.0 - share)
        other = rng.permutation(len(chosen))
        values, target = (share * mixed + (1.0 - share) * mixed[other] for mixed in (values, target))
        longer = np.maximum(lengths[chosen, copies], lengths[chosen, copies][other])
        mask = (np.arange(lengths.max())[None, :] < longer[:, None]).astype(np.int64)
        logits = model(values, attention_mask=torch.from_numpy(mask)).logits
        losses = -(target * logits.log_softmax(-1)).sum(-1)
        if step >= IGNORED_FROM * steps:
            clips = torch.from_numpy(np.flatnonzero(truth[chosen] == doubtful))
            losses = losses.index_fill(0, clips[losses[clips].topk(ignored).indices], 0.0)
        optimiser.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        rate.step()
        for name, value in model.state_dict().items():
            average[name].lerp_(value, AVERAGED)
        if step % 100 == 0:
            print(f"update {step:,} of {steps:,}, loss {losses.mean().item():.3f}", flush=True)
    encoder.forward = whole
    model.load_state_dict(average)
    return model.eval()


def _report(model: Any, clips: Sequence[Clip], positive: int, config: Config) -> None:
    """Print how well the model tells the label `positive` from the others, of clips heard whole."""
    found = np.zeros(len(clips))
    truth = np.array([clip.label == model.config.id2label[positive] for clip in clips])
    for index, clip in enumerate(clips):
        samples = audio.load(clip.path, RATE, clip.start, clip.end)[: round(config.data.max_seconds * RATE)]
        with torch.no_grad():
            found[index] = model(torch.from_numpy(audio.normalise(samples))[None]).logits.softmax(-1)[0, positive]
    threshold = np.quantile(found[truth], 1.0 - RECALL)
    print(f"left out: {len(clips):,} clips, {truth.sum():,} of them {DOUBTFUL}; AUC {roc_auc_score(truth, found):.3f}")
    print(f"where {RECALL:.0%} of them are found, of the others {np.mean(found[~truth] >= threshold):.1%} are too")


def _behind_the_frozen(encoder: Any, values: torch.Tensor) -> torch.Tensor:
    """The remaining convolutions, of (batch, frames, channels) from `_hear`: (batch, channels, frames)."""
    hidden = values.transpose(1, 2)
    for layer in encoder.conv_layers[FROZEN:]:
        hidden = layer(hidden)
    return hidden


if __name__ == "__main__":
    main()
