"""Calibration: a confidence is worth what its clips were worth, and a threshold keeps what it was chosen for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies
from scipy.special import softmax

from crycli.calibration import (
    CALIBRATION_FILE,
    COLDEST,
    HOTTEST,
    Calibration,
    calibrate,
    clip_probabilities,
    fit_temperature,
    reliability,
    risk_coverage,
    smoothed_loss,
    threshold_for,
)
from crycli.checkpoint import read_json
from crycli.errors import CheckpointError, TrainingError
from crycli.metrics import Labels, score
from crycli.outputs import write_json

Windows = tuple[npt.NDArray[np.float64], Labels, Labels]


@strategies.composite
def windows(draw: strategies.DrawFn) -> Windows:
    """Logits, the clip of each window, and the clips' labels: one to three windows a clip, some far too sure."""
    clips, labels = draw(strategies.integers(1, 12)), draw(strategies.integers(2, 4))
    of_clip = draw(strategies.lists(strategies.integers(1, 3), min_size=clips, max_size=clips))
    clip_of_window = np.repeat(np.arange(clips), of_clip)
    generator = np.random.default_rng(draw(strategies.integers(0, 999)))
    logits = generator.normal(scale=draw(strategies.sampled_from([0.0, 0.1, 3.0, 200.0])), size=(sum(of_clip), labels))
    return logits, clip_of_window, generator.integers(labels, size=clips)


def simulated(temperature: float, clips: int, of_clip: int = 1) -> Windows:
    """Clips of which each window's softmax(logits / temperature) tells the truth about one of the windows."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=3.0, size=(clips * of_clip, 4))
    clip_of_window = np.repeat(np.arange(clips), of_clip)
    of_clips = clip_probabilities(logits, clip_of_window, clips, temperature)
    truth = (generator.random(clips)[:, None] > of_clips.cumsum(axis=1)).sum(axis=1)
    return logits, clip_of_window, np.minimum(truth, 3)


@pytest.mark.parametrize("of_clip", [1, 3])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_simulated_logits_is_found(temperature: float, of_clip: int) -> None:
    assert fit_temperature(*simulated(temperature, 4_000, of_clip)) == pytest.approx(temperature, rel=0.08)


@given(case=windows())
@settings(max_examples=30)
def test_the_loss_of_the_clips_it_was_fitted_on_never_rises_and_no_temperature_nearby_is_better(
    case: Windows,
) -> None:
    logits, clip_of_window, truth = case
    temperature = fit_temperature(*case)
    assert COLDEST <= temperature <= HOTTEST

    def loss(at: float) -> float:
        return smoothed_loss(clip_probabilities(logits, clip_of_window, len(truth), at), truth)

    others = [1.0, *(value for value in (temperature * 0.9, temperature * 1.1) if COLDEST <= value <= HOTTEST)]
    assert loss(temperature) <= min(map(loss, others)) + 1e-12


@pytest.mark.parametrize("clips", [4, 40])
@pytest.mark.parametrize("size", [0.2, 1.0, 5.0])
def test_clips_that_are_all_right_are_as_sure_as_one_wrong_clip_more_would_allow(clips: int, size: float) -> None:
    truth = np.arange(clips) % 2
    logits = np.eye(2)[truth] * size
    found = clip_probabilities(logits, np.arange(clips), clips, fit_temperature(logits, np.arange(clips), truth))
    np.testing.assert_allclose(found.max(axis=1), (clips + 1) / (clips + 2), atol=1e-3)
    assert fit_temperature(logits, np.arange(clips), 1 - truth) == pytest.approx(HOTTEST, rel=0.01)


def test_one_is_kept_where_no_temperature_changes_anything() -> None:
    assert fit_temperature(np.zeros((4, 2)), np.arange(4), np.array([0, 1, 1, 0])) == 1.0


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(TrainingError, match="not numbers"):
        fit_temperature(np.array([[0.0, np.nan]]), np.array([0]), np.array([0]))


@given(case=windows(), temperature=strategies.floats(COLDEST, HOTTEST))
def test_a_clips_probabilities_are_the_mean_over_its_windows(case: Windows, temperature: float) -> None:
    logits, clip_of_window, truth = case
    found = clip_probabilities(logits, clip_of_window, len(truth), temperature)
    for clip, row in enumerate(found):
        expected = softmax(logits[clip_of_window == clip] / temperature, axis=1).mean(axis=0)
        np.testing.assert_allclose(row, expected, atol=1e-12)


@given(case=windows())
def test_no_clip_of_one_window_gets_another_answer(case: Windows) -> None:
    logits, _, _ = case
    clips = np.arange(len(logits))
    temperature = fit_temperature(logits, clips, logits.argmin(axis=1))
    answers = clip_probabilities(logits, clips, len(logits), temperature).argmax(axis=1)
    np.testing.assert_array_equal(answers, logits.argmax(axis=1))


@given(case=windows())
def test_a_calibration_tells_how_sure_and_how_right_each_clip_is_and_survives_its_file(
    case: Windows, tmp_path_factory: pytest.TempPathFactory
) -> None:
    logits, clip_of_window, truth = case
    found = calibrate(*case)
    of_clips = clip_probabilities(logits, clip_of_window, len(truth), found.temperature)
    pairs = zip(of_clips.max(axis=1), of_clips.argmax(axis=1) == truth, strict=True)
    assert list(found.confidence) == sorted(found.confidence)
    assert sorted(zip(found.confidence, found.correct, strict=True)) == sorted(pairs)
    file = tmp_path_factory.getbasetemp() / CALIBRATION_FILE
    write_json(file, found.to_json())
    assert Calibration.from_json(read_json(file), file) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": None}, "temperature is None"),
        ({"temperature": True}, "temperature is True"),
        ({"temperature": "1.0"}, "temperature is '1.0'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"confidence": None}, "confidence is no list of numbers"),
        ({"confidence": {"0": 0.5}}, "confidence is no list of numbers"),
        ({"confidence": [0.5, "0.9"]}, "confidence is no list of numbers"),
        ({"confidence": [0.5, float("nan")]}, "confidence is no list of numbers"),
        ({"confidence": [0.9, 0.5]}, "does not ascend between 0 and 1"),
        ({"confidence": [0.9, 1.1]}, "does not ascend between 0 and 1"),
        ({"correct": None}, "correct is no list of true and false"),
        ({"correct": [1, 0]}, "correct is no list of true and false"),
        ({"correct": [True]}, "2 confidences and 1 of correct"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name_in_one_line(changes: dict[str, Any], message: str) -> None:
    content = Calibration(2.0, (0.5, 0.9), (False, True)).to_json() | changes
    with pytest.raises(CheckpointError, match=message) as caught:
        Calibration.from_json(content, Path("model") / CALIBRATION_FILE)
    assert str(caught.value).startswith(f"model/{CALIBRATION_FILE} is damaged: ")
    assert "\n" not in str(caught.value)


@given(case=windows(), bins=strategies.integers(1, 12))
def test_the_bins_of_a_reliability_diagram_hold_each_clip_once(case: Windows, bins: int) -> None:
    logits, clip_of_window, truth = case
    of_clips = clip_probabilities(logits, clip_of_window, len(truth))
    predicted = of_clips.argmax(axis=1)
    found = reliability(of_clips, predicted, truth, bins)
    assert [(entry.low, entry.high) for entry in found] == [
        pytest.approx((number / bins, (number + 1) / bins)) for number in range(bins)
    ]
    assert sum(entry.clips for entry in found) == len(truth)
    filled = [entry for entry in found if entry.clips]
    right = sum(entry.clips * (entry.accuracy or 0.0) for entry in filled)
    assert right == pytest.approx((predicted == truth).sum())
    sure = sum(entry.clips * (entry.confidence or 0.0) for entry in filled)
    assert sure == pytest.approx(of_clips.max(axis=1).sum())
    assert all(entry.low <= (entry.confidence or -1.0) <= entry.high + 1e-12 for entry in filled)
    assert all(entry.confidence is None and entry.accuracy is None for entry in found if not entry.clips)


@given(tenths=strategies.lists(strategies.integers(5, 10), min_size=1, max_size=20))
def test_the_bins_give_the_calibration_error_of_the_report(tenths: list[int]) -> None:
    confidence = np.array(tenths) / 10
    of_clips, truth = np.stack([confidence, 1 - confidence], axis=1), np.arange(len(tenths)) % 2
    found = reliability(of_clips, of_clips.argmax(axis=1), truth)
    gaps = [entry.clips * abs((entry.accuracy or 0.0) - (entry.confidence or 0.0)) for entry in found]
    assert sum(gaps) / len(truth) == pytest.approx(score(["a", "b"], truth, of_clips).calibration_error)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin_and_to_the_answer_that_was_given() -> None:
    of_clips = np.array([[0.5, 0.5], [0.0, 1.0], [0.4, 0.6], [1.0, 0.0]])
    found = reliability(of_clips, np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1]), bins=4)
    assert [entry.clips for entry in found] == [1, 2, 0, 1]
    assert [entry.confidence for entry in found] == [0.0, pytest.approx(0.45), None, 1.0]
    assert [entry.accuracy for entry in found] == [1.0, 0.5, None, 1.0]


@strategies.composite
def answered(draw: strategies.DrawFn) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Confidences with many ties, and whether each answer is right."""
    clips = draw(strategies.integers(1, 30))
    tenths = draw(strategies.lists(strategies.integers(1, 10), min_size=clips, max_size=clips))
    correct = draw(strategies.lists(strategies.booleans(), min_size=clips, max_size=clips))
    return np.array(tenths) / 10, np.array(correct)


@given(case=answered())
def test_the_risk_coverage_curve_is_that_of_a_plain_loop(
    case: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]],
) -> None:
    confidence, correct = case
    found = risk_coverage(confidence, correct)
    assert list(found.threshold) == sorted(set(confidence.tolist()), reverse=True)
    risk_of = {}
    for threshold, coverage, risk in zip(found.threshold, found.coverage, found.risk, strict=True):
        right = [hit for value, hit in zip(confidence, correct, strict=True) if value >= threshold]
        assert coverage == pytest.approx(len(right) / len(correct))
        assert risk == pytest.approx(1 - sum(right) / len(right))
        risk_of[threshold] = risk
    assert found.area == pytest.approx(np.mean([risk_of[value] for value in confidence]))


def test_a_confidence_that_tells_nothing_has_the_error_rate_as_its_area() -> None:
    found = risk_coverage(np.full(5, 0.7), np.array([True, False, True, True, False]))
    assert found.coverage == (1.0,)
    assert found.risk == (pytest.approx(0.4),)
    assert found.area == pytest.approx(0.4)


@given(case=answered(), precision=strategies.sampled_from([0.0, 0.5, 0.7, 0.9, 1.0]))
def test_the_threshold_for_a_precision_is_the_least_that_reaches_it(
    case: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]], precision: float
) -> None:
    confidence, correct = case
    threshold = threshold_for(confidence, correct, precision=precision, coverage=None)
    reaching = [value for value in confidence if correct[confidence >= value].mean() >= precision]
    assert threshold == (min(reaching) if reaching else None)


@given(case=answered(), coverage=strategies.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]))
def test_the_threshold_for_a_coverage_is_the_greatest_that_keeps_it(
    case: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]], coverage: float
) -> None:
    confidence, correct = case
    threshold = threshold_for(confidence, correct, precision=None, coverage=coverage)
    assert threshold == max(value for value in confidence if (confidence >= value).mean() >= coverage)


def test_nine_right_of_ten_are_a_precision_of_nine_tenths_to_the_bit() -> None:
    for count in range(1, 60):
        confidence, correct = np.linspace(0.5, 1.0, count), np.arange(count) > 0
        aim = float(f"{(count - 1) / count!r}")
        assert threshold_for(confidence, correct, precision=aim, coverage=None) == 0.5, count


def test_no_threshold_is_found_where_no_answer_is_right_or_there_is_none() -> None:
    assert threshold_for(np.array([0.5, 0.9]), np.array([False, False]), precision=0.1, coverage=None) is None
    assert threshold_for(np.array([]), np.array([], bool), precision=0.1, coverage=None) is None
    assert threshold_for(np.array([]), np.array([], bool), precision=None, coverage=0.5) is None


@pytest.mark.parametrize("aim", [None, 0.5])
def test_a_threshold_has_one_aim(aim: float | None) -> None:
    with pytest.raises(ValueError, match="a precision or a coverage"):
        threshold_for(np.array([0.5]), np.array([True]), precision=aim, coverage=aim)
