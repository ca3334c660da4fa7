"""Which parts of a clip moved the answer: those that are silenced and are missed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import SAMPLE_RATE

from crycli.audio import Excerpt
from crycli.checkpoint import Classifier
from crycli.explaining import occlude
from crycli.inference import Predictor
from crycli.networks import Array, Output


def listener(first: float, last: float) -> Predictor:
    """Answers "cry" by the power between two times, in seconds, and hears nothing else."""
    classifier = Classifier(Path(), "bundle", ("cry", "rest"), SAMPLE_RATE, False, 10.0, 400)

    def network(values: Array, mask: Array) -> Output:
        power = np.square(values[:, round(first * SAMPLE_RATE) : round(last * SAMPLE_RATE)]).mean(axis=1)
        return Output(np.stack([10.0 * power, np.zeros_like(power)], axis=1).astype(np.float32), None)

    return Predictor(classifier, network, 3)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """4 s of noise."""
    samples = 0.3 * np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE)
    soundfile.write(tmp_path / "noise.wav", samples.astype(np.float32), SAMPLE_RATE, "FLOAT")
    return tmp_path / "noise.wav"


def test_the_loss_is_where_the_classifier_listens(noise: Path) -> None:
    found = occlude(listener(1.0, 2.0), Excerpt(noise), "cry")
    assert found.seconds == pytest.approx(0.5)
    assert len(found.losses) == 8
    assert min(found.losses[2:4]) > 0.05
    assert max(map(abs, found.losses[:2] + found.losses[4:])) < 1e-9


def test_what_speaks_against_an_answer_has_a_negative_loss(noise: Path) -> None:
    assert max(occlude(listener(1.0, 2.0), Excerpt(noise), "rest").losses[2:4]) < -0.05


def test_an_excerpt_is_taken_by_its_times(noise: Path) -> None:
    found = occlude(listener(0.0, 0.5), Excerpt(noise, 1.0, 2.0), "cry")
    assert len(found.losses) == 2
    assert found.losses[0] > 0.05 > abs(found.losses[1])
