"""Scores: equal to scikit-learn's wherever that defines them, None where nothing does."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sklearn_metrics

from crycli.metrics import Labels, Probabilities, Report, of_one_group, remark, score

Table = tuple[list[str], Labels, Probabilities]


@strategies.composite
def tables(draw: strategies.DrawFn) -> Table:
    """Label names, true labels and probabilities with many ties; labels may be missing, and so may all but one."""
    count, clips = draw(strategies.integers(2, 5)), draw(strategies.integers(1, 25))
    borne = draw(strategies.lists(strategies.integers(0, count - 1), min_size=1, unique=True))
    truth = np.array(draw(strategies.lists(strategies.sampled_from(borne), min_size=clips, max_size=clips)))
    parts = draw(arrays.arrays(np.int64, (clips, count), elements=strategies.integers(1, 6))).astype(np.float64)
    return [f"label {index}" for index in range(count)], truth, parts / parts.sum(axis=1, keepdims=True)


def strict(
    names: list[str], truth: Labels, probabilities: Probabilities | None, predicted: Labels | None = None
) -> Report:
    """The scores, with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return score(names, truth, probabilities, predicted=predicted)


def answers(*indices: int, labels: int = 3, confidence: float = 0.8) -> Probabilities:
    """Probabilities that give these answers."""
    rest = (1 - confidence) / (labels - 1)
    return np.array([[confidence if column == index else rest for column in range(labels)] for index in indices])


def defined(value: float | None) -> float:
    """NaN for None, as scikit-learn says it."""
    return math.nan if value is None else value


@given(table=tables())
@settings(max_examples=40, deadline=None)
def test_the_overall_scores_are_those_of_scikit_learn(table: Table) -> None:
    names, truth, probabilities = table
    report = strict(*table)
    predicted, borne = probabilities.argmax(axis=1), np.unique(truth)
    assert report.clips == len(truth)
    assert report.accuracy == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    recall = sklearn_metrics.recall_score(truth, predicted, labels=borne, average="macro", zero_division=0)
    assert report.balanced_accuracy == pytest.approx(recall)
    for average, value in {"macro": report.macro_f1, "weighted": report.weighted_f1}.items():
        f1 = sklearn_metrics.f1_score(truth, predicted, labels=borne, average=average, zero_division=0)
        assert value == pytest.approx(f1), average
    assert report.log_loss == pytest.approx(
        sklearn_metrics.log_loss(truth, probabilities, labels=np.arange(len(names)))
    )
    expected = sklearn_metrics.confusion_matrix(truth, predicted, labels=np.arange(len(names)))
    np.testing.assert_array_equal(report.confusion, expected)


@given(table=tables())
@settings(max_examples=40, deadline=None)
def test_the_scores_of_each_label_are_those_of_scikit_learn(table: Table) -> None:
    names, truth, probabilities = table
    report = strict(*table)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        truth, probabilities.argmax(axis=1), labels=np.arange(len(names)), zero_division=np.nan
    )
    for index, name in enumerate(names):
        entry = report.labels[name]
        assert entry.support == support[index]
        assert defined(entry.precision) == pytest.approx(precision[index], nan_ok=True)
        assert defined(entry.recall) == pytest.approx(recall[index], nan_ok=True)
        if support[index]:
            assert entry.f1 == pytest.approx(np.nan_to_num(f1[index]))
        else:
            assert entry.f1 is None
        if 0 < support[index] < len(truth):
            auc = sklearn_metrics.roc_auc_score(truth == index, probabilities[:, index])
            assert entry.auc == pytest.approx(auc)
            precision_over_recall = sklearn_metrics.average_precision_score(truth == index, probabilities[:, index])
            assert entry.average_precision == pytest.approx(precision_over_recall)
        else:
            assert entry.auc is entry.average_precision is None


@given(table=tables())
@settings(max_examples=40, deadline=None)
def test_the_agreement_beyond_chance_is_that_of_scikit_learn(table: Table) -> None:
    _, truth, probabilities = table
    report, predicted = strict(*table), probabilities.argmax(axis=1)
    if len(set(truth)) == 1:
        assert report.matthews is report.kappa is None
    else:
        assert report.matthews == pytest.approx(sklearn_metrics.matthews_corrcoef(truth, predicted))
        assert report.kappa == pytest.approx(sklearn_metrics.cohen_kappa_score(truth, predicted))


@given(table=tables())
@settings(max_examples=40, deadline=None)
def test_the_scores_of_probabilities_are_those_of_a_closed_form(table: Table) -> None:
    _, truth, probabilities = table
    report = strict(*table)
    squares = [
        sum((p - (index == label)) ** 2 for index, p in enumerate(row))
        for label, row in zip(truth, probabilities.tolist(), strict=True)
    ]
    assert report.brier == pytest.approx(np.mean(squares))
    bins: dict[int, list[tuple[float, bool]]] = {}
    for label, row in zip(truth, probabilities.tolist(), strict=True):
        bin_of = next(upper for upper in range(1, 11) if max(row) <= upper / 10 or upper == 10)
        bins.setdefault(bin_of, []).append((max(row), row.index(max(row)) == label))
    error = sum(len(held) * abs(float(np.subtract(*np.mean(held, axis=0)))) for held in bins.values()) / len(truth)
    assert report.calibration_error == pytest.approx(error)


@given(table=tables(), seed=strategies.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_given_answers_count_instead_of_the_likeliest_labels(table: Table, seed: int) -> None:
    names, truth, probabilities = table
    predicted = np.random.default_rng(seed).integers(len(names), size=len(truth))
    alone, both = strict(names, truth, None, predicted), strict(names, truth, probabilities, predicted)
    likeliest = strict(names, truth, probabilities)
    assert alone.confusion == both.confusion
    assert both.accuracy == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    assert (alone.matthews, alone.kappa, alone.macro_f1) == (both.matthews, both.kappa, both.macro_f1)
    assert (both.macro_auc, both.log_loss, both.brier) == (likeliest.macro_auc, likeliest.log_loss, likeliest.brier)
    of_probabilities = ("macro_auc", "macro_average_precision", "log_loss", "brier", "calibration_error")
    assert {getattr(alone, name) for name in of_probabilities} == {None}
    assert {value for entry in alone.labels.values() for value in (entry.auc, entry.average_precision)} == {None}
    json.dumps(asdict(alone), allow_nan=False)


def test_the_confidence_is_the_probability_of_the_answer() -> None:
    table = np.array([[0.9, 0.1], [0.8, 0.2]])
    report = strict(["a", "b"], np.array([0, 1]), table, np.array([0, 1]))
    assert report.calibration_error == pytest.approx((0.1 + 0.8) / 2)


def test_scores_need_probabilities_or_answers() -> None:
    with pytest.raises(ValueError, match="neither probabilities nor answers"):
        score(["a", "b"], np.array([0, 1]), None)


def test_a_perfect_and_certain_answer_has_no_loss_of_minus_zero() -> None:
    report = strict(["a", "b"], np.array([0, 1]), np.eye(2))
    assert [str(value) for value in (report.log_loss, report.brier, report.calibration_error)] == ["0.0"] * 3
    assert (report.matthews, report.kappa, report.macro_average_precision) == (1.0, 1.0, 1.0)


def test_answers_that_are_all_the_same_agree_by_chance_alone() -> None:
    report = strict(["a", "b"], np.array([0, 0, 1]), answers(0, 0, 0, labels=2))
    assert (report.matthews, report.kappa) == (0.0, 0.0)


@given(table=tables())
@settings(max_examples=25, deadline=None)
def test_nothing_is_nan_and_every_share_lies_between_0_and_1(table: Table) -> None:
    report = strict(*table)
    json.dumps(asdict(report), allow_nan=False)
    shares = [report.accuracy, report.balanced_accuracy, report.macro_f1, report.weighted_f1, report.commonest_accuracy]
    assert report.calibration_error is not None
    shares.append(report.calibration_error)
    assert all(0.0 <= share <= 1.0 for share in shares)
    assert remark(report).endswith(".")


@given(table=tables(), seed=strategies.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_clips_does_not_matter(table: Table, seed: int) -> None:
    names, truth, probabilities = table
    order = np.random.default_rng(seed).permutation(len(truth))
    first, second = strict(*table), strict(names, truth[order], probabilities[order])
    assert first.confusion == second.confusion
    assert first.log_loss == pytest.approx(second.log_loss)
    assert [defined(entry.auc) for entry in first.labels.values()] == pytest.approx(
        [defined(entry.auc) for entry in second.labels.values()], nan_ok=True
    )


def test_the_macro_auc_and_average_precision_are_means_over_the_labels_that_have_one() -> None:
    truth = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.4, 0.5, 0.1], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    report = strict(["a", "b", "unheard"], truth, probabilities)
    for function, found in (
        (sklearn_metrics.roc_auc_score, report.macro_auc),
        (sklearn_metrics.average_precision_score, report.macro_average_precision),
    ):
        expected = [function(truth == index, probabilities[:, index]) for index in (0, 1)]
        assert found == pytest.approx(np.mean(expected))
    assert report.labels["unheard"].auc is None


def test_the_macro_auc_of_tied_scores_is_that_of_scikit_learn_where_all_labels_are_borne() -> None:
    generator = np.random.default_rng(0)
    truth = np.append([0, 1, 2], generator.integers(3, size=97))
    parts = generator.integers(1, 4, size=(100, 3)) + np.eye(3)[truth]
    table = parts / parts.sum(axis=1, keepdims=True)
    expected = sklearn_metrics.roc_auc_score(truth, table, multi_class="ovr", average="macro")
    assert strict(["a", "b", "c"], truth, table).macro_auc == pytest.approx(expected)


def test_a_label_that_no_clip_bears_does_not_enter_the_means() -> None:
    report = strict(["a", "b", "unheard"], np.array([0, 1]), answers(0, 1))
    assert (report.balanced_accuracy, report.macro_f1, report.chance_balanced_accuracy) == (1.0, 1.0, 0.5)
    unheard = report.labels["unheard"]
    assert (unheard.support, unheard.precision, unheard.recall, unheard.f1) == (0, None, None, None)


def test_the_labels_of_one_group_are_named() -> None:
    truth, groups = np.array([0, 0, 1, 1, 2, 2]), ["x", "y", "x", "x", "y", "z"]
    report = score(["a", "b", "c", "unheard"], truth, None, groups, truth)
    assert [entry.groups for entry in report.labels.values()] == [2, 1, 2, 0]
    assert of_one_group(report) == "'b' is of one group alone"
    alone = score(["a", "b", "c"], truth, None, ["x"] * 6, truth)
    assert of_one_group(alone) == "'a', 'b' and 'c' are of one group each"
    by_itself = score(["a", "b", "c"], truth, None, predicted=truth)
    assert (by_itself.groups, of_one_group(by_itself)) == (6, "")


def test_a_single_clip_has_scores() -> None:
    right, wrong = (
        strict(["a", "b"], np.array([1]), answers(1, labels=2)),
        strict(["a", "b"], np.array([1]), answers(0, labels=2)),
    )
    assert (right.accuracy, right.macro_f1, right.macro_auc) == (1.0, 1.0, None)
    assert (wrong.accuracy, wrong.macro_f1, wrong.macro_auc) == (0.0, 0.0, None)
    assert (right.commonest_label, right.commonest_accuracy, right.chance_balanced_accuracy) == ("b", 1.0, 1.0)


def test_a_probability_of_zero_for_the_true_label_keeps_the_log_loss_finite() -> None:
    loss = strict(["a", "b"], np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]])).log_loss
    assert loss is not None
    assert 100 < loss < math.inf


def test_the_commonest_label_is_what_the_accuracy_is_held_against() -> None:
    report = strict(["a", "b", "c"], np.array([2, 2, 2, 0]), answers(2, 2, 0, 0))
    assert (report.commonest_label, report.commonest_accuracy) == ("c", 0.75)


def test_groups_are_counted_and_each_clip_is_one_by_itself_without_them() -> None:
    truth, probabilities = np.array([0, 1, 1]), answers(0, 1, 1)
    assert score(["a", "b", "c"], truth, probabilities, ["x", "y", "x"]).groups == 2
    assert score(["a", "b", "c"], truth, probabilities).groups == 3


@pytest.mark.parametrize(
    ("truth", "answered", "words"),
    [
        ((0, 0, 1, 2), (1, 1, 1, 1), "'bee' to every clip"),
        ((1, 1, 1), (1, 1, 1), "Every clip here is 'bee'"),
        ((1, 1, 1), (1, 0, 2), "Every clip here is 'bee'"),
        ((0, 0, 1, 1), (0, 1, 0, 1), "no better than chance"),
        ((0, 0, 1, 1), (1, 1, 0, 1), "no better than chance"),
        ((0, 0, 1, 1), (0, 0, 0, 1), "0.750 where chance gives 0.500"),
        ((0, 1, 2), (0, 1, 2), "3 clips of 3 groups"),
    ],
)
def test_the_remark_says_what_the_scores_are_worth(
    truth: tuple[int, ...], answered: tuple[int, ...], words: str
) -> None:
    assert words in remark(strict(["ay", "bee", "sea"], np.array(truth), answers(*answered)))
