"""The training itself: the loss, its cutting into batches, which epoch is kept, what is trained, and when it stops."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import NORMS, TINY, Outcome, cry, settings
from safetensors.torch import load_file
from test_training import history, newest, results, same, steady, weights

from crycli import audio
from crycli.audio import SAMPLE_RATE
from crycli.errors import TrainingError
from crycli.inference import load_predictor
from crycli.model import Wav2Vec2ForSpeechClassification
from crycli.training import CTCTrainer, train

COMMON, RARE = 20, 4

HEAD = ("model.freeze=backbone", "model.final_dropout=0.0", "train.warmup_share=0.0")
STILL = (*HEAD, "train.epochs=1", "train.learning_rate=1e-9")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone without anything random in training."""
    return steady(tmp_path_factory.mktemp("steady"))


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 clips of one label and 4 of another to train on, 8 and 4 to validate on. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("skewed")
    for part, counts in (("train", {"low": COMMON, "high": RARE}), ("validation", {"low": 8, "high": 4})):
        rows = [("path", "label")]
        for label, hertz in (("low", 300.0), ("high", 900.0)):
            for number in range(counts[label]):
                name = f"{part}-{label}-{number:02d}.wav"
                samples = cry(hertz * (1 + 0.01 * number), 0.6 + 0.1 * (number % 4), seed=len(rows))
                soundfile.write(folder / name, samples, SAMPLE_RATE)
                rows.append((name, label))
        (folder / f"{part}.csv").write_text("".join(f"{path},{label}\n" for path, label in rows))
    return folder


Fit = Callable[..., CTCTrainer]


@pytest.fixture
def fit(skewed: Path, backbone: Path, tmp_path: Path) -> Fit:
    """Train on the skewed clips without anything random: fit("run", "train.epochs=2")."""

    def run(name: str, *assignments: str, **options: Any) -> CTCTrainer:
        config = settings(f"model.backbone={backbone}", "model.final_dropout=0.0", *assignments)
        return train(skewed, tmp_path / name, config, **options)

    return run


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The warnings that crycli gives while the test runs."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("crycli").addHandler(listener)
    yield messages
    logging.getLogger("crycli").removeHandler(listener)


def answers(run: Path, data: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The true labels of a part, (clips,), and what the finished model says, (clips, labels)."""
    with (data / f"{part}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    predictor = load_predictor(str(run))
    found = list(predictor.predict([data / row["path"] for row in rows]))
    truth = [predictor.labels.index(row["label"]) for row in rows]
    return np.array(truth), np.array([prediction.probabilities for prediction in found])


def losses(
    truth: np.ndarray, p: np.ndarray, weight: tuple[float, float], smoothing: float, gamma: float, tau: float
) -> np.ndarray:
    """(clips,) the published losses, straight from the probabilities; the labels are high and low."""
    if tau:
        shifted = p * (np.array([RARE, COMMON]) / (RARE + COMMON)) ** tau
        p = shifted / shifted.sum(axis=1, keepdims=True)
    target = np.eye(2)[truth] * (1 - smoothing) + smoothing / 2
    return -(np.array(weight) * target * (1 - p) ** gamma * np.log(p)).sum(axis=1)


BALANCED = (24 / (2 * RARE), 24 / (2 * COMMON))


@pytest.mark.parametrize(
    ("assignments", "weight", "smoothing", "gamma", "tau"),
    [
        (("train.class_weights=none",), (1, 1), 0, 0, 0),
        ((), BALANCED, 0, 0, 0),
        (("train.class_weights={high: 5, low: 0.5}",), (5 / 1.25, 0.5 / 1.25), 0, 0, 0),  # the mean over clips is 1
        (("train.logit_adjustment=1.0",), (1, 1), 0, 0, 1),
        (("train.class_weights=none", "train.focal_gamma=2.0"), (1, 1), 0, 2, 0),
        (("train.class_weights=none", "train.label_smoothing=0.2"), (1, 1), 0.2, 0, 0),
        (
            ("train.class_weights=balanced", "train.focal_gamma=0.5", "train.label_smoothing=0.1")
            + ("train.logit_adjustment=0.5",),
            BALANCED,
            0.1,
            0.5,
            0.5,
        ),
    ],
)
def test_the_loss_that_is_trained_with_is_the_one_that_is_configured(
    assignments: tuple[str, ...],
    weight: tuple[float, float],
    smoothing: float,
    gamma: float,
    tau: float,
    fit: Fit,
    skewed: Path,
    tmp_path: Path,
) -> None:
    fit("run", *STILL, "train.batch_size=5", "train.gradient_accumulation=2", *assignments)
    expected = losses(*answers(tmp_path / "run", skewed, "train"), weight, smoothing, gamma, tau)
    assert history(tmp_path / "run")[0]["train_loss"] == pytest.approx(expected.mean(), rel=1e-4)


def test_the_whole_network_is_trained_with_the_weighted_loss_too(fit: Fit, skewed: Path, tmp_path: Path) -> None:
    fit("run", "train.epochs=1", "train.learning_rate=1e-9", "train.gradient_accumulation=2")
    expected = losses(*answers(tmp_path / "run", skewed, "train"), BALANCED, 0, 0, 0)
    assert history(tmp_path / "run")[0]["train_loss"] == pytest.approx(expected.mean(), rel=1e-4)


def test_balanced_sampling_draws_as_many_clips_of_each_label_and_weighs_them_alike(
    fit: Fit, skewed: Path, tmp_path: Path
) -> None:
    fit("run", *STILL, "train.sampling=balanced")
    truth, p = answers(tmp_path / "run", skewed, "train")
    loss = losses(truth, p, (1, 1), 0, 0, 0)
    common = np.sort(loss[truth == 1])
    half = (RARE + COMMON) // 2  # every rare clip three times, and 12 of the 20 others
    least, most = ((loss[truth == 0].mean() + some.mean()) / 2 for some in (common[:half], common[-half:]))
    assert least <= history(tmp_path / "run")[0]["train_loss"] <= most
    assert not least <= loss.mean() <= most


@pytest.mark.parametrize(
    ("assignments", "finds_the_rare"),
    [
        (("train.class_weights=none",), False),
        (("train.class_weights=balanced",), True),
        (("train.sampling=balanced",), True),
        (("train.logit_adjustment=1.0",), True),
    ],
)
def test_what_balances_finds_the_rare_label_where_the_plain_recipe_answers_the_commonest_to_all(
    assignments: tuple[str, ...], finds_the_rare: bool, fit: Fit, skewed: Path, tmp_path: Path
) -> None:
    fit("run", *HEAD, "train.epochs=4", "train.learning_rate=0.003", *assignments)
    truth, p = answers(tmp_path / "run", skewed, "validation")
    called = p.argmax(axis=1)
    assert (0 in called[truth == 0]) == finds_the_rare
    assert (called[truth == 1] == 1).any()


@pytest.mark.parametrize(("whole", "batch", "accumulation"), [(10, 5, 2), (15, 5, 3), (15, 3, 5)])
def test_batches_that_are_accumulated_train_as_one_does(
    whole: int, batch: int, accumulation: int, fit: Fit, tmp_path: Path
) -> None:
    """24 clips: 10, 10 and 4, or 15 and 9, so that the last update is of fewer batches, and one batch of fewer clips."""
    rate = ("train.epochs=2", "train.learning_rate=0.001", "train.class_weights=balanced", "train.label_smoothing=0.1")
    fit("whole", *rate, f"train.batch_size={whole}")
    fit("cut", *rate, f"train.batch_size={batch}", f"train.gradient_accumulation={accumulation}")
    close(weights(tmp_path / "cut"), weights(tmp_path / "whole"), 1e-5)
    for one, other in zip(history(tmp_path / "cut"), history(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def close(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor], tolerance: float) -> None:
    """Assert that weights are equal but for rounding."""
    assert some.keys() == others.keys()
    apart = {
        name: float((some[name] - others[name]).abs().max())
        for name in some
        # What a key's bias adds cancels in the softmax: its gradient is rounding alone, which Adam makes large.
        if not name.endswith("k_proj.bias")
    }
    assert max(apart.values()) < tolerance, {name: apart[name] for name in sorted(apart, key=apart.__getitem__)[-3:]}
