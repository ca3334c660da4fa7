"""A frozen backbone: asked once about each clip, remembered, and forgotten when something changes; same results."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import Outcome, cry, settings
from safetensors.torch import load_file, save_file
from test_training import history, listening, results, steady, weights, without_pictures
from transformers import Wav2Vec2Model

from crycli.audio import SAMPLE_RATE
from crycli.inference import load_predictor
from crycli.training import train

SECONDS = 0.8


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, not there yet."""
    monkeypatch.setenv("CRYCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """12 clips of 0.8 s to train on and 6 to validate on, of two labels; to be changed."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for part, count in (("train", 6), ("validation", 3)):
        rows = ["path,label"]
        for label, hertz in (("high", 900.0), ("low", 300.0)):
            for number in range(count):
                name = f"{part}-{label}-{number}.wav"
                samples = cry(hertz * (1 + 0.03 * number), SECONDS, seed=len(rows) + count)
                soundfile.write(folder / name, samples, SAMPLE_RATE)
                rows.append(f"{name},{label}")
        (folder / f"{part}.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clips of each pass through the backbone."""
    done: list[int] = []
    whole = Wav2Vec2Model.forward

    def forward(self: Any, input_values: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        done.append(len(input_values))
        return whole(self, input_values, *arguments, **named)

    monkeypatch.setattr(Wav2Vec2Model, "forward", forward)
    return done


Fit = Callable[..., int]


@pytest.fixture
def fit(clips: Path, passes: list[int], tmp_path: Path) -> Fit:
    """Train a head; returns how many clips went through the backbone: fit("run", "train.seed=1")."""
    backbone = steady(tmp_path / "backbone")

    def run(name: str, *assignments: str, backbone: Path = backbone) -> int:
        before = sum(passes)
        frozen = ("model.freeze=backbone", "train.epochs=3", "train.learning_rate=0.01")
        train(clips, tmp_path / name, settings(f"model.backbone={backbone}", *frozen, *assignments))
        return sum(passes) - before

    return run


def answers(run: Path, data: Path, part: str = "validation") -> tuple[np.ndarray, np.ndarray]:
    """The true labels of a part, (clips,), and what the finished model says, (clips, labels)."""
    with (data / f"{part}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    predictor = load_predictor(str(run))
    found = list(predictor.predict([data / row["path"] for row in rows]))
    truth = [predictor.labels.index(row["label"]) for row in rows]
    return np.array(truth), np.array([prediction.uncalibrated for prediction in found])


def assert_answers_as_validated(run: Path, data: Path) -> None:
    """Assert that the model in the folder gives the scores that its validation gave."""
    truth, p = answers(run, data)
    validated = results(run)["validation"]
    assert isinstance(validated, dict)
    assert -np.log(p[np.arange(len(truth)), truth]).mean() == pytest.approx(validated["loss"], rel=1e-4)
    assert (p.argmax(axis=1) == truth).mean() == pytest.approx(validated["accuracy"])


def test_the_backbone_is_asked_once_and_never_again_for_another_head(fit: Fit, clips: Path, cache: Path) -> None:
    assert fit("first") == 18  # in three epochs, with a validation after each
    assert len(list(cache.rglob("*.embedding"))) == 18
    assert fit("second", "train.seed=1", "train.class_weights=none", "train.epochs=5", "model.final_dropout=0.5") == 0
    for part in ("train", "validation"):  # the labels in another order
        file = clips / f"{part}.csv"
        file.write_text(file.read_text().replace(",high", ",zebra"))
    assert fit("third") == 0


def test_it_is_asked_again_about_a_recording_that_has_changed(fit: Fit, clips: Path, cache: Path) -> None:
    fit("first")
    soundfile.write(clips / "train-low-2.wav", cry(500.0, SECONDS), SAMPLE_RATE)
    assert fit("second") == 1


@pytest.mark.parametrize("change", ["model.pooling=max", "model.layers=weighted", "weights"])
def test_it_is_asked_again_about_all_when_it_would_answer_otherwise(
    change: str, fit: Fit, cache: Path, tmp_path: Path
) -> None:
    fit("first")
    if change != "weights":
        assert fit("second", change) == 18
        return
    other = Path(shutil.copytree(tmp_path / "backbone", tmp_path / "other"))
    content = load_file(other / "model.safetensors")
    content["encoder.layers.1.attention.v_proj.bias"][0] += 1e-3
    save_file(content, other / "model.safetensors", metadata={"format": "pt"})
    assert fit("second", backbone=other) == 18


def flipped(content: bytes, byte: int, bit: int) -> bytes:
    """With one bit changed."""
    return content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[:-4],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "another kind of file": lambda content: b"PK\x03\x04" + content[4:],
    "a wrong bit in the header": lambda content: flipped(content, 8, 6),
    "a wrong bit in the numbers": lambda content: flipped(content, len(content) - 1, 6),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_costs_a_pass_and_nothing_else(damage: str, fit: Fit, cache: Path, tmp_path: Path) -> None:
    once = ("train.epochs=1",)
    fit("first", *once)
    file = min(cache.rglob("*.embedding"))
    content = file.read_bytes()
    file.write_bytes(DAMAGES[damage](content))
    assert fit("second", *once) == 1
    assert file.read_bytes() == content
    assert history(tmp_path / "second") == history(tmp_path / "first")


def test_without_a_cache_folder_it_is_asked_each_time(fit: Fit, cache: Path, tmp_path: Path) -> None:
    assert fit("first", "cache=none") == 18
    assert not cache.exists()
    assert fit("second", f"cache={tmp_path / 'elsewhere'}") == 18
    assert not cache.exists()
    assert fit("third", f"cache={tmp_path / 'elsewhere'}") == 0
    (tmp_path / "file").write_text("in the way")
    with listening(logging.INFO) as said:
        assert fit("fourth", f"cache={tmp_path / 'file'}") == 18
    assert any("not kept" in line for line in said)
    assert history(tmp_path / "fourth") == history(tmp_path / "first")


# These change nothing in clips of the full length, and the backbone is run anew in each epoch.
ANEW = ("augment.short_clips=repeat", f"data.max_seconds={SECONDS}")


@pytest.mark.parametrize(
    "assignments",
    [
        (),
        ("model.pooling=mean_std", "train.sampling=balanced"),
        ("model.layers=weighted", "train.batch_size=5", "train.gradient_accumulation=2"),
    ],
)
def test_the_head_learns_what_it_would_learn_behind_the_whole_network(
    assignments: tuple[str, ...], fit: Fit, clips: Path, cache: Path, tmp_path: Path
) -> None:
    alike = (*assignments, "model.final_dropout=0.3", "train.label_smoothing=0.1", "workers=1")
    assert fit("once", *alike, f"data.max_seconds={SECONDS}") == 18
    assert fit("anew", *alike, *ANEW) == 3 * 18 + 6
    for part in ("train", "validation"):
        once, anew = (answers(tmp_path / run, clips, part)[1] for run in ("once", "anew"))
        np.testing.assert_allclose(once, anew, rtol=0, atol=1e-5)
    assert history(tmp_path / "once") == [pytest.approx(row, rel=1e-4) for row in history(tmp_path / "anew")]
    start = load_file(tmp_path / "backbone" / "model.safetensors")
    learnt = weights(tmp_path / "once")
    assert all(torch.equal(learnt[f"wav2vec2.{name}"], start[name]) for name in start)
    if "model.layers=weighted" in assignments:
        assert learnt["layer_sum.weight"].abs().max() > 0.001


def test_the_model_folder_is_as_complete_as_any_and_answers_as_it_was_validated(
    fit: Fit, clips: Path, cache: Path, tmp_path: Path, runs: dict[str, Path]
) -> None:
    fit("run", "train.epochs=6")
    names = {path.name for path in (runs["layer"] / "model").iterdir()}
    assert {path.name for path in (tmp_path / "run" / "model").iterdir()} == names
    assert weights(tmp_path / "run").keys() == weights(runs["layer"]).keys() - {"wav2vec2.masked_spec_embed"}
    assert_answers_as_validated(tmp_path / "run", clips)


def test_clips_longer_than_a_window_are_heard_in_windows(fit: Fit, clips: Path, cache: Path, tmp_path: Path) -> None:
    long = ("data.max_seconds=0.5", "data.min_seconds=0.25", "train.epochs=6")
    assert fit("run", *long) == 2 * 18
    assert_answers_as_validated(tmp_path / "run", clips)
    # An epoch hears one of the two windows of each clip: of a head that stays as it is, the loss differs.
    fit("still", *long, "train.learning_rate=1e-9", "model.final_dropout=0.0")
    rows = history(tmp_path / "still")
    assert len({row["train_loss"] for row in rows}) == 6
    assert len({row["validation_loss"] for row in rows}) == 1


def test_where_the_pooling_is_learnt_the_backbone_is_run_anew_and_it_says_why(
    fit: Fit, clips: Path, cache: Path, tmp_path: Path
) -> None:
    with listening(logging.INFO) as said:
        assert fit("run", "model.pooling=attention") == 3 * 18 + 6
    (line,) = [line for line in said if "anew" in line]
    assert "attention" in line
    assert not cache.exists()
    assert_answers_as_validated(tmp_path / "run", clips)


def test_the_progress_of_the_embedding_is_told(clips: Path, cache: Path, tmp_path: Path, fit: Fit) -> None:
    told: list[tuple[str, int, int | None]] = []
    frozen = (f"model.backbone={steady(tmp_path / 'other')}", "model.freeze=backbone", "train.epochs=1")
    train(
        clips, tmp_path / "run", settings(*frozen), on_step=lambda step: told.append((step.name, step.done, step.total))
    )
    for part, count in (("train", 12), ("validation", 6)):
        name = f"embed {part}"
        assert [entry for entry in told if entry[0] == name] == [(name, done, count) for done in range(1, count + 1)]


def test_a_run_that_is_broken_off_goes_on_from_the_cache(
    fit: Fit, clips: Path, cache: Path, tmp_path: Path, crycli: Callable[..., Outcome], passes: list[int]
) -> None:
    fit("whole")
    run = Path(shutil.copytree(tmp_path / "whole", tmp_path / "run"))
    shutil.rmtree(run / "model")
    shutil.rmtree(max(run.glob("checkpoints/checkpoint-*")))
    before = sum(passes)
    assert crycli("train", clips, "-o", run, "--resume").code == 0
    assert sum(passes) == before
    assert (run / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()
    learnt, expected = weights(run), weights(tmp_path / "whole")
    assert all(torch.equal(learnt[name], expected[name]) for name in expected)
