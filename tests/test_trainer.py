"""The training itself: the loss, its cutting into batches, which epoch is kept, what is trained, and when it stops."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import cry, settings
from safetensors.torch import load_file
from test_resuming import broken_off
from test_training import close, history, listening, newest, results, same, steady, weights, without_pictures

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


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)


def answers(run: Path, data: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The true labels of a part, (clips,), and what the finished model says, (clips, labels)."""
    with (data / f"{part}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    predictor = load_predictor(str(run))
    found = list(predictor.predict([data / row["path"] for row in rows]))
    truth = [predictor.labels.index(row["label"]) for row in rows]
    return np.array(truth), np.array([prediction.uncalibrated for prediction in found])


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
ALL_AT_ONCE = (
    "train.class_weights=balanced",
    "train.focal_gamma=0.5",
    "train.label_smoothing=0.1",
    "train.logit_adjustment=0.5",
)


@pytest.mark.parametrize(
    ("assignments", "weight", "smoothing", "gamma", "tau"),
    [
        (("train.class_weights=none",), (1, 1), 0, 0, 0),
        ((), BALANCED, 0, 0, 0),
        (("train.class_weights={high: 5, low: 0.5}",), (5 / 1.25, 0.5 / 1.25), 0, 0, 0),  # the mean over clips is 1
        (("train.logit_adjustment=1.0",), (1, 1), 0, 0, 1),
        (("train.class_weights=none", "train.focal_gamma=2.0"), (1, 1), 0, 2, 0),
        (("train.class_weights=none", "train.label_smoothing=0.2"), (1, 1), 0.2, 0, 0),
        (ALL_AT_ONCE, BALANCED, 0.1, 0.5, 0.5),
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
    """24 clips as 10, 10 and 4, or as 15 and 9: the last update has fewer batches, and one of them fewer clips."""
    rate = ("train.epochs=2", "train.learning_rate=0.001", "train.class_weights=balanced", "train.label_smoothing=0.1")
    fit("whole", *rate, f"train.batch_size={whole}")
    fit("cut", *rate, f"train.batch_size={batch}", f"train.gradient_accumulation={accumulation}")
    close(weights(tmp_path / "cut"), weights(tmp_path / "whole"), 1e-5)
    for one, other in zip(history(tmp_path / "cut"), history(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(("select_by", "batch"), [("macro_f1", 8), ("balanced_accuracy", 8), ("macro_auc", 24)])
def test_the_epoch_that_is_kept_is_the_best_by_the_chosen_score(
    select_by: str, batch: int, fit: Fit, skewed: Path, tmp_path: Path
) -> None:
    """At such a rate the scores jump up and down, and each of the three is best in another epoch than another one."""
    rate = ("train.learning_rate=0.1", "train.epochs=6", f"train.batch_size={batch}")
    trainer = fit("run", *HEAD, *rate, f"train.select_by={select_by}")
    rows = history(tmp_path / "run")
    best = min(rows, key=lambda row: (-row[f"validation_{select_by}"], row["validation_loss"]))
    assert results(tmp_path / "run")["best_epoch"] == best["epoch"]
    truth, p = answers(tmp_path / "run", skewed, "validation")
    assert -np.log(p[np.arange(len(truth)), truth]).mean() == pytest.approx(best["validation_loss"], rel=1e-4)
    assert trainer.report is not None
    assert trainer.report.accuracy == pytest.approx(best["validation_accuracy"], abs=1e-5)


def test_patience_ends_a_run_that_no_longer_gets_better_also_when_it_was_broken_off(fit: Fit, tmp_path: Path) -> None:
    patient = (*HEAD, *WORSENING, "train.patience=2")
    fit("run", *patient)
    epoch = results(tmp_path / "run")["best_epoch"]
    assert isinstance(epoch, int)
    assert [row["epoch"] for row in history(tmp_path / "run")] == list(range(1, epoch + 3))
    assert epoch + 2 < 8
    broken_off(tmp_path / "run", epoch + 1, tmp_path / "again")  # an epoch is a step; one of the two has passed
    fit("again", *patient, resume=True)
    assert history(tmp_path / "again") == history(tmp_path / "run")


WORSENING = ("train.epochs=8", "train.learning_rate=0.3", "train.batch_size=24", "train.keep_checkpoints=9")


@pytest.mark.parametrize("how", ["patience", "on_epoch"])
def test_a_run_that_was_stopped_early_and_killed_is_finished_without_training_on(
    how: str, fit: Fit, tmp_path: Path
) -> None:
    told: list[int] = []

    def two(row: Any) -> bool:
        told.append(row["epoch"])
        return row["epoch"] < 2

    patience = ["train.patience=1"] if how == "patience" else []
    options = {"on_epoch": two} if how == "on_epoch" else {}
    fit("run", *HEAD, *WORSENING, *patience, **options)
    run, kept, rows = tmp_path / "run", weights(tmp_path / "run"), history(tmp_path / "run")
    assert 2 <= len(rows) < 8
    last = newest(run)
    for name in ("model", "curves.png", "metrics.json", "history.csv"):  # all that is written at the end
        target = run / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    fit("run", *HEAD, *WORSENING, *patience, **options, resume=True)
    assert same(weights(run), kept)
    assert history(run) == rows
    assert newest(run) == last
    assert told in ([], [1, 2])  # none a second time


def test_training_stops_where_on_epoch_says_so_and_is_told_each_row(fit: Fit, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    fit("run", *HEAD, "train.epochs=5", on_epoch=lambda row: told.append(dict(row)) or len(told) < 3)
    assert [{key: float(f"{value:.6g}") for key, value in row.items()} for row in told] == history(tmp_path / "run")
    assert len(told) == 3


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_no_number_stops_with_the_step_and_the_clips_of_the_batch(
    accumulation: int, fit: Fit, skewed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[bytes]] = []
    whole = Wav2Vec2ForSpeechClassification.forward

    def forward(self: Any, input_values: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> Any:
        output = whole(self, input_values, attention_mask, **rest)
        if self.training:
            lengths = attention_mask.sum(1).tolist()
            heard.append([row[:length].numpy().tobytes() for row, length in zip(input_values, lengths, strict=True)])
            if len(heard) == 4:
                output.logits = output.logits * torch.nan
        return output

    monkeypatch.setattr(Wav2Vec2ForSpeechClassification, "forward", forward)
    with pytest.raises(TrainingError) as caught:
        fit("run", "train.epochs=1", "train.batch_size=3", f"train.gradient_accumulation={accumulation}")
    (line,) = str(caught.value).splitlines()
    assert f"at step {4 // accumulation}," in line
    named = line.partition("in the batch of ")[2].partition(": ")[0].split(", ")
    sounds = [audio.normalise(audio.load(skewed / name, SAMPLE_RATE)).tobytes() for name in named]
    assert sorted(sounds) == sorted(heard[3])
    assert len(named) == 3


@pytest.mark.parametrize(
    ("batch", "rate"),
    [
        (24, 0.3),  # one update an epoch: the first epoch is as good as chance
        (4, 0.9),  # the first epoch is far worse than chance already
    ],
)
def test_a_training_that_diverges_is_warned_of_once(batch: int, rate: float, fit: Fit, tmp_path: Path) -> None:
    with listening() as said:
        fit("run", *HEAD, "train.epochs=4", f"train.batch_size={batch}", f"train.learning_rate={rate}")
    assert max(row["train_loss"] for row in history(tmp_path / "run")) > 3 * np.log(2)
    (line,) = said
    assert "diverges" in line
    assert f"train.learning_rate (it is {rate})" in line


def changed(run: Path, epoch: int, before: dict[str, torch.Tensor]) -> set[str]:
    """The parts of the network whose weights an epoch has changed; `before` is brought up to date."""
    (folder,) = [path for path in run.glob("checkpoints/checkpoint-*") if epoch_of(path) == epoch]
    found = set()
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not torch.equal(tensor, before[name]):
            found.add(part_of(name))
        before[name] = tensor
    return found


def epoch_of(checkpoint: Path) -> float:
    """The epoch after which a checkpoint was written."""
    return float(json.loads((checkpoint / "trainer_state.json").read_text())["epoch"])


def part_of(name: str) -> str:
    """ "head", "layer 2", "convolutions" or "rest"."""
    if not name.startswith("wav2vec2."):
        return "head"
    if ".layers." in name:
        return f"layer {name.partition('.layers.')[2].partition('.')[0]}"
    return "convolutions" if ".feature_extractor." in name else "rest"


@pytest.mark.parametrize("freeze", ["none", "encoder"])
def test_gradual_unfreezing_trains_the_head_first_then_layer_by_layer_and_the_convolutions_last_or_never(
    freeze: str, fit: Fit, tmp_path: Path
) -> None:
    three = steady(tmp_path / "three", layers=3)
    unfreeze = ("train.unfreeze_layers=1", "train.epochs=4", "train.warmup_share=0.0", "train.keep_checkpoints=4")
    fit("run", f"model.backbone={three}", f"model.freeze={freeze}", *unfreeze, "train.learning_rate=0.001")
    fit("start", f"model.backbone={three}", *STILL)
    before = weights(tmp_path / "start")
    epochs = [changed(tmp_path / "run", epoch, before) for epoch in (1, 2, 3, 4)]
    assert epochs[:3] == [{"head"}, {"head", "layer 2"}, {"head", "layer 2", "layer 1"}]
    everything = {"head", "layer 2", "layer 1", "layer 0", "rest"}
    assert epochs[3] == everything | ({"convolutions"} if freeze == "none" else set())


def test_the_backbone_learns_at_its_share_of_the_rate(fit: Fit, tmp_path: Path) -> None:
    steps = ("train.epochs=1", "train.learning_rate=0.0001", "train.batch_size=24", "train.warmup_share=0.0")
    fit("start", *STILL)
    start = weights(tmp_path / "start")
    moved: dict[str, dict[str, float]] = {}
    for share in ("1.0", "0.1"):
        fit(share, *steps, f"train.backbone_rate={share}", "train.weight_decay=0.0")
        after = weights(tmp_path / share)
        moved[share] = {name: float((after[name] - start[name]).abs().mean()) for name in start}
    for name in ("wav2vec2.encoder.layers.1.attention.q_proj.weight", "wav2vec2.feature_projection.projection.weight"):
        assert moved["0.1"][name] == pytest.approx(0.1 * moved["1.0"][name], rel=0.01)
    for name in ("classifier.dense.weight", "classifier.out_proj.weight"):
        assert moved["0.1"][name] == pytest.approx(moved["1.0"][name], rel=0.01)


def test_lora_trains_adapters_and_leaves_a_plain_model_that_answers_as_it_was_validated(
    fit: Fit, skewed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    lora = ("model.lora_rank=2", "train.epochs=3", "train.learning_rate=0.01", "train.keep_checkpoints=4")
    fit("run", *lora)
    fit("start", *STILL)
    run, start = weights(tmp_path / "run"), weights(tmp_path / "start")
    assert run.keys() == start.keys()
    moved = {name for name in start if not torch.equal(run[name], start[name])}
    projections = ("_proj.weight", "_dense.weight")
    assert {name for name in moved if name.startswith("wav2vec2.")} == {
        name for name in start if ".layers." in name and name.endswith(projections)
    }
    truth, p = answers(tmp_path / "run", skewed, "validation")
    validated = results(tmp_path / "run")["validation"]
    assert -np.log(p[np.arange(len(truth)), truth]).mean() == pytest.approx(validated["loss"], rel=1e-4)
    # A run that is broken off has its adapters in the checkpoints.
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(newest(tmp_path / "run"))
    fit("run", *lora, resume=True)
    assert same(weights(tmp_path / "run"), run)
