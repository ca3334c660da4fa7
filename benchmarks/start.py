"""Is `mini` a better start than `mini-random`? What both learn from few labelled clips, on the same clips.

    python benchmarks/start.py DATA RUNS ESC10 -o OUT [--folds 2 --seeds 1] [--start NAME=FOLDER ...]

DATA is what `crycli prepare --folds 5` made of recordings with the labels cry and not_cry, ESC-10's official folds
among them, RUNS what `crycli train DATA --folds 5` did, ESC10 the folder of ESC-10. There are two tasks: ESC-10's ten
classes, and cry against not_cry on DATA. Fold by fold, 20, 50 and 100 clips are drawn from the other folds, as many of
each label and from as many groups as there are; a fifth of them, of groups of their own, chooses the epoch (of 20 clips
of ten classes half: one of each). The test is the fold, or 200 clips of it that are drawn in the same way.

What is called mini here is RUNS/fold-K, which has learnt from nothing in fold K; `model.backbone: mini` itself has
learnt from all folds. It has learnt, though, from the very clips that are drawn, and from thousands more, whether they
are cries: of cry against not_cry the curve shows what fine-tuning keeps of that, not what a new task takes. Each start
is trained with the pooling, at the learning rate and for the epochs that `auto` stands for (`crycli.recipe`); --start
adds further ones, which are trained like mini, and whose FOLDER may hold {fold}.

Printed are mean and standard deviation over folds and draws, and the mean gain over mini-random on the same test clips,
with an interval of 95% from bootstrap samples of whole groups within each fold. A fold and draw takes 8 minutes of a
core, half of them for each start.
"""

from __future__ import annotations

import argparse
import resource
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from crycli import bootstrap, metrics, recipe
from crycli.audio import Excerpt
from crycli.bootstrap import OUTSIDE
from crycli.config import load_config
from crycli.inference import load_predictor
from crycli.manifest import PARTS, Clip, read_manifest, write_manifest
from crycli.metrics import Probabilities
from crycli.splitting import split_off

RANDOM, MINI = "mini-random", "mini"
SIZES = (20, 50, 100)  # labelled clips
VALIDATION = 0.2  # of them
TEST_CLIPS = 200  # of a fold, at most
SCORES = ("balanced_accuracy", "macro_auc")
SECONDS = 5  # of a clip, as ESC-10's are


@dataclass
class Results:
    """What a start made of a number of clips, over folds and draws.

    Attributes:
        reports: of each run.
        truth: of each run (clips,) places in its labels.
        probabilities: of each run (clips, labels).
        groups: of each run (clips,).
        folds: of each run, that whose clips it is tested on.
        minutes: of a CPU, in all.
    """

    reports: list[metrics.Report] = field(default_factory=list)
    truth: list[metrics.Labels] = field(default_factory=list)
    probabilities: list[Probabilities] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)
    minutes: float = 0.0


def main() -> None:
    """Train from each start for each task, fold, draw and size, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that `crycli prepare --folds 5` wrote")
    parser.add_argument("runs", type=Path, help="a folder that `crycli train --folds 5` wrote")
    parser.add_argument("esc10", type=Path, help="the folder of ESC-10")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--folds", type=int, default=2, help="how many of the five are tested")
    parser.add_argument("--seeds", type=int, default=1, help="draws of labelled clips for each fold")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of labelled clips")
    parser.add_argument("--start", action="append", default=[], metavar="NAME=FOLDER", help="a further start")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of crycli")
    arguments = parser.parse_args()
    starts = {RANDOM: RANDOM, MINI: f"{arguments.runs}/fold-{{fold}}"}
    starts |= dict(start.split("=", 1) for start in arguments.start)
    data = read_clips(arguments.data)
    of_group = {clip.group: clip.fold for clip in data}  # a group that is in two official folds is put into one of them
    esc10 = read_esc10(arguments.esc10, arguments.output / "esc10")
    esc10 = [replace(clip, fold=of_group.get(clip.group, clip.fold)) for clip in esc10]
    tasks = {"ESC-10, ten classes": esc10, "cry against not_cry": data}
    gains = "".join(f"{f'gain in {score}':>34}" for score in SCORES)
    print(f"{'':22}{'clips':>6}  {'start':14}" + "".join(f"{score:>20}" for score in SCORES) + gains, end="")
    print(f"{'CPU min/run':>14}")
    for task, clips in tasks.items():
        for size in arguments.sizes:
            found = {name: Results() for name in starts}
            for fold in range(1, arguments.folds + 1):
                for seed in range(arguments.seeds):
                    labelled, test = draw_task(clips, size, fold, seed)
                    for name, folder in starts.items():
                        output = arguments.output / "runs" / f"{task[:3]}-{name}-{size}-{fold}-{seed}"
                        backbone = folder.replace("{fold}", str(fold))
                        learn(found[name], labelled, test, output, settings_of(name, backbone, arguments.set))
                        found[name].folds.append(fold)
            for name, results in found.items():
                show(task, size, name, results, found[RANDOM])


def read_clips(data: Path) -> list[Clip]:
    """The clips of all parts."""
    return [clip for part in PARTS for clip in read_manifest(data / f"{part}.csv")]


def read_esc10(recordings: Path, data: Path) -> list[Clip]:
    """ESC-10's clips with their official folds."""
    from crycli.prepare import prepare_dataset_csv

    if not (data / "train.csv").is_file():
        prepare_dataset_csv([recordings], data, load_config(None, [], {"data.folds": 5}))
    return read_clips(data)


def settings_of(name: str, backbone: str, further: Sequence[str]) -> list[str]:
    """The settings of a run: for a folder, what `auto` stands for with mini."""
    auto = load_config(None, [f"model.backbone={RANDOM if name == RANDOM else MINI}"])
    trained = [
        f"model.pooling={recipe.pooling(auto)}",
        f"model.freeze={recipe.effective_freeze(auto)}",
        f"train.learning_rate={recipe.learning_rate(auto)}",
        f"train.epochs={recipe.epochs(auto)}",
    ]
    return [f"model.backbone={backbone}", f"data.max_seconds={SECONDS}", *trained, *further]


def draw_task(clips: Sequence[Clip], size: int, fold: int, seed: int) -> tuple[list[Clip], list[Clip]]:
    """The labelled clips, of which more hold the fewer of the same fold and seed, and the test clips of the fold."""
    labelled = draw([clip for clip in clips if clip.fold != fold], size, np.random.default_rng([fold, seed]))
    return labelled, draw([clip for clip in clips if clip.fold == fold], TEST_CLIPS, np.random.default_rng(fold))


def draw(clips: Sequence[Clip], size: int, generator: np.random.Generator) -> list[Clip]:
    """So many clips: the labels in turn, and of each label the groups in turn, in an order that is drawn."""
    waiting = {}
    for label in sorted({clip.label for clip in clips}):
        groups: dict[str, list[Clip]] = defaultdict(list)
        for clip in clips:
            if clip.label == label:
                groups[clip.group].append(clip)
        order = [groups[group] for group in generator.permutation(sorted(groups))]
        most = max(map(len, order))
        waiting[label] = deque(some[turn] for turn in range(most) for some in order if turn < len(some))
    drawn: list[Clip] = []
    while len(drawn) < size and any(waiting.values()):
        drawn += [some.popleft() for some in waiting.values() if some]
    return drawn[:size]


def learn(
    results: Results, labelled: Sequence[Clip], test: Sequence[Clip], output: Path, settings: Sequence[str]
) -> None:
    """Train a run on labelled clips, test it, and add what it answers."""
    from crycli.training import train

    started = cpu_minutes()
    part_of = split_off(labelled, VALIDATION, 0)
    (output / "data").mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        chosen = test if part == "test" else [clip for clip in labelled if part_of[clip.group] == part]
        write_manifest(output / "data" / f"{part}.csv", chosen)
    config = load_config(None, settings)
    train(output / "data", output / "run", config, force=True)
    results.minutes += cpu_minutes() - started
    predictor = load_predictor(str(output / "run"), config)
    answers = list(predictor.predict(Excerpt(clip.path, clip.start, clip.end) for clip in test))
    for answer in answers:
        if answer.error:
            raise SystemExit(f"{answer.path}: {answer.error}")
    names = predictor.labels
    truth = np.array([names.index(clip.label) for clip in test])
    probabilities = np.array([answer.probabilities for answer in answers])
    results.reports.append(metrics.score(names, truth, probabilities))
    results.truth.append(truth)
    results.probabilities.append(probabilities)
    results.groups.append([clip.group for clip in test])


def show(task: str, size: int, name: str, results: Results, others: Results) -> None:
    """A row of the table."""
    cells = [f"{task:22}{size:6}  {name:14}"]
    for score in SCORES:
        values = [getattr(report, score) for report in results.reports]
        spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.3f}{spread}".rjust(20))
    gains = [describe_gain(results, others, score) if name != RANDOM else "" for score in SCORES]
    cells += [gain.rjust(34) for gain in gains]
    cells.append(f"{results.minutes / len(results.reports):.2f}".rjust(14))
    print("".join(cells), flush=True)


def describe_gain(ours: Results, theirs: Results, score: str) -> str:
    """The mean over runs of the difference of a score, and its interval.

    Runs of one fold are tested on the same clips and get the same bootstrap samples, those of different folds different
    ones: probabilities of two runs have no common scale, so that clips of both are never ranked together.
    """
    pair, values, drawn = (ours, theirs), [], []
    for run, fold in enumerate(ours.folds):
        values.append(np.subtract(*(getattr(results.reports[run], score) for results in pair)))
        names, truth, groups = list(ours.reports[run].labels), ours.truth[run], ours.groups[run]
        samples = (
            bootstrap.score_draws(names, truth, chances, chances.argmax(axis=1), groups, seed=fold, tail=tail)[score]
            for tail, chances in enumerate(results.probabilities[run] for results in pair)
        )
        drawn.append(np.subtract(*samples))
    low, high = np.nanquantile(np.mean(drawn, axis=0), [OUTSIDE, 1.0 - OUTSIDE])
    return f"{np.mean(values):+.3f} ({low:+.3f} to {high:+.3f})"


def cpu_minutes() -> float:
    """Of this process and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used) / 60


if __name__ == "__main__":
    main()
