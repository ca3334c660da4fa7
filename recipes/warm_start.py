"""A first training of the detector's network, many times faster than `crycli train`: the start that it fine-tunes.

    python recipes/warm_start.py DATA -o START -c recipes/detector.yaml [--without-fold K]

The first two convolutions of mini-random start as the filters of a spectrogram. Here they stay so, and what they make
of each training clip and of some augmented copies is computed once. The rest of the network learns from that, at 290
clips a second of one core where training all of it on clips augmented anew takes 60. START is a folder that
`model.backbone` takes; `crycli train` then fine-tunes all weights, chooses the epoch, and calibrates.

DATA is what `crycli prepare` wrote; its validation and test parts are not looked at. With --without-fold the clips of
all parts but those of one fold are, for cross-validation.
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

from crycli import audio
from crycli.augment import TrainingView
from crycli.checkpoint import build_model, load_feature_extractor
from crycli.config import Config, load_config
from crycli.manifest import PARTS, Clip, read_manifest

COPIES = 4  # augmented ones of each clip, beside the clip itself
FROZEN = 2  # convolutions
STEPS = 3500
BATCH = 64
PEAK_RATE = 1.5e-3
WARMUP_SHARE = 0.05  # of the updates; the rate falls by a cosine afterwards
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.02
MIXUP = 0.2  # of Beta(MIXUP, MIXUP), in every second batch
RATE = audio.SAMPLE_RATE


def main() -> None:
    """Compute, train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that `crycli prepare` wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--without-fold", type=int, metavar="K")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    if given.output.exists():
        parser.error(f"{given.output} exists: name a new folder")
    config = load_config(given.config, ["model.backbone=mini-random"], {})
    clips = _training_clips(given.data, given.without_fold)
    labels = sorted({clip.label for clip in clips})
    model = build_model(config, None, labels)
    features, lengths = _hear(clips, model, config)
    truth = np.array([labels.index(clip.label) for clip in clips])
    _train(model, features, lengths, truth, given.steps, config.train.seed)
    model.save_pretrained(given.output)
    load_feature_extractor(None).save_pretrained(given.output)


def _training_clips(data: Path, without_fold: int | None) -> list[Clip]:
    if without_fold is None:
        return read_manifest(data / "train.csv")
    return [clip for part in PARTS for clip in read_manifest(data / f"{part}.csv") if clip.fold != without_fold]


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
            normalised = (part - part.mean()) / np.sqrt(part.var() + 1e-7)
            with torch.no_grad():
                hidden = torch.from_numpy(normalised.astype(np.float32))[None, None]
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
    steps: int,
    seed: int,
) -> None:
    """Train all behind the frozen convolutions, with every label as often, on a random copy of each clip.

    Args:
        model: changed in place.
        features: from `_hear`.
        lengths: from `_hear`.
        truth: (clips,) class numbers.
        steps: updates.
        seed: of what is drawn.
    """
    encoder = model.backbone.feature_extractor
    whole = encoder.forward
    encoder.forward = types.MethodType(_behind_the_frozen, encoder)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    frozen = {id(weight) for layer in encoder.conv_layers[:FROZEN] for weight in layer.parameters()}
    weights = [weight for weight in weights if id(weight) not in frozen]
    optimiser = torch.optim.AdamW(weights, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_RATE, total_steps=steps, pct_start=WARMUP_SHARE, cycle_momentum=False, final_div_factor=100.0
    )
    rng = np.random.default_rng(seed)
    pools = [np.flatnonzero(truth == number) for number in range(truth.max() + 1)]
    model.train()
    for step in range(steps):
        chosen = np.concatenate([rng.choice(pool, BATCH // len(pools)) for pool in pools])
        copies = rng.integers(0, features.shape[1], len(chosen))
        values = torch.from_numpy(features[chosen, copies].astype(np.float32))
        mask = (np.arange(lengths.max())[None, :] < lengths[chosen, copies][:, None]).astype(np.int64)
        target = torch.nn.functional.one_hot(torch.from_numpy(truth[chosen]), len(pools)).float()
        target = target * (1.0 - LABEL_SMOOTHING) + LABEL_SMOOTHING / len(pools)
        if rng.random() < 0.5:
            share = float(rng.beta(MIXUP, MIXUP))
            share = max(share, 1.0 - share)
            other = torch.from_numpy(rng.permutation(len(chosen)))
            values, target = (share * mixed + (1.0 - share) * mixed[other] for mixed in (values, target))
        logits = model(values, attention_mask=torch.from_numpy(mask)).logits
        loss = -(target * logits.log_softmax(-1)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        rate.step()
        if step % 100 == 0:
            print(f"update {step:,} of {steps:,}, loss {loss.item():.3f}", flush=True)
    encoder.forward = whole


def _behind_the_frozen(encoder: Any, values: torch.Tensor) -> torch.Tensor:
    """The remaining convolutions, of (batch, frames, channels) from `_hear`: (batch, channels, frames)."""
    hidden = values.transpose(1, 2)
    for layer in encoder.conv_layers[FROZEN:]:
        hidden = layer(hidden)
    return hidden


if __name__ == "__main__":
    main()
