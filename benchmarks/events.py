"""When does a baby cry? The events of the detector in recordings made of clips, out of fold.

    python benchmarks/events.py DATA RUNS [--recordings 12 --seed 1] [--set predict.event_window=4 ...]

DATA is what `crycli prepare --folds` made of recordings with the labels cry and not_cry, RUNS what `crycli train
DATA --folds` did. Of each fold, recordings are made: six cries, half of them cut to their loudest 1 to 4 s, each after
two to five other sounds as they are drawn, one after the other without a pause. That is much harder than a night, in
which little happens: of the other sounds most are there because they are taken for cries. They are answered by the run
of the fold, which has learnt nothing of its groups, twice: in the windows of recipes/detector.yaml for recordings, with
the thresholds that any model has, and in those for events.

Printed, with intervals of 95% from bootstrap samples of whole recordings:

- the cries during which there is an event, and the events an hour during which there is no cry;
- how well the times agree: twice the time that is both in a cry and in an event, by the sum of both times (F1);
- how far the first event of a cry begins from its beginning, and the last one ends from its end: the medians. A clip
  that is labelled cry holds pauses, so that neither can be perfect;
- events an hour in the sounds of a kind and fold one after the other, without a cry.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detector import DRAWS, HOURS_OF, RECIPE, kind_of, refuse_learnt
from mfcc import NAMES, RATE, load

from crycli.audio import Samples
from crycli.bootstrap import OUTSIDE
from crycli.config import load_config
from crycli.events import EventFinder
from crycli.inference import Predictor, load_predictor
from crycli.manifest import PARTS, Clip, read_manifest

CRIES = 6  # of a recording
OTHERS = (2, 5)  # before each of them, and after the last
CUT_SECONDS = (1.0, 4.0)
STEP = 0.05  # s, in which times are compared
OF_RECORDINGS, OF_EVENTS = "windows of recordings", "windows of events"
AUTO = {OF_RECORDINGS: ("predict.event_onset=auto", "predict.event_offset=auto"), OF_EVENTS: ()}
"""Settings that stand for what any model does, in each of the two ways."""

Span = tuple[float, float]  # s


@dataclass(frozen=True)
class Found:
    """What was found in a recording.

    Attributes:
        seconds: of the recording.
        cries: when there is one.
        events: when one was found.
    """

    seconds: float
    cries: list[Span]
    events: list[Span]


def main() -> None:
    """Make the recordings, find the events, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that `crycli prepare --folds` wrote")
    parser.add_argument("runs", type=Path, help="a folder that `crycli train --folds` wrote")
    parser.add_argument("--recordings", type=int, default=12, help="of each fold")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of crycli")
    given = parser.parse_args()
    configs = {way: load_config(RECIPE, [*given.set, *AUTO[way]]) for way in AUTO}
    clips = [clip for part in PARTS for clip in read_manifest(given.data / f"{part}.csv")]
    found: dict[str, list[Found]] = defaultdict(list)
    alarms: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for fold in sorted({clip.fold for clip in clips if clip.fold}):
        print(f"fold {fold} ...", file=sys.stderr, flush=True)
        own = [clip for clip in clips if clip.fold == fold]
        run = given.runs / f"fold-{fold}"
        refuse_learnt({clip.group for clip in own}, run)
        ways = {way: load_predictor(str(run), configs[way], for_events=way == OF_EVENTS) for way in AUTO}
        for number in range(given.recordings):
            parts = list(make(own, np.random.default_rng([given.seed, fold, number])))
            for way, predictor in ways.items():
                found[way].append(find(predictor, parts))
        for kind in HOURS_OF:
            some = [(load(clip), False) for clip in own if kind_of(clip) == kind]
            for way, predictor in ways.items() if some else ():
                alarms[way, kind].append(find(predictor, some))
    show(ways, found, alarms)


def make(clips: Sequence[Clip], rng: np.random.Generator) -> Iterator[tuple[Samples, bool]]:
    """The sounds of a recording, (samples,) each, and which of them are cries."""
    cries = [clip for clip in clips if clip.label == NAMES[0]]
    others = [clip for clip in clips if clip.label != NAMES[0]]

    def some_others() -> Iterator[tuple[Samples, bool]]:
        for number in rng.choice(len(others), rng.integers(OTHERS[0], OTHERS[1] + 1)):
            yield load(others[number]), False

    for number in rng.choice(len(cries), CRIES):
        yield from some_others()
        cry = load(cries[number])
        length = round(RATE * rng.uniform(*CUT_SECONDS)) if rng.random() < 0.5 else len(cry)
        yield loudest(cry, min(length, len(cry))), True
    yield from some_others()


def loudest(samples: Samples, length: int) -> Samples:
    """The part of so many samples that has the most power."""
    power = np.cumsum(np.concatenate([[0.0], np.square(samples, dtype=np.float64)]))
    start = int(np.argmax(power[length:] - power[: len(power) - length]))
    return samples[start : start + length]


def find(predictor: Predictor, parts: Iterable[tuple[Samples, bool]]) -> Found:
    """The events in sounds one after the other."""
    cries: list[Span] = []
    seconds = 0.0

    def blocks() -> Iterator[Samples]:
        nonlocal seconds
        for samples, cry in parts:
            start, seconds = seconds, seconds + len(samples) / RATE
            cries.extend([(start, seconds)] if cry else [])
            yield samples

    finder = EventFinder(predictor.labels, predictor.policy.events)
    events = [event for window in predictor.live(blocks(), RATE) for event in finder.push(*window)]
    return Found(seconds, cries, [(event.start, event.end) for event in [*events, *finder.close()]])


def touch(one: Span, other: Span) -> bool:
    """Whether two stretches of time have some in common."""
    return one[0] < other[1] and other[0] < one[1]


def recall(some: Sequence[Found]) -> float:
    """The share of cries during which there is an event."""
    return float(np.mean([any(touch(cry, event) for event in one.events) for one in some for cry in one.cries]))


def false_rate(some: Sequence[Found]) -> float:
    """Events an hour during which there is no cry."""
    events = sum(not any(touch(cry, event) for cry in one.cries) for one in some for event in one.events)
    return events / sum(one.seconds for one in some) * 3600.0


def agreement(some: Sequence[Found]) -> float:
    """F1 of the time."""
    both = total = 0
    for one in some:
        told = np.zeros((2, int(one.seconds / STEP) + 1), bool)
        for row, spans in enumerate((one.cries, one.events)):
            for start, end in spans:
                told[row, round(start / STEP) : round(end / STEP)] = True
        both += int(told.all(axis=0).sum())
        total += int(told.sum())
    return 2 * both / max(total, 1)


def edge_error(some: Sequence[Found], edge: int) -> float:
    """Seconds between an edge of a cry (0: its start, 1: its end) and that of its events: the median."""
    errors = []
    for one in some:
        for cry in one.cries:
            events = [event for event in one.events if touch(cry, event)]
            if events:
                errors.append(abs(events[-edge][edge] - cry[edge]))
    return float(np.median(errors)) if errors else np.nan


def interval(some: Sequence[Found], measure: Callable[[Sequence[Found]], float]) -> str:
    """A measure with its interval."""
    rng = np.random.default_rng(0)
    drawn = [measure([some[place] for place in rng.integers(len(some), size=len(some))]) for _ in range(DRAWS)]
    low, high = np.nanquantile(drawn, [OUTSIDE, 1.0 - OUTSIDE])
    return f"{measure(some):.3f} ({low:.3f} to {high:.3f})"


def show(ways: dict[str, Predictor], found: dict[str, list[Found]], alarms: dict[tuple[str, str], list[Found]]) -> None:
    """Print the table."""
    policies = {way: predictor.policy for way, predictor in ways.items()}
    rows: dict[str, list[str]] = {
        "window, hop, s": [f"{policy.window_seconds:g}, {policy.hop_seconds:g}" for policy in policies.values()],
        "onset, offset": [f"{policy.events.onset:g}, {policy.events.offset:g}" for policy in policies.values()],
    }
    measures: dict[str, Callable[[Sequence[Found]], float]] = {
        "cries found": recall,
        "false events an hour": false_rate,
        "times, F1": agreement,
        "start, error in s": lambda some: edge_error(some, 0),
        "end, error in s": lambda some: edge_error(some, 1),
    }
    for name, measure in measures.items():
        rows[name] = [interval(found[way], measure) for way in ways]
    for kind in HOURS_OF:
        if any((way, kind) in alarms for way in ways):
            hours = sum(one.seconds for one in alarms[next(iter(ways)), kind]) / 3600
            rows[f"events an hour of {kind} ({hours:.1f} h)"] = [f"{false_rate(alarms[way, kind]):.1f}" for way in ways]
    some = next(iter(found.values()))
    hours = sum(one.seconds for one in some) / 3600
    print(f"{len(some)} recordings, {hours:.1f} hours, {sum(len(one.cries) for one in some)} cries")
    print(f"{'':36}" + "".join(f"{way:>30}" for way in ways))
    for name, cells in rows.items():
        print(f"{name:36}" + "".join(f"{cell:>30}" for cell in cells))


if __name__ == "__main__":
    main()
