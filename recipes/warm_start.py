"""A first training of the detector's network, many times faster than `crycli train`: the start that it goes on from.

    python recipes/warm_start.py DATA -o START -c recipes/detector.yaml --cries corpora/cries
        [--without COLUMN=VALUE,...] [--heard FILE]

The first two convolutions of mini-random start as the filters of a spectrogram. Here they stay so, and what they make
of each training clip and of some augmented copies is computed once. The rest of the network learns from that. START is
a folder that `model.backbone` takes; `crycli train` then goes on with the head, and calibrates.

DATA is what `crycli prepare` wrote; its validation and test parts are not looked at. --cries are synthesised ones, to
learn from and not to be measured with. With --without the clips of all parts are learnt from, but for those with one
of these values in that column: `fold=1` for cross-validation, `corpus=esc10` for a corpus from which nothing shall be
learnt. How well these are told apart, each heard as a whole, is printed at the end. --heard keeps what was computed of
the clips for the next training on the same DATA, some GB.
"""

from __future__ import annotations

import argparse
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
from crycli.model import mask_of
from crycli.parallel import map_processes

COPIES = 4  # augmented ones of each clip, beside the clip itself
FROZEN = 2  # convolutions
STEPS = 2800
BATCH = 64
PEAK_RATE = 1.5e-3
WARMUP_SHARE = 0.2  # of the updates; the rate falls by a cosine afterwards
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.02
VOICED = ("laughter", "voice", "animal", "singing")  # kinds that sounds.py makes in the way of its cries
OFTEN = 3.0  # as likely to be drawn as others: these, and all laughter; or that way itself would tell a cry
SHORTENED = 0.3  # of what is drawn is cut to such a part: or one call by itself is judged by what is missing around it
SHORT_SECONDS = (0.5, 4.0)
LOUD_FRAMES = 7  # of 40 ms, over which loudness is added up: in a frame, how many bands are above how many levels
MIXUP = 1.0  # of Beta(MIXUP, MIXUP)
CRY = "cry"
SYNTHESISED = "synthetic"  # the corpus of corpora.py
IGNORED = 2 / 32  # of the cries of a batch, those with the greatest loss: some hold little of one
IGNORED_FROM = 0.3  # of the updates: before, what the network finds hard says little
AVERAGED = 0.005  # share of each update's weights in the running average that is kept
RECALL = 0.9
RATE = audio.SAMPLE_RATE

Heard = tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]
"""(copies + 1, frames, channels), zeros after a clip's end; and (copies + 1,), its samples."""


def main() -> None:
    """Compute, train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that `crycli prepare` wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--cries", type=Path, metavar="FOLDER", help="more of them, in .flac files")
    parser.add_argument("--without", metavar="COLUMN=VALUE,...", default="", help="learn nothing from such clips")
    parser.add_argument("--heard", type=Path, metavar="FILE", help="an .npz file: read where it exists, else written")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    if given.output.exists():
        parser.error(f"{given.output} exists: name a new folder")
    if given.cries and not given.cries.is_dir():
        parser.error(f"{given.cries} is no folder")
    config = load_config(given.config, ["model.backbone=mini-random", "model.keep_head=false"], {})
    clips = [clip for part in PARTS for clip in read_manifest(given.data / f"{part}.csv")]
    learnt = _are_learnt(clips, given.data, given.without)
    more = sorted(given.cries.glob("*.flac")) if given.cries else []
    clips += [Clip(path, CRY, path.stem) for path in more]
    learnt = np.append(learnt, np.ones(len(more), bool))
    labels = sorted({clip.label for clip in clips})
    features, lengths = _recall(given.heard, clips, labels, config)
    features, lengths = features[learnt], lengths[learnt]
    truth = np.array([labels.index(clip.label) for clip, taken in zip(clips, learnt, strict=True) if taken])
    often = _are_often(clips)[learnt]
    model = build_model(config, None, labels)
    model = _train(model, features, lengths, truth, often, labels.index(CRY), given.steps, config.train.seed)
    model.save_pretrained(given.output)
    load_feature_extractor(None).save_pretrained(given.output)
    if given.without:
        left_out = [clip for clip, taken in zip(clips, learnt, strict=True) if not taken]
        _report(model, left_out, labels.index(CRY), config)


def _are_learnt(clips: Sequence[Clip], data: Path, without: str) -> npt.NDArray[np.bool_]:
    """(clips,), which of the clips of all parts the network learns from."""
    if not without:
        count = len(read_manifest(data / f"{PARTS[0]}.csv"))  # the training part comes first
        return np.arange(len(clips)) < count
    column, _, given = without.partition("=")
    values = given.split(",")
    return np.array([str(getattr(clip, column, clip.extra.get(column))) not in values for clip in clips])


def _are_often(clips: Sequence[Clip]) -> npt.NDArray[np.bool_]:
    """(clips,), which of them are drawn more often than others of their label."""
    kinds = [(clip.extra.get("kind"), clip.corpus == SYNTHESISED) for clip in clips]
    return np.array([kind == "laughter" or (synthesised and kind in VOICED) for kind, synthesised in kinds])


def _recall(
    heard: Path | None, clips: Sequence[Clip], labels: Sequence[str], config: Config
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """What `_Hearing` gives of all clips, from the file where it holds that of these and this configuration."""
    of = f"{[str(clip.path) for clip in clips]} {config.augment} {config.data.max_seconds} {config.train.seed}"
    if heard is not None and heard.exists():
        with np.load(heard) as kept:
            if str(kept["of"]) == of:
                return kept["features"], kept["lengths"]
    found: list[Heard] = []
    threads = torch.get_num_threads()
    for result in map_processes(_Hearing(config, labels), list(enumerate(clips)), config.workers, _give_up):
        if len(found) % 500 == 0:
            print(f"heard {len(found):,} of {len(clips):,} clips", flush=True)
        found.append(result)
    torch.set_num_threads(threads)  # some were heard here, with one
    features, lengths = (np.stack(some) for some in zip(*found, strict=True))
    if heard is not None:
        np.savez(heard, features=features, lengths=lengths, of=of)
    return features, lengths


class _Hearing:
    """What the frozen convolutions make of a clip and its copies; a class, because a process must be able to load it.

    Args:
        config: its sections `data`, `augment` and `train`.
        labels: of the network.
    """

    def __init__(self, config: Config, labels: Sequence[str]) -> None:
        self._config, self._labels = config, labels
        self._tools: tuple[Any, Any, TrainingView] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; it makes the tools itself, whose locks cannot be sent."""
        return {**vars(self), "_tools": None}

    def _make_tools(self) -> tuple[Any, Any, TrainingView]:
        torch.set_num_threads(1)  # there is a process for each core
        model: Any = build_model(self._config, None, list(self._labels))
        return model, model.eval().backbone.feature_extractor.conv_layers[:FROZEN], TrainingView(self._config, RATE)

    def __call__(self, item: tuple[int, Clip]) -> Heard:
        """Of a clip and its number, on which its copies depend."""
        index, clip = item
        self._tools = self._tools or self._make_tools()
        model, layers, view = self._tools
        longest = round(self._config.data.max_seconds * RATE)
        samples = audio.load(clip.path, RATE, clip.start, clip.end)
        first = max(0, (len(samples) - longest) // 2)
        heard = np.zeros((COPIES + 1, model.count_frames(longest, FROZEN), layers[-1].conv.out_channels), np.float16)
        lengths = np.zeros(COPIES + 1, np.int64)
        for copy in range(COPIES + 1):
            part = samples[first : first + longest]
            if copy:
                key = (self._config.train.seed, copy, index, 0)
                part, _ = view.waveform([samples].__getitem__, 0, key, 1)
            with torch.no_grad():
                hidden = torch.from_numpy(audio.normalise(part))[None, None]
                for layer in layers:
                    hidden = layer(hidden)
            heard[copy, : hidden.shape[2]] = hidden[0].T.numpy()
            lengths[copy] = len(part)
        return heard, lengths


def _give_up(item: tuple[int, Clip]) -> Heard:
    raise SystemExit(f"{item[1].path}: a process died of it")


def _train(
    model: Any,
    features: npt.NDArray[np.float16],
    lengths: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    often: npt.NDArray[np.bool_],
    cry: int,
    steps: int,
    seed: int,
) -> Any:
    """Train all behind the frozen convolutions, with every label as often, on a random copy of each clip.

    Two clips make one by mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412). The cries with the greatest loss
    are passed over, as in trimmed loss (Shen and Sanghavi 2019, https://arxiv.org/abs/1810.11874).

    Args:
        model: changed.
        features: (clips, copies + 1, frames, channels) of `_Hearing`.
        lengths: (clips, copies + 1), samples.
        truth: (clips,) class numbers.
        often: (clips,), of `_are_often`.
        cry: its class number.
        steps: updates.
        seed: of what is drawn.

    Returns:
        The running average of the model (Polyak and Juditsky 1992).
    """
    frozen_layers = model.backbone.feature_extractor.conv_layers[:FROZEN]
    frozen = {id(weight) for layer in frozen_layers for weight in layer.parameters()}
    weights = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in frozen]
    optimiser = torch.optim.AdamW(weights, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_RATE, total_steps=steps, pct_start=WARMUP_SHARE, cycle_momentum=False, final_div_factor=100.0
    )
    average = {name: value.clone() for name, value in model.state_dict().items()}
    rng = np.random.default_rng(seed)
    pools = [np.flatnonzero(truth == number) for number in range(truth.max() + 1)]
    chances = [np.where(often[pool], OFTEN, 1.0) for pool in pools]
    chances = [some / some.sum() for some in chances]
    ignored = round(BATCH // len(pools) * IGNORED)
    model.train()
    for step in range(steps):
        chosen = np.concatenate(
            [rng.choice(pool, BATCH // len(pools), p=p) for pool, p in zip(pools, chances, strict=True)]
        )
        copies = rng.integers(0, features.shape[1], len(chosen))
        values, samples = _shorten(model, features[chosen, copies].astype(np.float32), lengths[chosen, copies], rng)
        target = torch.nn.functional.one_hot(torch.from_numpy(truth[chosen]), len(pools)).float()
        target = target * (1.0 - LABEL_SMOOTHING) + LABEL_SMOOTHING / len(pools)
        share = float(rng.beta(MIXUP, MIXUP))
        share = max(share, 1.0 - share)
        other = rng.permutation(len(chosen))
        values, target = (share * mixed + (1.0 - share) * mixed[other] for mixed in (torch.from_numpy(values), target))
        longer = torch.from_numpy(np.maximum(samples, samples[other]))
        logits = _behind_the_frozen(model, values, longer)
        losses = -(target * logits.log_softmax(-1)).sum(-1)
        if step >= IGNORED_FROM * steps:
            clips = torch.from_numpy(np.flatnonzero(truth[chosen] == cry))
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
    model.load_state_dict(average)
    return model.eval()


def _shorten(
    model: Any, values: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Some of the clips cut to a short part around their loudest moment, as corpora.py cuts: both anew.

    Args:
        model: says what a frame is.
        values: (clips, frames, channels) of `_Hearing`.
        lengths: (clips,), samples.
        rng: draws which, how long and where.
    """
    values, lengths = values.copy(), lengths.copy()
    frames = model.count_frames(lengths, FROZEN)
    short = (RATE * rng.uniform(*SHORT_SECONDS, len(values))).astype(np.int64)
    kept = model.count_frames(short, FROZEN)
    before = kept * rng.uniform(0.2, 0.8, len(values))
    for row in np.flatnonzero((rng.random(len(values)) < SHORTENED) & (kept < frames)):
        loudness = np.convolve(values[row, : frames[row]].sum(-1), np.ones(LOUD_FRAMES), "same")
        start = int(np.clip(loudness.argmax() - before[row], 0, frames[row] - kept[row]))
        part = values[row, start : start + kept[row]].copy()
        values[row] = 0.0
        values[row, : kept[row]], lengths[row] = part, short[row]
    return values, lengths


def _report(model: Any, clips: Sequence[Clip], positive: int, config: Config) -> None:
    """Print how well the model tells the label `positive` from the others, of clips heard whole."""
    found = np.zeros(len(clips))
    truth = np.array([clip.label == model.config.id2label[positive] for clip in clips])
    for index, clip in enumerate(clips):
        samples = audio.load(clip.path, RATE, clip.start, clip.end)[: round(config.data.max_seconds * RATE)]
        with torch.no_grad():
            found[index] = model(torch.from_numpy(audio.normalise(samples))[None]).logits.softmax(-1)[0, positive]
    threshold = np.quantile(found[truth], 1.0 - RECALL)
    print(f"left out: {len(clips):,} clips, {truth.sum():,} of them {CRY}; AUC {roc_auc_score(truth, found):.3f}")
    print(f"where {RECALL:.0%} of them are found, of the others {np.mean(found[~truth] >= threshold):.1%} are too")


def _behind_the_frozen(model: Any, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """What the model makes of the frozen convolutions' output, as its own forward does: (batch, classes).

    Args:
        model: without transformer layers.
        values: (batch, frames, channels) of `_Hearing`.
        lengths: (batch,), samples.
    """
    backbone = model.backbone
    hidden = values.transpose(1, 2)
    for layer in backbone.feature_extractor.conv_layers[FROZEN:]:
        hidden = layer(hidden)
    hidden, _ = backbone.feature_projection(hidden.transpose(1, 2))
    valid = mask_of(model.count_frames(lengths), hidden.shape[1])
    hidden = hidden * valid[..., None]  # or a clip's last frames would hear what lies after its end
    hidden = backbone.encoder.layer_norm(hidden + backbone.encoder.pos_conv_embed(hidden))
    logits: torch.Tensor = model.classify(model.pool_layers(hidden[None], valid))
    return logits


if __name__ == "__main__":
    main()
