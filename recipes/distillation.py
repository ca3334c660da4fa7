"""The training of the detector's network behind its frozen convolutions: two learn the labels, and a third the two."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hearing import FROZEN, RATE, behind_the_frozen

from crycli.checkpoint import build_model
from crycli.config import Config

BATCH = 64
PEAK_RATE = 1.5e-3
WARMUP_SHARE = 0.2  # of the updates; the rate falls by a cosine afterwards
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.02
OFTEN = 3.0  # as likely to be drawn as others of their label
SHORTENED = 0.3  # of what is drawn is cut to such a part: or one call by itself is judged by what is missing around it
SHORT_SECONDS = (0.5, 4.0)
LOUD_FRAMES = 7  # of 40 ms, over which loudness is added up: in a frame, how many bands are above how many levels
MIXUP = 1.0  # of Beta(MIXUP, MIXUP)
IGNORED = 2 / 32  # of the cries of a batch, those with the greatest loss: some hold little of one
IGNORED_FROM = 0.3  # of the updates: before, what the network finds hard says little
AVERAGED = 0.005  # share of each update's weights in the running average that is kept

Teacher = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Values and lengths as in `behind_the_frozen` to (batch, classes) logits."""


@dataclass(frozen=True)
class Material:
    """What is learnt from.

    Attributes:
        features: (clips, copies + 1, frames, channels) of `Hearing`.
        lengths: (clips, copies + 1), samples.
        truth: (clips,) class numbers.
        often: (clips,), which are drawn more often than others of their label.
    """

    features: npt.NDArray[np.float16]
    lengths: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    often: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Batch:
    """What one update learns from: each row two clips in one.

    Attributes:
        values: (batch, frames, channels).
        lengths: (batch,), samples of the longer of the two.
        target: (batch, classes), the smoothed labels of both.
        truth: (batch,) class numbers of the first, which is the louder part.
    """

    values: torch.Tensor
    lengths: torch.Tensor
    target: torch.Tensor
    truth: torch.Tensor


class _Batches:
    """Draws batches: every label as often, a random copy of each clip, and two made one.

    The last is mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).

    Args:
        model: says what a frame is.
        material: what is drawn from.
        seed: of what is drawn.
        parts: whether some are cut.
    """

    def __init__(self, model: Any, material: Material, seed: int, parts: bool) -> None:
        self._model, self._material, self._parts = model, material, parts
        self._rng = np.random.default_rng(seed)
        self._pools = [np.flatnonzero(material.truth == number) for number in range(material.truth.max() + 1)]
        often = [np.where(material.often[pool], OFTEN, 1.0) for pool in self._pools]
        self._chances = [some / some.sum() for some in often]

    def draw(self) -> _Batch:
        """The next one."""
        rng, pools = self._rng, self._pools
        each = BATCH // len(pools)
        clips = np.concatenate([rng.choice(pool, each, p=p) for pool, p in zip(pools, self._chances, strict=True)])
        copies = rng.integers(0, self._material.features.shape[1], len(clips))
        heard = self._material.features[clips, copies].astype(np.float32)
        lengths = self._material.lengths[clips, copies]
        if self._parts:
            heard, lengths = _shorten(self._model, heard, lengths, rng)
        truth = torch.from_numpy(self._material.truth[clips])
        target = torch.nn.functional.one_hot(truth, len(pools)).float()
        target = target * (1.0 - LABEL_SMOOTHING) + LABEL_SMOOTHING / len(pools)
        share = float(rng.beta(MIXUP, MIXUP))
        share = max(share, 1.0 - share)
        other = rng.permutation(len(clips))
        values, target = (share * whole + (1.0 - share) * whole[other] for whole in (torch.from_numpy(heard), target))
        return _Batch(values, torch.from_numpy(np.maximum(lengths, lengths[other])), target, truth)


def learn(config: Config, labels: Sequence[str], cry: int, material: Material, steps: int) -> Any:
    """A network that has learnt what two others say (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

    The first hears whole clips, and what is around each frame; it is the better one for recordings of the kinds that it
    has learnt from. The second hears parts of clips too, and nothing around a frame; it takes fewer sounds of an
    unknown kind for cries. The network begins as the first: fold 1, left out, is then told apart with AUC 0.990, ESC-10
    with 0.991; where it begins as the second (700 updates) with 0.985 and 0.991.

    Args:
        config: its sections `model` and `train`.
        labels: of the network.
        cry: the class number of the label of which some clips are passed over.
        material: of its labels the two learn, of its sound all three.
        steps: updates; the two others take twice as many.
    """
    seed = config.train.seed
    one, two = (build_model(config, None, list(labels)) for _ in range(2))
    print("the first teacher", flush=True)
    first = _train(one, material, cry, 2 * steps, seed, parts=False)
    print("the second teacher", flush=True)
    second = _train(two, material, cry, 2 * steps, seed + 1, context=False)
    print("the network that learns from them", flush=True)
    teachers: list[Teacher] = [partial(behind_the_frozen, first), partial(behind_the_frozen, second, context=False)]
    return _train(copy.deepcopy(first), material, cry, steps, seed + 2, teachers=teachers)


def _train(
    model: Any,
    material: Material,
    cry: int,
    steps: int,
    seed: int,
    *,
    context: bool = True,
    parts: bool = True,
    teachers: Sequence[Teacher] = (),
) -> Any:
    """Train all behind the frozen convolutions.

    Args:
        model: changed.
        material: what from.
        cry: its class number.
        steps: updates.
        seed: of what is drawn.
        context: whether the model hears what is around a frame.
        parts: whether some clips are cut.
        teachers: whose answers are learnt in place of the labels, where there are some.

    Returns:
        The running average of the model (Polyak and Juditsky 1992).
    """
    weights = _weights_behind_the_frozen(model)
    optimiser = torch.optim.AdamW(weights, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_RATE, total_steps=steps, pct_start=WARMUP_SHARE, cycle_momentum=False, final_div_factor=100.0
    )
    average = {name: value.clone() for name, value in model.state_dict().items()}
    batches = _Batches(model, material, seed, parts)
    model.train()
    for step in range(steps):
        batch = batches.draw()
        target = _mean_answer(teachers, batch) if teachers else batch.target
        logits = behind_the_frozen(model, batch.values, batch.lengths, context)
        losses = -(target * logits.log_softmax(-1)).sum(-1)
        if not teachers and step >= IGNORED_FROM * steps:
            losses = _pass_over(losses, batch.truth == cry)
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


def _weights_behind_the_frozen(model: Any) -> list[torch.nn.Parameter]:
    frozen_layers = model.backbone.feature_extractor.conv_layers[:FROZEN]
    frozen = {id(weight) for layer in frozen_layers for weight in layer.parameters()}
    return [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in frozen]


@torch.no_grad()
def _mean_answer(teachers: Sequence[Teacher], batch: _Batch) -> torch.Tensor:
    """(batch, classes), the probabilities whose logarithms are the teachers' mean."""
    answers = torch.stack([teacher(batch.values, batch.lengths).log_softmax(-1) for teacher in teachers])
    return answers.mean(0).softmax(-1)


def _pass_over(losses: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The losses, 0 for the greatest of the chosen, as in trimmed loss.

    Shen and Sanghavi 2019, https://arxiv.org/abs/1810.11874.

    Args:
        losses: (batch,).
        chosen: (batch,), of which some are passed over.
    """
    clips = torch.nonzero(chosen)[:, 0]
    return losses.index_fill(0, clips[losses[clips].topk(round(len(clips) * IGNORED)).indices], 0.0)


def _shorten(
    model: Any, values: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Some of the clips cut to a short part around their loudest moment, as corpora.py cuts: both anew.

    Args:
        model: says what a frame is.
        values: (clips, frames, channels) of `Hearing`.
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
