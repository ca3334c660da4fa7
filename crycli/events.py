"""Events in a long recording: from the answers for overlapping windows to when each label begins and ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crycli.config import Combine
from crycli.predictions import Windows

DEFAULT_ONSET = 0.5
OFFSET_SHARE = 0.7  # of the onset
TINY = 1e-6  # s: a sample lasts 1.3e-6 s at the highest rate, and sums of seconds are off by 1e-11

ABSENCE = re.compile(r"noise|silence|background|other|unknown|(not|no|non)[_ -].+", re.IGNORECASE)
"""Labels that stand for nothing that happens."""


@dataclass(frozen=True)
class EventPolicy:
    """What counts as an event.

    Attributes:
        labels: those whose events are looked for.
        onset: the probability that an event reaches somewhere.
        offset: the event goes on while the probability is no less; no higher than `onset`.
        min_seconds: shorter events are dropped, after joining.
        gap_seconds: events of one label that are no further apart are one.
    """

    labels: tuple[str, ...]
    onset: float = DEFAULT_ONSET
    offset: float = DEFAULT_ONSET * OFFSET_SHARE
    min_seconds: float = 0.0
    gap_seconds: float = 0.0


@dataclass(frozen=True)
class Event:
    """A stretch of time with one label.

    Attributes:
        start: seconds from the recording's start.
        end: seconds.
        label: which.
        peak: the highest probability of the label within.
        peak_at: seconds, the middle of the time that has it.
        confidence: the mean probability of the label, without the gaps that were closed.
    """

    start: float
    end: float
    label: str
    peak: float
    peak_at: float
    confidence: float


def event_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that `predict.event_labels: auto` stands for.

    All but those that stand for nothing that happens, such as noise or not_crying; where that leaves none, all.
    """
    return tuple(label for label in labels if not ABSENCE.fullmatch(label)) or tuple(labels)


def combine(
    probabilities: npt.NDArray[np.floating], labels: Sequence[str], events: Sequence[str], how: Combine
) -> npt.NDArray[np.float64]:
    """The probabilities of a recording, from those of its windows.

    With "max" a label of events has the highest probability of any window: a baby that cries in one window has cried in
    the recording, however long that is. Such maxima are scaled down where they exceed 1 together; the other labels
    share what is left, in proportion to their means. Calibration takes means (`calibration.fit_temperature`): with
    "max" it holds for recordings of about a window, and the longer one is, the likelier one of its windows is mistaken.

    Args:
        probabilities: (windows, labels), each row summing to 1; at least one.
        labels: in the order of the columns.
        events: those of them whose events are looked for.
        how: "mean" or "max".

    Returns:
        (labels,), summing to 1.
    """
    mean: npt.NDArray[np.float64] = np.asarray(probabilities, np.float64).mean(axis=0)
    if how == "mean":
        return mean
    chosen = np.isin(labels, events)
    found = np.where(chosen, probabilities.max(axis=0), 0.0).astype(np.float64)
    rest = mean[~chosen].sum()
    if rest > 0.0:
        found[~chosen] = mean[~chosen] * max(0.0, 1.0 - found.sum()) / rest
    return np.asarray(found / found.sum())


def find_events(windows: Windows, labels: Sequence[str], policy: EventPolicy) -> list[Event]:
    """The events in a recording, by start and then in the order of the labels; see `EventFinder`."""
    finder = EventFinder(labels, policy)
    found: list[Event] = []
    for start, end, probabilities in zip(windows.starts, windows.ends, windows.probabilities, strict=True):
        found += finder.push(float(start), float(end), probabilities)
    found += finder.close()
    return sorted(found, key=finder.order)


@dataclass
class _Run:
    """Time without a break in which a label's probability is no less than the offset, or several such, joined."""

    start: float
    end: float
    peak: float = -1.0
    peak_at: float = 0.0
    reached: bool = False
    covered: float = 0.0  # s
    weight: float = 0.0  # the sum of probability x seconds

    def add(self, end: float, probability: float, onset: float) -> None:
        seconds = end - self.end
        if probability > self.peak:
            self.peak, self.peak_at = probability, self.end + seconds / 2
        self.reached |= probability >= onset
        self.covered += seconds
        self.weight += probability * seconds
        self.end = end

    def join(self, later: _Run) -> None:
        if later.peak > self.peak:
            self.peak, self.peak_at = later.peak, later.peak_at
        self.end = later.end
        self.covered += later.covered
        self.weight += later.weight


@dataclass
class _Track:
    """What is under way for one label: a run that may go on, and an event that another one may yet join."""

    label: str
    column: int
    run: _Run | None = None
    waiting: _Run | None = None

    def add(self, start: float, end: float, probability: float, policy: EventPolicy) -> list[Event]:
        """Take the next cell."""
        if probability < policy.offset:
            return self.end_run(end, policy)
        if self.run is None:
            self.run = _Run(start, start)
        self.run.add(end, probability, policy.onset)
        return []

    def end_run(self, now: float, policy: EventPolicy) -> list[Event]:
        """The run is over, and none begins before `now`: what such a one could not join is an event."""
        found: list[Event] = []
        if self.run is not None and self.run.reached:
            if self.waiting is not None and self.run.start - self.waiting.end <= policy.gap_seconds + TINY:
                self.waiting.join(self.run)
            else:
                found += self.release(policy)
                self.waiting = self.run
        self.run = None
        if self.waiting is not None and now - self.waiting.end > policy.gap_seconds + TINY:
            found += self.release(policy)
        return found

    def release(self, policy: EventPolicy) -> list[Event]:
        run, self.waiting = self.waiting, None
        if run is None or run.end - run.start < policy.min_seconds - TINY:
            return []
        confidence = min(run.weight / run.covered, run.peak)
        return [Event(run.start, run.end, self.label, run.peak, run.peak_at, confidence)]


class EventFinder:
    """Finds events while windows come in, in the order of their starts; memory does not grow with their number.

    The boundaries of all windows cut the time into cells. A cell's probability is the mean over the windows that
    cover it, so that windows that overlap give edges good to about a hop. An event of a label is a longest run of
    cells with at least `offset`, one of which has at least `onset` (hysteresis, as in Canny, "A Computational Approach
    to Edge Detection", 1986). Events of one label that are no further apart than `gap_seconds` are then joined, and
    those shorter than `min_seconds` dropped. Where no window lies, an event ends.

    Args:
        labels: of the classifier, in the order of the probabilities.
        policy: what counts as an event.
    """

    def __init__(self, labels: Sequence[str], policy: EventPolicy) -> None:
        self._policy = policy
        self._tracks = [_Track(label, labels.index(label)) for label in policy.labels]
        self._rank = {label: rank for rank, label in enumerate(labels)}
        self._open: list[tuple[float, float, npt.NDArray[np.float64]]] = []  # windows that end after `_now`
        self._now = 0.0  # s: all before is settled

    def order(self, event: Event) -> tuple[float, int]:
        """What events are sorted by."""
        return event.start, self._rank[event.label]

    def push(self, start: float, end: float, probabilities: npt.NDArray[np.floating]) -> list[Event]:
        """Take the next window, from `start` to `end` in seconds.

        Args:
            start: no less than that of the window before.
            end: seconds.
            probabilities: (labels,).

        Returns:
            The events that no later window can change, sorted among themselves.
        """
        found = self._settle(start)
        self._open.append((start, end, np.asarray(probabilities, np.float64)))
        return found

    def close(self) -> list[Event]:
        """The events that are left when no window comes any more."""
        found = self._settle(max((end for _, end, _ in self._open), default=self._now))
        for track in self._tracks:
            found += track.end_run(np.inf, self._policy)
        return sorted(found, key=self.order)

    def _settle(self, until: float) -> list[Event]:
        """Take the cells up to a time before which no further window begins."""
        found: list[Event] = []
        for boundary in sorted({end for _, end, _ in self._open if end < until} | {until}):
            if boundary - self._now < TINY:
                continue
            found += self._take(self._now, boundary)
            self._now = boundary
        self._open = [window for window in self._open if window[1] - self._now >= TINY]
        return sorted(found, key=self.order)

    def _take(self, start: float, end: float) -> list[Event]:
        middle = (start + end) / 2
        covering = [probabilities for first, last, probabilities in self._open if first <= middle < last]
        found: list[Event] = []
        if not covering:
            for track in self._tracks:
                found += track.end_run(end, self._policy)
            return found
        mean = np.mean(covering, axis=0)
        for track in self._tracks:
            found += track.add(start, end, float(mean[track.column]), self._policy)
        return found
