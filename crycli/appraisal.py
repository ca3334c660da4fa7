"""What answers are worth: scores with intervals, baselines, leakage, slices, calibration, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crycli import bootstrap, calibration, metrics, verdict
from crycli.answers import Answers
from crycli.baselines import Baseline, baselines
from crycli.bootstrap import Interval
from crycli.calibration import Bin, RiskCoverage
from crycli.comparing import Difference, difference
from crycli.config import Config
from crycli.leakage import Shared
from crycli.manifest import Clip
from crycli.metrics import Labels, Probabilities, Report
from crycli.progress import OnStep, silent
from crycli.slices import Slice, slices
from crycli.verdict import Verdict

COMPARED_SCORE = "balanced_accuracy"
ALWAYS_COMMONEST = "always the commonest"


@dataclass(frozen=True)
class Scores:
    """A report with the intervals of its scores, by the names that `bootstrap.score_draws` gives them."""

    report: Report
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Rival:
    """What is held against the classifier on the same clips.

    Attributes:
        name: a baseline or another classifier.
        scores: its own.
        difference: the classifier's balanced accuracy minus its own, paired.
        met: clips that another classifier has met, or others of their groups; None where it does not say, and for
            baselines.
    """

    name: str
    scores: Scores
    difference: Difference
    met: int | None = None


@dataclass(frozen=True)
class Leakage:
    """Clips that the classifier has met, or whose baby or source it has.

    Attributes:
        groups: part of the training ("train", "validation") to the groups shared with it, named as in the manifest.
        clips: clips concerned.
        without: the scores of the other clips; None where none is left, or none is concerned.
    """

    groups: dict[str, list[str]]
    clips: int
    without: Scores | None


@dataclass(frozen=True)
class Appraisal:
    """What answers are worth.

    Attributes:
        answers: what was appraised.
        scores: over all clips.
        rivals: baselines, the strongest last.
        verdict: one sentence, and what it rests on.
        leakage: None where the classifier does not say what it was trained on.
        slices: scores by slice, the weakest first within each attribute.
        reliability: confidence against accuracy; empty where there are no probabilities.
        reliability_before: the same without the temperature; empty where there was none.
        risk_coverage: errors over the share of clips answered; None where there are no probabilities.
    """

    answers: Answers
    scores: Scores
    rivals: tuple[Rival, ...]
    verdict: Verdict
    leakage: Leakage | None
    slices: tuple[Slice, ...]
    reliability: tuple[Bin, ...]
    reliability_before: tuple[Bin, ...]
    risk_coverage: RiskCoverage | None


def score(answers: Answers, config: Config) -> Scores:
    """The scores of answers, with intervals over groups."""
    given = (answers.names, answers.truth, answers.probabilities)
    report = metrics.score(*given, answers.groups, answers.predicted)
    draws, seed = config.eval.draws, config.data.seed
    return Scores(
        report,
        bootstrap.intervals(*given, answers.predicted, answers.groups, draws=draws, seed=seed),
    )


def appraise(
    answers: Answers,
    config: Config,
    *,
    train: Sequence[Clip] = (),
    by_fold: bool = False,
    shared: Shared | None = None,
    on_step: OnStep = silent,
) -> Appraisal:
    """Appraise answers.

    Args:
        answers: of a classifier, at least one.
        config: `eval` and `data.seed`.
        train: the clips that the baselines learn from; without them there are none.
        by_fold: whether the baselines learn, for the clips of each fold, from those of `train` in the other ones.
        shared: what of the clips the classifier has met; None where it is not known.
        on_step: told of the progress.
    """
    scores = score(answers, config)
    rivals = tuple(_rivals(answers, config, train, by_fold, on_step))
    chance = verdict.permutation_p(
        answers.names,
        answers.truth,
        answers.predicted,
        answers.groups,
        draws=config.eval.draws,
        seed=config.data.seed,
    )
    judged = verdict.judge(scores.report, scores.intervals, chance, {rival.name: rival.difference for rival in rivals})
    reliability: tuple[Bin, ...] = ()
    before: tuple[Bin, ...] = ()
    curve = None
    if answers.probabilities is not None and answers.confidence is not None:
        reliability = tuple(calibration.reliability(answers.probabilities, answers.predicted, answers.truth))
        curve = calibration.risk_coverage(answers.confidence, answers.predicted == answers.truth)
        if answers.uncalibrated is not None:
            before = tuple(calibration.reliability(answers.uncalibrated, answers.predicted, answers.truth))
    return Appraisal(
        answers,
        scores,
        rivals,
        judged,
        _leakage(answers, shared, config),
        tuple(
            slices(
                answers.clips,
                answers.names,
                answers.truth,
                answers.probabilities,
                answers.predicted,
                draws=config.eval.draws,
                seed=config.data.seed,
            )
        ),
        reliability,
        before,
        curve,
    )


def against(answers: Answers, other: Answers, config: Config) -> Difference:
    """The balanced accuracy of answers minus that of others about the same clips."""
    return difference(
        answers.names,
        answers.truth,
        answers.predicted,
        other.predicted,
        answers.groups,
        score=COMPARED_SCORE,
        draws=config.eval.draws,
        seed=config.data.seed,
    )


def _rivals(answers: Answers, config: Config, train: Sequence[Clip], by_fold: bool, on_step: OnStep) -> list[Rival]:
    if not train:
        return []
    if by_fold:
        found = _baselines_by_fold(answers, config, train, on_step)
    else:
        found = baselines(train, answers.clips, answers.names, config, on_step)
    rivals = []
    for baseline in found:
        repeated = answers.repeat(baseline.times)
        probabilities = np.tile(baseline.probabilities, (baseline.times, 1))
        guessed = replace(repeated, predicted=baseline.predicted, probabilities=probabilities)
        paired = against(repeated, guessed, config)
        if baseline.times > 1:  # the mean of many cannot be exchanged with an answer: with ten clips 17% false at 5%
            paired = replace(paired, p_mcnemar=None)
        rivals.append(Rival(baseline.name, score(guessed, config), paired))
    return rivals


def _baselines_by_fold(answers: Answers, config: Config, train: Sequence[Clip], on_step: OnStep) -> list[Baseline]:
    """The baselines' answers, each clip's from those that have learnt from the other folds."""
    predicted: dict[str, list[tuple[Labels, Labels]]] = {}
    probabilities: dict[str, Probabilities] = {}
    fold_of = np.array([clip.fold or 0 for clip in answers.clips])
    for fold in np.unique(fold_of):
        inside = np.flatnonzero(fold_of == fold)
        others = [clip for clip in train if clip.fold != fold]
        asked = [answers.clips[number] for number in inside]
        for baseline in baselines(others, asked, answers.names, config, on_step):
            name = ALWAYS_COMMONEST if baseline.name.startswith("always ") else baseline.name
            predicted.setdefault(name, []).append((inside, baseline.predicted.reshape(baseline.times, -1)))
            empty = np.zeros((len(fold_of), len(answers.names)))
            probabilities.setdefault(name, empty)[inside] = baseline.probabilities
    found = []
    for name, parts in predicted.items():
        if sum(len(inside) for inside, _ in parts) < len(fold_of):  # nothing could be learnt in one of the folds
            continue
        times = min(len(answered) for _, answered in parts)
        together = np.zeros((times, len(fold_of)), dtype=np.int64)
        for inside, answered in parts:
            together[:, inside] = answered[:times]
        found.append(Baseline(name, together.ravel(), probabilities[name], times))
    return found


def _leakage(answers: Answers, shared: Shared | None, config: Config) -> Leakage | None:
    if shared is None or not shared.known:
        return None
    met = np.asarray(shared.clips, dtype=np.bool_)
    without = score(answers.select(~met), config) if met.any() and not met.all() else None
    return Leakage({part: sorted(groups) for part, groups in shared.groups.items()}, int(met.sum()), without)
