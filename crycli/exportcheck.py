"""An exported network against the checkpoint that it was made from: the same sounds through both, in turns."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crycli import audio, metrics
from crycli.audio import Excerpt, Samples
from crycli.config import Combine
from crycli.errors import AudioError, DataError
from crycli.events import combine
from crycli.limits import Limits
from crycli.networks import Network, Probabilities, softmax
from crycli.progress import OnStep, Step, silent
from crycli.windows import stream_windows

SAME = 1e-4
"""Probabilities that differ by no more are called the same: one that is right at the edge may fall either way."""

SYNTHETIC_LENGTHS = 12
"""From the shortest clip to a window, each as a cry and as noise: 50 s of sound, 6 s of work for base size."""
PADDED_SECONDS = (0.5, 1.37, 3.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sounds:
    """How networks take sounds.

    Attributes:
        labels: in the order of the logits.
        sample_rate: Hz.
        normalise: whether each window is brought to zero mean and unit variance.
        window: samples in a window.
        hop: samples from the start of a window to the next one's.
        shortest: samples of the shortest clip.
        temperature: what the logits are divided by.
        limits: what decoding accepts.
        events: the labels whose events are looked for.
        combine: what a clip's probabilities are, of those of its windows.
    """

    labels: tuple[str, ...]
    sample_rate: int
    normalise: bool
    window: int
    hop: int
    shortest: int
    temperature: float
    limits: Limits
    events: tuple[str, ...] = ()
    combine: Combine = "mean"


@dataclass(frozen=True)
class Clip:
    """A recording, or a part of one, to compare networks on.

    Attributes:
        excerpt: where it is.
        label: the true one; empty where it is not known.
        group: what it shares with other clips.
    """

    excerpt: Excerpt
    label: str = ""
    group: str = ""


@dataclass(frozen=True)
class Comparison:
    """What two networks said about the same sounds, each computing with one thread.

    Attributes:
        clips: how many were compared.
        synthetic: whether they were made up, for want of recordings.
        largest_difference: in any probability of any window, among them of clips that were padded in one batch; NaN
            where one network's answer is not a number.
        flipped: clips whose label is another one, and whose probabilities are not the `SAME`.
        milliseconds: a window in the middle case, of the one and the other network.
        scores: of both on the clips whose label is known; None where none is.
    """

    clips: int
    synthetic: bool
    largest_difference: float
    flipped: int
    milliseconds: tuple[float, float]
    scores: tuple[metrics.Report, metrics.Report] | None


@dataclass
class _Tally:
    """What was found so far.

    Attributes:
        differences: the largest one of each window or batch.
        seconds: (windows, 2) that each network took.
        answers: for each clip (2, labels), its probabilities.
        labels: the known ones of the clips; empty where not known.
        groups: of the clips.
    """

    differences: list[float] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)
    answers: list[Probabilities] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)


def compare(
    before: Network, after: Network, sounds: Sounds, clips: Sequence[Clip] = (), on_step: OnStep = silent
) -> Comparison:
    """Compare two networks on recordings; on synthetic cries and noise where none are given.

    Clips that cannot be read are named in a warning and left out. Whatever is given, noise of several lengths is
    padded in one batch, too.

    Raises:
        DataError: a clip has a label that the networks lack, or none of the clips can be read.
    """
    unknown = sorted({clip.label for clip in clips} - {"", *sounds.labels})
    if unknown:
        raise DataError(f"the clips have labels that the model lacks: {', '.join(unknown)}")
    tally = _Tally()
    tally.differences.append(_padded_difference(before, after, sounds))
    total = len(clips) or 2 * SYNTHETIC_LENGTHS
    for number, (clip, windows) in enumerate(_read(clips, sounds) if clips else _synthetic(sounds), start=1):
        try:
            answer = _answer_clip(before, after, sounds, windows, tally)
        except AudioError as error:
            logger.warning("left out %s: %s", clip.excerpt.path, error)
            continue
        tally.answers.append(answer)
        tally.labels.append(clip.label)
        tally.groups.append(clip.group)
        on_step(Step("compare", number, total))
    if not tally.answers:
        raise DataError("none of the clips to compare the networks on can be read")
    return _conclude(tally, sounds, synthetic=not clips)


def _answer_clip(
    before: Network, after: Network, sounds: Sounds, windows: Iterable[Samples], tally: _Tally
) -> Probabilities:
    """(2, labels), the probabilities of both networks for a clip."""
    found: list[Probabilities] = []
    for window in windows:
        values = _prepare(window, sounds)[None]
        took = [0.0, 0.0]
        answers = np.zeros((2, len(sounds.labels)))
        # In turns, so that what else the machine does falls on both alike.
        order = (0, 1) if len(tally.seconds) % 2 == 0 else (1, 0)
        for side in order:
            started = time.perf_counter()
            output = (before, after)[side](values, np.ones(values.shape, np.int64))
            took[side] = time.perf_counter() - started
            answers[side] = softmax(output.logits / np.float32(sounds.temperature))[0]
        tally.seconds.append((took[0], took[1]))
        tally.differences.append(float(np.abs(answers[0] - answers[1]).max()))
        found.append(answers)
    sides = np.stack(found, axis=1)  # (2, windows, labels)
    return np.stack([combine(side, sounds.labels, sounds.events, sounds.combine) for side in sides])


def _padded_difference(before: Network, after: Network, sounds: Sounds) -> float:
    """The largest difference over noise of several lengths, alone before and padded in one batch after."""
    generator = np.random.default_rng(0)
    wanted = {sounds.shortest, *(round(seconds * sounds.sample_rate) for seconds in PADDED_SECONDS)}
    lengths = sorted(length for length in wanted if sounds.shortest <= length <= max(sounds.window, sounds.shortest))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    values = (generator.standard_normal(mask.shape) * mask).astype(np.float32)
    alone = [
        before(values[row : row + 1, :length], mask[row : row + 1, :length]).logits
        for row, length in enumerate(lengths)
    ]
    scale = np.float32(sounds.temperature)
    together = softmax(after(values, mask).logits / scale)
    return float(np.abs(softmax(np.concatenate(alone) / scale) - together).max())


def _read(clips: Iterable[Clip], sounds: Sounds) -> Iterator[tuple[Clip, Iterable[Samples]]]:
    for clip in clips:
        stream = stream_windows(clip.excerpt, sounds.sample_rate, sounds.window, sounds.hop, sounds.limits)
        yield clip, (_long_enough(window.samples, sounds) for window in stream)


def _long_enough(samples: Samples, sounds: Sounds) -> Samples:
    if len(samples) < sounds.shortest:
        raise AudioError(f"too short: {len(samples) / sounds.sample_rate:.3f} s")
    return samples


def _synthetic(sounds: Sounds) -> Iterator[tuple[Clip, Iterable[Samples]]]:
    """Cries and noise from the shortest clip to a whole window, which is the longest that the networks will see."""
    generator = np.random.default_rng(0)
    made = Clip(Excerpt("synthetic"))
    for length in np.geomspace(sounds.shortest, max(sounds.window, sounds.shortest), SYNTHETIC_LENGTHS).round():
        noise = generator.standard_normal(int(length)).astype(np.float32) * np.float32(0.1)
        yield made, [_cry(int(length), float(generator.uniform(300, 600)), sounds.sample_rate) + noise * 0.1]
        yield made, [noise]


def _cry(length: int, hertz: float, rate: int) -> Samples:
    """(length,) a tone of `hertz` with harmonics that rises and falls within each second, as the voice in a cry."""
    seconds = np.arange(length) / rate
    phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.2 * np.sin(2 * np.pi * seconds))) / rate
    tone = sum(np.sin(phase * number) / number for number in range(1, 8))
    return np.asarray(0.1 * tone * np.abs(np.sin(np.pi * seconds)), dtype=np.float32)


def _prepare(samples: Samples, sounds: Sounds) -> Samples:
    return audio.normalise(samples) if sounds.normalise else samples


def _conclude(tally: _Tally, sounds: Sounds, *, synthetic: bool) -> Comparison:
    answers = np.stack(tally.answers)  # (clips, 2, labels)
    other = answers[:, 0].argmax(axis=1) != answers[:, 1].argmax(axis=1)
    apart = np.abs(answers[:, 0] - answers[:, 1]).max(axis=1) > SAME
    middle = np.median(np.array(tally.seconds), axis=0) * 1000
    return Comparison(
        clips=len(answers),
        synthetic=synthetic,
        largest_difference=float(np.array(tally.differences).max()),
        flipped=int((other & apart).sum()),
        milliseconds=(float(middle[0]), float(middle[1])),
        scores=_score(answers, tally, sounds),
    )


def _score(
    answers: npt.NDArray[np.float64], tally: _Tally, sounds: Sounds
) -> tuple[metrics.Report, metrics.Report] | None:
    known = [number for number, label in enumerate(tally.labels) if label]
    if not known or not np.isfinite(answers).all():
        return None
    truth = np.array([sounds.labels.index(tally.labels[number]) for number in known], dtype=np.int64)
    groups = [tally.groups[number] for number in known]
    before, after = (metrics.score(sounds.labels, truth, answers[known, side], groups) for side in (0, 1))
    return before, after
