"""Is it right about cries? Out of fold, in noise and over hours, beside MFCC statistics and a rule of pitch.

    crycli prepare recordings/labels.csv -o DATA --folds 5
    crycli train DATA --config recipes/detector.yaml --folds 5 -o RUNS
    python benchmarks/detector.py DATA RUNS [--doubtful recordings/doubtful.csv]
        [--heldout recordings/heldout.csv -m detector]

DATA bears the labels cry and not_cry and the columns kind (laughter, speech, music, ...) and source. Each clip is
answered by the run of its fold, which has learnt nothing of its group, in the windows of recipes/detector.yaml; the
highest probability of a cry in any of them counts. The two other methods, those of mfcc.py, learn from all clips
outside the fold.

Printed, with intervals of 95% from bootstrap samples of whole groups:

- the AUC of cries against others. Copies of cries that recipes/corpora.py has widened or narrowed are counted apart,
  and so are the folds, clips shorter than 4 s, and what holds nothing above 4 kHz by the manifest;
- the share of each kind that is called a cry at the threshold at which 90% of all cries are, out of fold; each method
  has its own. The same of clips of 4 s and more alone, and at 0.5. What is recorded and what is synthesised (of the
  corpus synthetic) are counted apart too: a generator that is left out is a cousin of those that were learnt from;
- what is found in noise at that threshold: each cry with a noise of the same fold, of a kind drawn from household,
  noise, speech and music, at a ratio of the mean powers of both; and the AUC of these against such noises alone;
- false alarms an hour at that threshold: events, as `crycli predict --events` finds them, in the clips of a kind and
  fold one after the other as one recording;
- with --doubtful, recordings that are labelled cry and may hold none, from which no run has learnt: how many are called
  a cry by the run of their group's fold, and the AUC of everything if each counts as a cry;
- with --heldout, recordings of an origin from which nothing was learnt: the answers of the model -m, and of the two
  other methods having learnt from all of DATA. The thresholds are the same. Each recording is a group by itself.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from mfcc import METHODS, NAMES, RATE, Flags, Floats, hear, hear_clips, labels_of, learn, load

from crycli import bootstrap, metrics
from crycli.audio import Excerpt, Samples
from crycli.bootstrap import OUTSIDE
from crycli.config import Config, load_config
from crycli.events import OFFSET_SHARE, EventPolicy, find_events
from crycli.inference import Predictor, load_predictor
from crycli.manifest import PARTS, Clip, read_manifest
from crycli.predictions import Windows

Names = npt.NDArray[np.str_]

RECALL = 0.9
NOISES = ("household", "noise", "speech", "music")
"""Kinds that cries are mixed with."""
SNRS = (20, 10, 5, 0)  # dB
HOURS_OF = ("speech", "music", "household", "noise")
"""Kinds of which recordings are made to count false alarms."""
SYNTHESISED = "synthetic"  # the corpus
MADE = re.compile(r", (widened|narrowed)$")  # at the end of a source
SHORT_SECONDS = 4.0  # recipes/corpora.py cuts shorter ones at the loudest moment: of a cry it may be anything
NARROW_HZ = 4500.0  # nothing above: as 8 kHz sounds; DonateACry has nothing else
HALF = np.full(len(METHODS), 0.5)
DRAWS = 2000  # bootstrap samples
RECIPE = Path(__file__).parent.parent / "recipes" / "detector.yaml"


@dataclass(frozen=True)
class Recording:
    """Clips one after the other.

    Attributes:
        windows: what the detector says, (windows, 2) in the order of `NAMES`.
        ends: of each clip, in seconds.
        groups: of each clip.
    """

    windows: Windows
    ends: list[float]
    groups: list[str]


@dataclass
class Answers:
    """What the methods say: the probability of a cry, NaN where there is no answer.

    Attributes:
        clips: (clips, methods).
        doubtful: (doubtful clips, methods).
        mixtures: of each ratio in dB the numbers of the clips with the cries, and (methods,) each.
        recordings: of each kind one a fold.
    """

    clips: Floats
    doubtful: Floats
    mixtures: dict[int, list[tuple[int, Floats]]] = field(default_factory=lambda: defaultdict(list))
    recordings: dict[str, list[Recording]] = field(default_factory=lambda: defaultdict(list))


def main() -> None:
    """Answer for all clips, mixtures and recordings fold by fold, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that `crycli prepare --folds` wrote")
    parser.add_argument("runs", type=Path, help="a folder that `crycli train --folds` wrote")
    parser.add_argument("--doubtful", type=Path, help="a CSV with path, label and group")
    parser.add_argument("--heldout", type=Path, help="a CSV with path, label and kind")
    parser.add_argument("-m", "--model", help="what answers for --heldout")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of crycli")
    parser.add_argument("--seed", type=int, default=0, help="of the noises that are drawn")
    arguments = parser.parse_args()
    if (arguments.heldout is None) != (arguments.model is None):
        parser.error("--heldout needs -m, and -m --heldout")
    config = load_config(RECIPE, arguments.set)
    clips = [clip for part in PARTS for clip in read_manifest(arguments.data / f"{part}.csv")]
    features = hear_clips(clips, config)
    doubtful = with_folds(read_manifest(arguments.doubtful), clips) if arguments.doubtful else []
    answers = answer_folds(clips, doubtful, features, arguments.runs, config, np.random.default_rng(arguments.seed))
    thresholds = find_thresholds(labels_of(clips) == 0, answers.clips)
    print_clips(clips, answers.clips, thresholds)
    print_noise(clips, answers, thresholds)
    print_alarms(answers.recordings, float(thresholds[0]))
    print_unanswered(clips, answers.clips)
    if doubtful:
        print_doubtful(clips, doubtful, answers, thresholds)
    if arguments.heldout:
        known = np.flatnonzero(np.isfinite(features).all(axis=1))
        others = read_manifest(arguments.heldout)
        found = np.full((len(others), len(METHODS)), np.nan)
        found[:, 0] = answer(load_predictor(arguments.model, config), others)
        found[:, 1:] = learn(features[known], labels_of(clips)[known], hear_clips(others, config))
        print_heldout(others, found, thresholds)


def kind_of(clip: Clip) -> str:
    """Its kind; its label where the manifest has none."""
    return clip.extra.get("kind") or clip.label


def origin_of(clip: Clip) -> str:
    """Its corpus, and what was done to it."""
    made = MADE.search(clip.extra.get("source", ""))
    return f"{clip.corpus}, {made[1]}" if made else clip.corpus


def with_folds(doubtful: Sequence[Clip], clips: Sequence[Clip]) -> list[Clip]:
    """The doubtful clips with the fold of their group; the first one where all clips of it are doubtful."""
    folds = {clip.group: clip.fold for clip in clips if clip.fold}
    return [replace(clip, fold=folds.get(clip.group, min(folds.values()))) for clip in doubtful]


def answer_folds(
    clips: Sequence[Clip],
    doubtful: Sequence[Clip],
    features: Floats,
    runs: Path,
    config: Config,
    generator: np.random.Generator,
) -> Answers:
    """What the methods say of clips, mixtures and recordings from whose groups they have learnt nothing."""
    answers = Answers(np.full((len(clips), len(METHODS)), np.nan), np.full((len(doubtful), len(METHODS)), np.nan))
    heard_doubtful = hear_clips(doubtful, config) if doubtful else features[:0]
    truth, readable = labels_of(clips), np.flatnonzero(np.isfinite(features).all(axis=1))
    for fold in sorted({clip.fold for clip in clips if clip.fold}):
        print(f"fold {fold} ...", file=sys.stderr, flush=True)
        own = [number for number, clip in enumerate(clips) if clip.fold == fold]
        refuse_learnt({clips[number].group for number in own}, runs / f"fold-{fold}")
        predictor = load_predictor(str(runs / f"fold-{fold}"), config)
        answers.clips[own, 0] = answer(predictor, [clips[number] for number in own])
        rest, whole = np.setdiff1d(readable, own), np.intersect1d(readable, own).tolist()
        which, said, heard = [], [], []
        for number, snr, samples in mix(clips, whole, generator):
            which.append((number, snr))
            said.append(answer_samples(predictor, samples))
            heard.append(hear(samples))
        also = [number for number, clip in enumerate(doubtful) if clip.fold == fold]
        answers.doubtful[also, 0] = answer(predictor, [doubtful[number] for number in also])
        others = learn(features[rest], truth[rest], np.stack([*features[own], *heard_doubtful[also], *heard]))
        own_others, also_others, mixed_others = np.split(others, [len(own), len(own) + len(also)])
        answers.clips[own, 1:], answers.doubtful[also, 1:] = own_others, also_others
        for (number, snr), first, further in zip(which, said, mixed_others, strict=True):
            answers.mixtures[snr].append((number, np.array([first, *further])))
        for kind in HOURS_OF:
            some = [clips[number] for number in whole if kind_of(clips[number]) == kind]
            if some:
                answers.recordings[kind].append(answer_recording(predictor, some))
    return answers


def refuse_learnt(groups: set[str], run: Path) -> None:
    """Stop where a run has learnt from a group that it is to answer for."""
    learnt = {clip.group for part in ("train", "validation") for clip in read_manifest(run / "data" / f"{part}.csv")}
    if learnt & groups:
        raise SystemExit(f"{run} was made from another split: it has learnt from the group {min(learnt & groups)}")


def answer(predictor: Predictor, clips: Sequence[Clip]) -> Floats:
    """(clips,) the highest probability of a cry in any window; NaN where there is no answer."""
    column = predictor.labels.index(NAMES[0])
    found = predictor.predict(Excerpt(clip.path, clip.start, clip.end) for clip in clips)
    return np.array([np.nan if one.windows is None else one.windows.probabilities[:, column].max() for one in found])


def answer_samples(predictor: Predictor, samples: Samples) -> float:
    """The same of a sound in memory."""
    column = predictor.labels.index(NAMES[0])
    return max(float(probabilities[column]) for _, _, probabilities in predictor.live([samples], RATE))


def answer_recording(predictor: Predictor, clips: Sequence[Clip]) -> Recording:
    """The answers for clips one after the other as one recording."""
    ends: list[float] = []

    def blocks() -> Iterator[Samples]:
        for clip in clips:
            samples = load(clip)
            ends.append((ends[-1] if ends else 0.0) + len(samples) / RATE)
            yield samples

    starts, stops, probabilities = zip(*predictor.live(blocks(), RATE), strict=True)
    column = predictor.labels.index(NAMES[0])
    of_cry = np.stack(probabilities)[:, column]
    windows = Windows(np.array(starts), np.array(stops), np.stack([of_cry, 1.0 - of_cry], axis=1))
    return Recording(windows, ends, [clip.group for clip in clips])


def mix(
    clips: Sequence[Clip], own: Sequence[int], generator: np.random.Generator
) -> Iterator[tuple[int, int, Samples]]:
    """Each cry of a fold with one noise of it, at each ratio: its number, the ratio in dB, (samples,)."""
    noises = [[clips[number] for number in own if kind_of(clips[number]) == kind] for kind in NOISES]
    noises = [some for some in noises if some]  # each kind is as likely
    for number in own if noises else []:
        if clips[number].label != NAMES[0]:
            continue
        some = noises[generator.integers(len(noises))]
        cry, noise = load(clips[number]), load(some[generator.integers(len(some))])
        noise = np.resize(noise, len(cry))  # repeated where it is shorter
        scale = np.sqrt(np.mean(cry**2) / max(float(np.mean(noise**2)), 1e-12))
        for snr in SNRS:
            yield number, snr, cry + noise * np.float32(scale * 10 ** (-snr / 20))


def find_thresholds(cries: Flags, found: Floats) -> Floats:
    """(methods,) the highest at which each finds 90% of the cries, (clips,)."""
    return np.asarray(np.nanquantile(found[cries], 1.0 - RECALL, axis=0, method="lower"))


def print_clips(clips: Sequence[Clip], found: Floats, thresholds: Floats) -> None:
    """The AUCs, and what is called a cry."""
    cries, groups = labels_of(clips) == 0, np.array([clip.group for clip in clips])
    print_header("AUC, cries against others")
    for name, chosen in sets_to_tell_apart(clips).items():
        print_auc(name, cries[chosen], groups[chosen], found[chosen])
    parts, short = sets_by_label(clips), are_short(clips)
    kinds_too = parts | sets_by_kind(clips)
    long_ones = {name: chosen & ~short for name, chosen in kinds_too.items() if (chosen & ~short).any()}
    for title, limits, some in (
        ("90% of cries found", thresholds, kinds_too),
        (f"the same, of {SHORT_SECONDS:g} s and more", find_thresholds(cries & ~short, found), long_ones),
        ("at 0.5", HALF, parts),
    ):
        print_header(f"called a cry, {title}", limits)
        for name, chosen in some.items():
            print_shares(name, groups[chosen], found[chosen], limits)


def are_short(clips: Sequence[Clip]) -> Flags:
    """(clips,), which last less than `SHORT_SECONDS`."""
    return np.array([clip.seconds is not None and clip.seconds < SHORT_SECONDS for clip in clips])


def are_recorded(clips: Sequence[Clip]) -> Flags:
    """(clips,), which are not synthesised."""
    return np.array([clip.corpus != SYNTHESISED for clip in clips])


def sets_to_tell_apart(clips: Sequence[Clip]) -> dict[str, Flags]:
    """The sets of clips in which cries are told from others, by name, each (clips,)."""
    cries, short = labels_of(clips) == 0, are_short(clips)
    kind, origin = np.array([kind_of(clip) for clip in clips]), np.array([origin_of(clip) for clip in clips])
    folds = np.array([clip.fold or 0 for clip in clips])
    recorded, long = are_recorded(clips), f"of {SHORT_SECONDS:g} s and more"
    sets = {"everything": cries | ~cries, "everything recorded": recorded}
    sets |= {f"everything {long}": ~short, f"everything recorded, {long}": recorded & ~short}
    sets |= {f"everything under {SHORT_SECONDS:g} s": short}
    official = "ESC-10, its official folds"
    sets |= {official: origin == "esc10", f"{official}, {long}": (origin == "esc10") & ~short}
    sets |= {f"fold {fold}": folds == fold for fold in sorted(set(folds[folds > 0].tolist()))}
    sets |= {f"{name} against all": np.where(cries, origin == name, True) for name in sorted(set(origin[cries]))}
    wide = np.array([(clip.bandwidth_hz or 0.0) > NARROW_HZ for clip in clips])
    for name, side in (("to 4 kHz", ~wide), ("above", wide)):
        for other, others in (("to 4 kHz", ~wide), ("above", wide)):
            sets[f"cries {name}, others {other}"] = np.where(cries, side, others)
    given = np.char.startswith(origin, "donateacry")
    return sets | {
        f"donateacry against {name}": np.where(cries, given, kind == name) for name in sorted(set(kind[~cries]))
    }


def sets_by_label(clips: Sequence[Clip]) -> dict[str, Flags]:
    """The cries, those of each origin, the others, and the short ones of both, by name, each (clips,)."""
    cries, short = labels_of(clips) == 0, are_short(clips)
    origin = np.array([origin_of(clip) for clip in clips])
    of_origins = {f"cries, {name}": cries & (origin == name) for name in sorted(set(origin[cries]))}
    under = f"under {SHORT_SECONDS:g} s"
    return {
        "all cries": cries,
        **of_origins,
        "others": ~cries,
        f"cries {under}": cries & short,
        f"others {under}": ~cries & short,
    }


def sets_by_kind(clips: Sequence[Clip]) -> dict[str, Flags]:
    """The others by their kind, and where there are both by whether they are recorded or made, each (clips,)."""
    others, recorded = labels_of(clips) != 0, are_recorded(clips)
    kind = np.array([kind_of(clip) for clip in clips])
    sets = {name: others & (kind == name) for name in sorted(set(kind[others]))}
    for name, chosen in [("others", others), *sets.items()]:
        both = {f"{name}, recorded": chosen & recorded, f"{name}, synthesised": chosen & ~recorded}
        sets |= both if all(some.any() for some in both.values()) else {}
    return sets


def print_noise(clips: Sequence[Clip], answers: Answers, thresholds: Floats) -> None:
    """How many cries are found in noise, and their AUCs against the noises alone."""
    groups = np.array([clip.group for clip in clips])
    alone = np.array([clip.label != NAMES[0] and kind_of(clip) in NOISES for clip in clips])
    rows: dict[str, tuple[Names, Floats]] = {}
    for snr, mixtures in answers.mixtures.items():
        of_cries = groups[[number for number, _ in mixtures]]
        rows[f"{snr} dB"] = of_cries, np.stack([values for _, values in mixtures])
    print_header("called a cry, in noise", thresholds)
    for name, (of_cries, found) in rows.items():
        print_shares(name, of_cries, found, thresholds)
    print_header("AUC, cries in noise against noise alone")
    for name, (of_cries, found) in rows.items():
        cries = np.arange(len(found) + alone.sum()) < len(found)
        print_auc(name, cries, np.concatenate([of_cries, groups[alone]]), np.concatenate([found, answers.clips[alone]]))


def print_alarms(recordings: Mapping[str, Sequence[Recording]], threshold: float) -> None:
    """Events an hour in recordings without a cry."""
    policy = EventPolicy((NAMES[0],), onset=threshold, offset=threshold * OFFSET_SHARE)
    print(f"\n{f'false alarms an hour of crycli at {threshold:.3f}':46}{'hours':>8}{'groups':>8}{'alarms':>8}")
    for kind, some in recordings.items():
        seconds: dict[str, float] = defaultdict(float)
        alarms: dict[str, int] = defaultdict(int)
        for recording in some:
            for group, length in zip(recording.groups, np.diff(recording.ends, prepend=0.0), strict=True):
                seconds[group] += length
            for event in find_events(recording.windows, NAMES, policy):
                place = min(int(np.searchsorted(recording.ends, event.peak_at)), len(recording.ends) - 1)
                alarms[recording.groups[place]] += 1
        counts, hours = np.array([alarms[group] for group in seconds]), np.array(list(seconds.values())) / 3600
        cell = f"{counts.sum() / hours.sum():.1f} ({rate_interval(counts, hours)})"
        print(f"{kind:46}{hours.sum():8.2f}{len(hours):8}{counts.sum():8}{cell:>26}", flush=True)


def rate_interval(counts: npt.NDArray[np.int64], hours: Floats) -> str:
    """Of events an hour, from samples of whole groups; for no event the exact bound of a Poisson process."""
    if not counts.any():
        return f"0.0 to {-np.log(OUTSIDE) / hours.sum():.1f}"
    drawn = np.random.default_rng(0).integers(len(hours), size=(DRAWS, len(hours)))
    low, high = np.quantile(counts[drawn].sum(axis=1) / hours[drawn].sum(axis=1), [OUTSIDE, 1.0 - OUTSIDE])
    return f"{low:.1f} to {high:.1f}"


def print_doubtful(clips: Sequence[Clip], doubtful: Sequence[Clip], answers: Answers, thresholds: Floats) -> None:
    """How many of the doubtful clips are called a cry, and the AUC with them."""
    groups = np.array([clip.group for clip in doubtful])
    for title, limits in (("90% of cries found", thresholds), ("at 0.5", HALF)):
        print_header(f"called a cry, {title}", limits)
        print_shares("doubtful cries", groups, answers.doubtful, limits)
    cries = np.concatenate([labels_of(clips) == 0, np.ones(len(doubtful), bool)])
    groups = np.array([clip.group for clip in (*clips, *doubtful)])
    print_header("AUC, cries against others")
    print_auc("everything, doubtful ones as cries", cries, groups, np.concatenate([answers.clips, answers.doubtful]))


def print_heldout(clips: Sequence[Clip], found: Floats, thresholds: Floats) -> None:
    """The same of recordings of another origin, a row a kind, and the mistakes."""
    cries, kind = labels_of(clips) == 0, np.array([kind_of(clip) for clip in clips])
    groups = np.array([str(clip.path) for clip in clips])  # of one origin; each a sound of its own
    kinds = {name: ~cries & (kind == name) for name in sorted(set(kind[~cries]))}
    print_header("another origin: AUC, cries against others")
    for name, chosen in {"everything": ~cries, **kinds}.items():
        print_auc(name, cries[cries | chosen], groups[cries | chosen], found[cries | chosen])
    for title, limits in (("thresholds as above", thresholds), ("at 0.5", HALF)):
        print_header(f"another origin: called a cry, {title}", limits)
        for name, chosen in {"cries": cries, "all others": ~cries, **kinds}.items():
            print_shares(name, groups[chosen], found[chosen], limits)
    print_unanswered(clips, found)
    print(f"\nmistakes of {METHODS[0]} at {thresholds[0]:.3f} or at 0.5")
    for number in np.argsort(-found[:, 0]).tolist():
        wrong = {bool(found[number, 0] >= limit) != cries[number] for limit in (thresholds[0], 0.5)}
        if True in wrong and np.isfinite(found[number, 0]):
            print(f"{found[number, 0]:8.3f}  {kind[number]:14}{clips[number].path}")


def print_unanswered(clips: Sequence[Clip], found: Floats) -> None:
    """The clips that are in none of the figures of a method."""
    for number in np.flatnonzero(np.isnan(found).any(axis=1)).tolist():
        missing = [method for method, value in zip(METHODS, found[number], strict=True) if np.isnan(value)]
        print(f"no answer of {', '.join(missing)}: {clips[number].path}")


def print_header(title: str, thresholds: Floats | None = None) -> None:
    """A line above rows; the methods' thresholds where it is about them."""
    names = METHODS if thresholds is None else [f"{m} {t:.3f}" for m, t in zip(METHODS, thresholds, strict=True)]
    print(f"\n{title:46}{'clips':>8}{'groups':>8}" + "".join(f"{name:>26}" for name in names))


def print_auc(name: str, cries: Flags, groups: Names, found: Floats) -> None:
    """A row of AUCs; clips without an answer are left out."""
    cells = []
    for values in found.T:
        there = np.isfinite(values)
        truth, probabilities = np.where(cries[there], 0, 1), np.stack([values[there], 1.0 - values[there]], axis=1)
        if len(set(truth)) < len(NAMES):
            cells.append("-")
            continue
        predicted = probabilities.argmax(axis=1)
        value = metrics.score(NAMES, truth, probabilities).labels[NAMES[0]].auc
        drawn = bootstrap.intervals(NAMES, truth, probabilities, predicted, list(groups[there]), draws=DRAWS)
        cells.append(f"{value:.4f} ({in_words(drawn.get(f'auc/{NAMES[0]}'), '.4f')})")
    print_row(name, groups, cells)


def print_shares(name: str, groups: Names, found: Floats, thresholds: Floats) -> None:
    """A row of shares that are called a cry; clips without an answer are left out."""
    cells = []
    for values, threshold in zip(found.T, thresholds, strict=True):
        there = np.isfinite(values)
        if not there.any():
            cells.append("-")
            continue
        called = np.where(values[there] >= threshold, 0, 1)
        # The share that is called a cry is the recall of clips that are all taken to be one.
        drawn = bootstrap.intervals(NAMES, np.zeros_like(called), None, called, list(groups[there]), draws=DRAWS)
        cells.append(f"{np.mean(called == 0):.1%} ({in_words(drawn.get(f'recall/{NAMES[0]}'), '.1%')})")
    print_row(name, groups, cells)


def in_words(interval: bootstrap.Interval | None, form: str) -> str:
    """An interval; a dash where there is none, as of a single group."""
    return "-" if interval is None else f"{interval.low:{form}} to {interval.high:{form}}"


def print_row(name: str, groups: Names, cells: Sequence[str]) -> None:
    """A row of the table."""
    print(f"{name:46}{len(groups):8}{len(set(groups)):8}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
