"""What a leaky split would have flattered: the MFCC baseline in folds by clip and in folds by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from crycli import bootstrap, metrics
from crycli.baselines import MFCC_NAME, Array, classify, features
from crycli.bootstrap import Interval
from crycli.comparing import Difference, difference
from crycli.config import Config
from crycli.errors import DataError
from crycli.manifest import Clip
from crycli.metrics import Labels, Probabilities, Report, of_one_group
from crycli.progress import OnStep, silent
from crycli.splitting import assign_folds

FOLDS = 5
SCORE = "balanced_accuracy"


@dataclass(frozen=True)
class SplitComparison:
    """The MFCC baseline's out-of-fold answers to the same clips, twice.

    Attributes:
        by_clip: its scores where clips of one group lie in several folds.
        by_group: its scores where each group lies in one fold.
        intervals_by_clip: over groups, by the names of `bootstrap.score_draws`.
        intervals_by_group: the same of the other scores.
        difference: of the balanced accuracies, by clip minus by group.
    """

    by_clip: Report
    by_group: Report
    intervals_by_clip: Mapping[str, Interval]
    intervals_by_group: Mapping[str, Interval]
    difference: Difference

    @property
    def leaks(self) -> bool:
        """Whether the interval of the difference lies above zero."""
        return self.difference.interval is not None and self.difference.interval.low > 0.0

    @property
    def sentence(self) -> str:
        """What a split by clip would have done to the scores, in plain words."""
        if self.by_group.groups == self.by_group.clips:
            return "Each clip is a group of its own: a split by clip is no other than one by group (data.group_by)."
        by_clip = _with_interval(self.by_clip.balanced_accuracy, self.intervals_by_clip.get(SCORE))
        by_group = _with_interval(self.by_group.balanced_accuracy, self.intervals_by_group.get(SCORE))
        more = _with_interval(self.difference.value, self.difference.interval)
        scores = (
            f"{MFCC_NAME} on these {self.by_group.clips:,} clips of {self.by_group.groups:,} groups has a balanced "
            f"accuracy of {by_clip} when split by clip and of {by_group} when split by group; chance is "
            f"{self.by_group.chance_balanced_accuracy:.3f}."
        )
        if self.leaks:
            return f"{scores} A split by clip leaks: it flatters by {more}."
        lone = of_one_group(self.by_group)
        why = f", and has no interval, because {lone}" if lone else ""
        return f"{scores} Whether a split by clip would flatter cannot be told: the difference is {more}{why}."


def compare_split(clips: Sequence[Clip], config: Config, on_step: OnStep = silent) -> SplitComparison:
    """Train and test the MFCC baseline in five folds by clip, then in five by group, on the same clips.

    Clips of one baby sound alike and bear like labels, so a classifier that meets the baby in training may answer by
    the baby. How far that carries shows when only the split changes. Recordings that cannot be read are left out.

    Args:
        clips: all there are, of all parts.
        config: `workers`, `cache`, `data.seed` of the folds, `eval.draws` of the intervals.
        on_step: told of the progress.

    Raises:
        DataError: too few clips can be read for two labels and two groups.
    """
    vectors, readable = features(clips, config, on_step)
    vectors, clips = vectors[readable], [clip for clip, read in zip(clips, readable, strict=True) if read]
    names = sorted({clip.label for clip in clips})
    groups = [clip.group for clip in clips]
    if len(names) < 2 or len(set(groups)) < 2:
        raise DataError(
            f"{len(clips)} readable clips of {len(names)} labels and {len(set(groups))} groups are too few to compare "
            f"splits: two labels and two groups are needed"
        )
    truth = np.array([names.index(clip.label) for clip in clips])
    folds, draws, seed = min(FOLDS, len(set(groups))), config.eval.draws, config.data.seed
    alone = len(set(groups)) == len(clips)
    apart = clips if alone else [replace(clip, group=str(number)) for number, clip in enumerate(clips)]
    reports, intervals, predicted = [], [], []
    for arranged in (apart, clips):
        fold_of = np.array([clip.fold for clip in assign_folds(arranged, folds, seed)])
        probabilities = _out_of_fold(vectors, truth, fold_of, len(names))
        answers = probabilities.argmax(axis=1)
        given = (names, truth, probabilities)
        reports.append(metrics.score(*given, groups, answers))
        intervals.append(bootstrap.intervals(*given, answers, groups, draws=draws, seed=seed))
        predicted.append(answers)
    more = difference(names, truth, predicted[0], predicted[1], groups, score=SCORE, draws=draws, seed=seed)
    return SplitComparison(reports[0], reports[1], intervals[0], intervals[1], more)


def _out_of_fold(vectors: Array, truth: Labels, fold_of: npt.NDArray[np.int64], labels: int) -> Probabilities:
    """(clips, labels): each clip's by a baseline that has learnt from the other folds."""
    probabilities = np.zeros((len(truth), labels))
    for fold in np.unique(fold_of):
        asked = fold_of == fold
        probabilities[asked] = classify(vectors[~asked], truth[~asked], vectors[asked], labels)
    return probabilities


def _with_interval(value: float, interval: Interval | None) -> str:
    return f"{value:.3f}" + ("" if interval is None else f" (95% interval {interval.low:.3f} to {interval.high:.3f})")
