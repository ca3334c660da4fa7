"""Training: what a run leaves behind, that it repeats and resumes bit for bit, and how it fails."""

from __future__ import annotations

import csv
import gc
import io
import json
import logging
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import INTERRUPTED, NORMS, TINY, Outcome, interruptible, settings, write_cries
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Trainer

from crycli.config import Config, load_config
from crycli.errors import ConfigError
from crycli.lora import ADAPTED
from crycli.model import Wav2Vec2ForSpeechClassification
from crycli.prepare import prepare_dataset_csv
from crycli.progress import Step
from crycli.training import CTCTrainer, train

# Each run ends what was before with a full garbage collection, 0.3 s of which go into what the imports have left.
gc.freeze()

Train = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)


@pytest.fixture
def fit(data: Path, backbones: dict[str, Path], tmp_path: Path) -> Train:
    """Train the tiny backbone into a folder: fit("run", "train.epochs=2", resume=True)."""

    def run(name: str, *assignments: str, norm: str = "layer", resume: bool = False) -> Path:
        config = settings(
            f"model.backbone={backbones[norm]}", "train.epochs=1", "train.learning_rate=0.003", *assignments
        )
        train(data, tmp_path / name, config, resume=resume)
        return tmp_path / name

    return run


@pytest.fixture(scope="module")
def long_run(data: Path, backbones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of the `long` settings, with its pictures. Not to be changed by a test."""
    run = tmp_path_factory.mktemp("long") / "run"
    train(data, run, long(backbones))
    return run


THREE = ("train.epochs=3", "train.learning_rate=0.003", "train.keep_checkpoints=5")


@pytest.fixture(scope="module")
def three_epochs(data: Path, backbones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of `THREE` settings. Not to be changed by a test."""
    run = tmp_path_factory.mktemp("three") / "run"
    train(data, run, settings(f"model.backbone={backbones['layer']}", *THREE))
    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system of a given size."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no right to mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def long(backbones: dict[str, Path]) -> Config:
    """Six epochs of eight steps: a process is killed in the midst of them."""
    return settings(
        f"model.backbone={backbones['layer']}",
        "train.epochs=6",
        "train.batch_size=3",
        "train.learning_rate=0.003",
        "train.keep_checkpoints=3",
    )


def start(data: Path, run: Path, config: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """Train in a process of its own; returns once the second checkpoint is whole."""
    command = [sys.executable, "-m", "crycli", "-q", "train", str(data), "-o", str(run), "-c", str(config)]
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=stderr, text=True, preexec_fn=interruptible
        )
    deadline = time.monotonic() + 120
    while len(list(run.glob("checkpoints/checkpoint-*/trainer_state.json"))) < 2:
        assert process.poll() is None, (tmp_path / "stderr").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def steady(folder: Path, norm: str = "layer", layers: int = 2) -> Path:
    """A tiny backbone with random weights that draws no random numbers in training: no dropout, no SpecAugment."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    still = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0)
    architecture = {**TINY, **NORMS[norm], **still, "num_hidden_layers": layers, "mask_time_prob": 0.0}
    Wav2Vec2Model(Wav2Vec2Config(**architecture)).save_pretrained(folder)
    return folder


def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing where a test looks at no picture: it takes more than half of a tiny run, 0.7 s."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    for name in ("draw_confusion", "draw_curves"):
        monkeypatch.setattr(f"crycli.training.{name}", lambda *_: buffer.getvalue())


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run's model."""
    return load_file(run / "model" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


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


def history(run: Path) -> list[dict[str, float]]:
    """The rows of history.csv; NaN where there is no value."""
    with (run / "history.csv").open(newline="") as stream:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(stream)]


@contextmanager
def listening(level: int = logging.WARNING) -> Iterator[list[str]]:
    """The lines that crycli says within the block, warnings or what else the level lets through."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, listener = logging.getLogger("crycli"), Listener(level)
    before = logger.level
    logger.addHandler(listener)
    logger.setLevel(level)
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before)


def results(run: Path) -> dict[str, object]:
    """metrics.json without the time that it took."""
    content = json.loads((run / "metrics.json").read_text())
    content.pop("seconds")
    return dict(content)


def newest(run: Path) -> Path:
    """The checkpoint with the most steps."""
    return max(run.glob("checkpoints/checkpoint-*[0-9]"), key=lambda path: int(path.name.rpartition("-")[2]))


def error_line(done: Outcome) -> str:
    """The one line of an expected failure."""
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert (done.code, done.out, len(errors)) == (1, "", 1), done
    assert "Traceback" not in done.err
    return errors[0]


def test_a_run_leaves_everything_behind_and_returns_the_trainer(
    data: Path, backbones: dict[str, Path], tmp_path: Path
) -> None:
    config = settings(f"model.backbone={backbones['group']}", "train.epochs=2")
    trainer = train(data, tmp_path / "run", config)
    assert isinstance(trainer, CTCTrainer)
    assert isinstance(trainer, Trainer)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"model", "checkpoints", "logs", "config.yaml", "metrics.json", "history.csv", "curves.png"}
    assert load_config(tmp_path / "run" / "config.yaml") == config
    assert [row["epoch"] for row in history(tmp_path / "run")] == [1, 2]
    metrics = results(tmp_path / "run")
    assert metrics["labels"] == ["high", "low"]
    assert metrics["clips"] == {"train": 24, "validation": 4}
    assert metrics["weights"] > metrics["weights_trained"] > 0


def test_the_validation_scores_are_in_tensorboard(long_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(long_run / "logs"))
    events.Reload()
    logged = [event.value for event in events.Scalars("eval/macro_f1")]
    assert logged == pytest.approx([row["validation_macro_f1"] for row in history(long_run)], abs=1e-5)
    assert len(events.Scalars("train/loss")) == 6


def test_it_learns_labels_that_really_differ(long_run: Path) -> None:
    rows = history(long_run)
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]
    assert max(row["validation_macro_auc"] for row in rows) > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(fit: Train) -> None:
    first, again, other = fit("first"), fit("again"), fit("other", "train.seed=1")
    assert same(weights(first), weights(again))
    assert history(first) == history(again)
    assert not same(weights(first), weights(other))


def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(
    data: Path, long_run: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    run = tmp_path / "run"
    process = start(data, run, long_run / "config.yaml", tmp_path)
    time.sleep(0.05)  # between two checkpoints
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (run / "model").exists()
    assert crycli("train", data, "-o", run, "--resume").code == 0
    assert same(weights(run), weights(long_run))
    assert history(run) == history(long_run)
    assert results(run) == results(long_run)


def test_ctrl_c_ends_with_130_and_one_line_and_keeps_the_checkpoints(
    data: Path, long_run: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    run = tmp_path / "run"
    process = start(data, run, long_run / "config.yaml", tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) in INTERRUPTED
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    assert "interrupted" in line
    assert len(list(run.glob("checkpoints/checkpoint-*/trainer_state.json"))) >= 2
    assert crycli("train", data, "-o", run, "--resume").code == 0
    assert same(weights(run), weights(long_run))


@pytest.mark.parametrize("damage", ["trainer_state.json missing", "trainer_state.json cut", "empty"])
def test_a_half_written_checkpoint_is_set_aside_and_the_one_before_is_used(
    damage: str, three_epochs: Path, fit: Train, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(three_epochs, tmp_path / "run"))
    damaged, before = newest(run), run / "checkpoints" / "checkpoint-6"
    state = damaged / "trainer_state.json"
    if damage == "trainer_state.json missing":
        state.unlink()
    elif damage == "trainer_state.json cut":
        state.write_text(state.read_text()[:100])
    else:
        for file in damaged.iterdir():
            file.unlink()
    shutil.rmtree(run / "model")
    with listening(logging.INFO) as said:
        fit("run", *THREE, resume=True)
    assert any(line.startswith(f"{damaged} is damaged") for line in said)
    assert f"going on from {before}" in said
    assert same(*(load_file(newest(some) / "model.safetensors") for some in (run, three_epochs)))
    assert history(run) == history(three_epochs)


def test_a_run_killed_before_its_first_checkpoint_resumes_from_the_start(fit: Train) -> None:
    run = fit("run")
    finished = weights(run)
    for name in ("model", "checkpoints"):
        shutil.rmtree(run / name)
    fit("run", resume=True)
    assert same(weights(run), finished)


def test_a_moved_run_resumes_to_the_same_weights(fit: Train, tmp_path: Path) -> None:
    # Like this the head alone is best after its first epoch: those weights are read back from a checkpoint.
    rate = ("train.learning_rate=0.2", "train.warmup_share=0.0", "model.freeze=backbone", "train.seed=8")
    whole = ("train.epochs=4", "train.keep_checkpoints=5", *rate)
    run = fit("run", *whole)
    finished = weights(run)
    assert results(run)["best_epoch"] < 3
    shutil.rmtree(newest(run))
    shutil.rmtree(run / "model")
    run.rename(tmp_path / "moved")
    fit("moved", *whole, resume=True)
    assert same(weights(tmp_path / "moved"), finished)


def test_a_run_that_is_finished_and_moved_resumes_to_its_best_weights(fit: Train, tmp_path: Path) -> None:
    rate = ("train.learning_rate=0.2", "train.warmup_share=0.0", "model.freeze=backbone", "train.seed=8")
    whole = ("train.epochs=4", "train.keep_checkpoints=5", *rate)
    run = fit("run", *whole)
    assert results(run)["best_epoch"] < 3
    best = weights(run)
    shutil.rmtree(run / "model")
    run.rename(tmp_path / "moved")
    fit("moved", *whole, resume=True)
    assert same(weights(tmp_path / "moved"), best)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    name: str, damage: str, three_epochs: Path, fit: Train, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(three_epochs, tmp_path / "run"))
    file = newest(run) / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    shutil.copytree(newest(run), newest(run).with_name("checkpoint-1 (copy)"))  # of no concern
    shutil.rmtree(run / "model")
    fit("run", *THREE, resume=True)
    assert same(weights(run), weights(three_epochs))
    assert same(*(load_file(newest(some) / "model.safetensors") for some in (run, three_epochs)))


def test_a_clip_shorter_than_the_masks_of_the_backbone_trains(backbones: dict[str, Path], tmp_path: Path) -> None:
    backbone = Path(shutil.copytree(backbones["layer"], tmp_path / "backbone"))
    content = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps({**content, "mask_time_length": 60}))
    write_cries(tmp_path / "cries", babies=4)
    prepare_dataset_csv([tmp_path / "cries"], tmp_path / "data", settings("data.group_by=baby-\\d+"))
    train(tmp_path / "data", tmp_path / "run", settings(f"model.backbone={backbone}", "train.epochs=1"))
    assert (tmp_path / "run" / "model").is_dir()


def test_resuming_what_is_finished_changes_nothing(
    data: Path, long_run: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    run = Path(shutil.copytree(long_run, tmp_path / "run"))
    assert crycli("train", data, "-o", run, "--resume").code == 0
    assert same(weights(run), weights(long_run))
    assert history(run) == history(long_run)
    assert results(run) == results(long_run)
    assert (run / "config.yaml").read_text() == (long_run / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        (("--epochs", 9), "train.epochs"),
        (("--seed", 3), "train.seed"),
        (("--pooling", "max"), "model.pooling"),
        (("--set", "data.max_seconds=5.0"), "data.max_seconds"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    flags: tuple[object, ...], setting: str, data: Path, runs: dict[str, Path], crycli: Callable[..., Outcome]
) -> None:
    before = (runs["layer"] / "config.yaml").read_text()
    assert setting in error_line(crycli("train", data, "-o", runs["layer"], "--resume", *flags))
    assert (runs["layer"] / "config.yaml").read_text() == before


def test_a_run_is_not_resumed_with_data_of_other_labels(
    fit: Train, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    run = fit("run")
    before = (run / "model" / "config.json").read_text()
    write_cries(tmp_path / "cries", babies=4, labels={"alpha": 300.0, "beta": 900.0})
    prepare_dataset_csv([tmp_path / "cries"], tmp_path / "other", settings("data.group_by=baby-\\d+"))
    done = crycli("train", tmp_path / "other", "-o", run, "--resume")
    assert (run / "model" / "config.json").read_text() == before
    assert str(run) in error_line(done)


def test_a_training_whose_answers_are_no_numbers_stops_with_one_line(
    data: Path, backbones: dict[str, Path], tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    backbone = Path(shutil.copytree(backbones["layer"], tmp_path / "backbone"))
    weights = load_file(backbone / "model.safetensors")
    weights["feature_projection.projection.bias"] += torch.nan
    save_file(weights, backbone / "model.safetensors", metadata={"format": "pt"})
    done = crycli("-q", "train", data, "-o", tmp_path / "run", "--backbone", backbone, "--epochs", "2")
    assert "train.learning_rate" in error_line(done)
    assert not (tmp_path / "run" / "model").exists()


def test_resuming_and_replacing_a_run_at_once_is_wrong_usage(
    data: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    assert crycli("train", data, "-o", tmp_path / "run", "--resume", "--force").code == 2


def test_settings_that_change_nothing_learnt_may_change_on_resume(
    data: Path, fit: Train, crycli: Callable[..., Outcome]
) -> None:
    run = fit("run")
    assert crycli("train", data, "-o", run, "--resume", "--set", "workers=1", "--set", "offline=true").code == 0


def test_what_is_no_run_is_not_resumed(data: Path, tmp_path: Path, crycli: Callable[..., Outcome]) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    done = crycli("train", data, "-o", tmp_path, "--resume", "--backbone", "mini")
    assert str(tmp_path) in error_line(done)
    assert (tmp_path / "letters.txt").read_text() == "mine"


def test_an_existing_run_is_replaced_only_with_force(
    data: Path, fit: Train, backbones: dict[str, Path], crycli: Callable[..., Outcome]
) -> None:
    run = fit("run")
    (run / "notes.txt").write_text("mine")
    before = weights(run)
    command = ("train", data, "-o", run, "--backbone", backbones["group"], "--epochs", 1)
    assert "--force" in error_line(crycli(*command))
    assert same(weights(run), before)
    assert crycli(*command, "--force").code == 0
    assert weights(run).keys() != before.keys()
    assert (run / "notes.txt").read_text() == "mine"
    assert len(list(run.glob("checkpoints/checkpoint-*"))) == 1


def test_a_refused_run_leaves_the_earlier_one_alone(data: Path, fit: Train, crycli: Callable[..., Outcome]) -> None:
    run = fit("run")
    before = sorted(path for path in run.rglob("*"))
    error_line(crycli("train", data, "-o", run, "--backbone", "nobody/nothing", "--force"))
    assert sorted(path for path in run.rglob("*")) == before


def test_fp16_on_a_cpu_is_refused(data: Path, tmp_path: Path, crycli: Callable[..., Outcome]) -> None:
    options = ("--backbone", "mini", "--set", "train.precision=fp16", "--set", "device=cpu")
    assert "train.precision" in error_line(crycli("train", data, "-o", tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_bf16_on_a_cpu_trains_float32_weights(fit: Train) -> None:
    plain, half = fit("plain", "device=cpu"), fit("half", "device=cpu", "train.precision=bf16")
    assert {tensor.dtype for tensor in weights(half).values()} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for tensor in weights(half).values())
    assert not same(weights(half), weights(plain))
    assert results(half)["precision"] == "bf16"


def test_a_pretrained_backbone_is_trained_with_its_convolutions_frozen(fit: Train, backbones: dict[str, Path]) -> None:
    trained, before = weights(fit("run")), load_file(backbones["layer"] / "model.safetensors")
    kept = {name for name in before if torch.equal(trained[f"wav2vec2.{name}"], before[name])}
    frozen = {name for name in before if name.startswith("feature_extractor.")}
    assert kept - {"masked_spec_embed"} == frozen


def test_a_frozen_backbone_leaves_the_head_alone_to_train(fit: Train, backbones: dict[str, Path]) -> None:
    run, other = (
        fit("run", "model.freeze=backbone"),
        fit("shorter", "model.freeze=backbone", "train.learning_rate=1e-9"),
    )
    before = load_file(backbones["layer"] / "model.safetensors")
    assert all(torch.equal(weights(run)[f"wav2vec2.{name}"], before[name]) for name in before)
    head = [name for name in weights(run) if name.startswith("classifier.")]
    assert not any(torch.equal(weights(run)[name], weights(other)[name]) for name in head)
    assert results(run)["weights_trained"] == sum(weights(run)[name].numel() for name in head)


def test_settings_that_a_frozen_backbone_leaves_without_effect_are_named(
    fit: Train, caplog: pytest.LogCaptureFixture
) -> None:
    fit("run", "model.freeze=backbone", "train.unfreeze_layers=1", "augment.time_mask=0.2", "augment.feature_mask=0")
    named = [record.getMessage().partition(" ")[0] for record in caplog.records if "does nothing" in record.message]
    assert named == ["train.unfreeze_layers", "augment.time_mask"]


def test_adapters_are_trained_in_a_frozen_backbone(fit: Train, backbones: dict[str, Path]) -> None:
    pytest.importorskip("peft")
    trained, before = (
        weights(fit("run", "model.freeze=backbone", "model.lora_rank=2")),
        load_file(backbones["layer"] / "model.safetensors"),
    )
    changed = {name for name in before if not torch.equal(trained[f"wav2vec2.{name}"], before[name])}
    assert {name.split(".")[-2] for name in changed} == set(ADAPTED)


def test_nothing_is_frozen_where_nothing_shall_be(fit: Train, backbones: dict[str, Path]) -> None:
    trained, before = weights(fit("run", "model.freeze=none")), load_file(backbones["layer"] / "model.safetensors")
    name = "feature_extractor.conv_layers.0.conv.weight"
    assert not torch.equal(trained[f"wav2vec2.{name}"], before[name])


def test_the_best_epoch_has_the_best_macro_f1_and_of_equal_ones_the_lowest_loss(fit: Train, long_run: Path) -> None:
    slow = fit("slow", "train.epochs=3", "train.learning_rate=1e-5", "train.keep_checkpoints=3")
    assert len({row["validation_macro_f1"] for row in history(slow)}) == 1
    assert results(slow)["best_epoch"] != 1  # the Trainer by itself would keep the first of equal ones
    for run in (slow, long_run):
        best = min(history(run), key=lambda row: (-row["validation_macro_f1"], row["validation_loss"]))
        assert results(run)["best_epoch"] == best["epoch"]
        kept = load_file(run / f"checkpoints/checkpoint-{best['step']:.0f}/model.safetensors")
        assert same(weights(run), kept)


def test_no_more_checkpoints_are_kept_than_asked_for(long_run: Path) -> None:
    assert len(list(long_run.glob("checkpoints/checkpoint-*"))) == 3


def test_the_named_flags_end_up_in_the_run(
    data: Path, tmp_path: Path, backbones: dict[str, Path], crycli: Callable[..., Outcome]
) -> None:
    flags = "--epochs 1 --batch-size 5 --learning-rate 0.002 --pooling max --seed 4".split()
    assert crycli("train", data, "-o", tmp_path / "run", "--backbone", backbones["layer"], *flags).code == 0
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate) == (1, 5, 0.002)
    assert (config.train.seed, config.model.backbone) == (4, str(backbones["layer"]))
    stored = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert stored["pooling_mode"] == "max"
    assert history(tmp_path / "run")[0]["step"] == 5


def test_the_automatic_learning_rate_fits_the_backbone(data: Path, backbones: dict[str, Path], tmp_path: Path) -> None:
    pretrained = train(data, tmp_path / "run", settings(f"model.backbone={backbones['layer']}", "train.epochs=1"))
    fresh = train(data, tmp_path / "mini", settings("model.backbone=mini-random", "train.epochs=1"))
    assert (pretrained.args.learning_rate, fresh.args.learning_rate) == (3e-5, 1e-3)


def test_gradient_accumulation_does_not_inflate_the_loss(fit: Train) -> None:
    still = ("train.learning_rate=1e-9", "model.final_dropout=0.0")
    whole = history(fit("whole", *still, "train.batch_size=8"))[0]
    parts = history(fit("parts", *still, "train.batch_size=2", "train.gradient_accumulation=4"))[0]
    assert parts["step"] == whole["step"] == 3
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=0.1)
    assert parts["validation_loss"] == pytest.approx(whole["validation_loss"], rel=1e-4)


@pytest.mark.parametrize("assignments", [("train.batch_size=100",), ("train.gradient_accumulation=100",)])
def test_a_batch_larger_than_the_data_trains(assignments: tuple[str, ...], fit: Train) -> None:
    (row,) = history(fit("run", *assignments))
    assert row["step"] == 1
    assert row["train_loss"] < 10


def test_validation_scores_do_not_depend_on_the_batch_size(fit: Train) -> None:
    still = ("train.learning_rate=1e-9", "model.pooling=sum")
    for norm in ("group", "layer"):
        large = history(fit(f"large-{norm}", *still, "train.batch_size=8", norm=norm))[0]
        single = history(fit(f"single-{norm}", *still, "train.batch_size=1", norm=norm))[0]
        assert single["validation_loss"] == pytest.approx(large["validation_loss"], abs=1e-4)


def test_three_labels_and_odd_names_train_and_come_back(
    tmp_path: Path, backbones: dict[str, Path], crycli: Callable[..., Outcome]
) -> None:
    write_cries(tmp_path / "cries", babies=4, labels={"NA": 300.0, "007": 600.0, "müde, sehr": 900.0})
    prepare_dataset_csv([tmp_path / "cries"], tmp_path / "data", settings("data.group_by=baby-\\d+"))
    done = crycli("train", tmp_path / "data", "-o", tmp_path / "run", "--backbone", backbones["layer"], "--epochs", 1)
    assert done.code == 0
    rows = list(csv.DictReader(crycli("predict", tmp_path / "cries", "-m", tmp_path / "run").out.splitlines()))
    assert len(rows) == 24
    assert {row["label"] for row in rows} <= {"NA", "007", "müde, sehr"}
    assert {"p_NA", "p_007", "p_müde, sehr"} < rows[0].keys()


@pytest.mark.parametrize("size", ["40k", "300k", "600k"])
def test_a_full_disk_ends_with_one_line(
    size: str,
    data: Path,
    backbones: dict[str, Path],
    small_disk: Callable[[str], Path],
    crycli: Callable[..., Outcome],
) -> None:
    run = small_disk(size) / "run"
    done = crycli("train", data, "-o", run, "--backbone", backbones["layer"], "--epochs", 3)
    assert "disk is full" in error_line(done)


def test_a_full_disk_shows_no_traceback_in_a_real_process(
    data: Path, backbones: dict[str, Path], small_disk: Callable[[str], Path], process: Callable[..., Outcome]
) -> None:
    run = small_disk("300k") / "run"
    done = process("-q", "train", data, "-o", run, "--backbone", backbones["layer"], "--epochs", 3)
    assert (done.code, done.out) == (1, "")
    assert "disk is full" in done.err
    assert done.err.count("\n") == 1


class Killed(BaseException):
    """What ends a training in this process as a kill would: nothing is caught, nothing is written any more."""


def killed_at(name: str, count: int) -> Callable[[Step], None]:
    """An `on_step` that ends the training when it is told of such a step for the so many-th time."""
    seen: list[str] = []

    def on_step(step: Step) -> None:
        seen.append(step.name)
        if seen.count(name) == count:
            raise Killed

    return on_step


OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def limit_memory(
    monkeypatch: pytest.MonkeyPatch, clips: int, *, passes: int = 0, error: BaseException = OUT
) -> list[int]:
    """After so many passes no batch of more clips fits. Each pass in training adds its clips to the list returned."""
    done: list[int] = []
    whole = Wav2Vec2ForSpeechClassification.forward

    def forward(self: Any, input_values: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if len(done) >= passes and len(input_values) > clips:
            raise error
        if self.training:
            done.append(len(input_values))
        return whole(self, input_values, *arguments, **named)

    monkeypatch.setattr(Wav2Vec2ForSpeechClassification, "forward", forward)
    return done


@pytest.fixture
def still(data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train a tiny backbone without anything random: still("run", "train.epochs=2")."""
    backbone = steady(tmp_path / "backbone")

    def run(name: str, *assignments: str, data: Path = data, **options: Any) -> Path:
        config = settings(
            f"model.backbone={backbone}", "model.final_dropout=0.0", "train.learning_rate=0.001", *assignments
        )
        train(data, tmp_path / name, config, **options)
        return tmp_path / name

    return run


@pytest.mark.parametrize(("batch", "fits", "warnings"), [(8, 2, 2), (6, 1, 2), (5, 1, 1)])
def test_where_the_memory_runs_out_smaller_batches_train_the_same(
    batch: int, fits: int, warnings: int, still: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = ("train.epochs=1", "train.class_weights=balanced")
    expected = still("small", *once, f"train.batch_size={fits}", f"train.gradient_accumulation={batch // fits}")
    limit_memory(monkeypatch, 2)
    with listening() as said:
        run = still("run", *once, f"train.batch_size={batch}")
    assert [line.startswith("out of memory") for line in said] == [True] * warnings
    assert f"batches of {fits}, of which {batch // fits} make an update" in said[-1]
    close(weights(run), weights(expected), 1e-6)
    assert history(run) == [pytest.approx(row, rel=1e-5) for row in history(expected)]


@pytest.mark.parametrize(("minutes", "again"), [(10, 24), (1e-9, 16)])
def test_where_the_memory_runs_out_later_it_goes_on_from_the_last_checkpoint(
    minutes: float, again: int, still: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second step of the second epoch, of three steps an epoch: after checkpoint 3, or after checkpoint 4."""
    often = ("train.epochs=2", "train.batch_size=8", f"train.checkpoint_minutes={minutes}")
    expected = still("roomy", *often)
    done = limit_memory(monkeypatch, 4, passes=4)
    told: list[int] = []
    with listening() as said:
        run = still("run", *often, on_epoch=lambda row: told.append(row["epoch"]) is None)
    assert len(said) == 1
    assert done[:4] == [8] * 4
    assert done[4:] == [4] * (again // 4)
    assert told == [1, 2]
    close(weights(run), weights(expected), 1e-6)
    assert history(run) == [pytest.approx(row, rel=1e-5) for row in history(expected)]


@pytest.mark.parametrize(
    "error",
    [
        OUT,
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 2.3 GiB for an array with shape (1, 3) and data type float32"),
    ],
)
def test_where_the_memory_does_not_hold_a_single_clip_one_line_says_what_to_do(
    error: BaseException,
    data: Path,
    backbones: dict[str, Path],
    tmp_path: Path,
    crycli: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit_memory(monkeypatch, 0, error=error)
    done = crycli("-q", "train", data, "-o", tmp_path / "run", "--backbone", backbones["layer"], "--batch-size", 2)
    line = error_line(done)
    assert "out of memory" in line
    assert "data.max_seconds" in line
    assert not (tmp_path / "run" / "model").exists()


def test_another_fault_of_the_network_is_not_taken_for_a_lack_of_memory(
    still: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 0, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with listening() as said, pytest.raises(RuntimeError, match="mat1 and mat2"):
        still("run")
    assert said == []


def test_the_history_is_there_after_each_epoch(still: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        still("run", "train.epochs=3", on_step=killed_at("train", 8))  # three updates an epoch
    assert [row["epoch"] for row in history(tmp_path / "run")] == [1, 2]
    assert not (tmp_path / "run" / "model").exists()


def test_a_table_grows_on_standard_error_and_the_summary_alone_is_on_standard_output(
    data: Path, backbones: dict[str, Path], tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    command = ("train", data, "-o", tmp_path / "run", "--backbone", backbones["layer"], "--epochs", 3)
    done = crycli(*command)
    lines = [line.split() for line in done.err.splitlines()]
    columns = "epoch train loss validation loss macro F1 balanced acc. learning rate clips/s time left".split()
    header = lines.index(columns)
    epochs = [line for line in lines if "/3" in line[0]]
    assert lines.count(columns) == 1
    assert lines[header + 1 : header + 4] == epochs
    assert [line[:5] for line in epochs] == [
        [f"{row['epoch']:.0f}/3"]
        + [f"{row[name]:.3f}" for name in ("train_loss", "validation_loss", "validation_macro_f1")]
        + [f"{row['validation_balanced_accuracy']:.3f}"]
        for row in history(tmp_path / "run")
    ]
    best = results(tmp_path / "run")["best_epoch"]
    assert [" ".join(line[-3:]) for line in epochs][int(str(best)) - 1] == "best so far"
    assert [line.split("  ")[0] for line in done.out.splitlines() if line] == [
        str(tmp_path / "run"),
        "best epoch",
        "validation macro F1",
        "validation balanced accuracy",
        "validation accuracy",
        "model",
    ]
    assert f"{best} of 3" in done.out
    quiet = crycli("-q", *command, "--force")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_curves_confusion_matrix_and_projector_are_there_to_look_at(long_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Image.open(long_run / "curves.png") as curves:
        assert min(curves.size) > 300
    best = min(history(long_run), key=lambda row: (-row["validation_macro_f1"], row["validation_loss"]))
    events = EventAccumulator(str(long_run / "logs"))
    events.Reload()
    picture = events.Images("validation/confusion_matrix")[-1]
    assert picture.step == best["step"]
    with Image.open(io.BytesIO(picture.encoded_image_string)) as matrix:
        assert min(matrix.size) > 100
    assert {"eval/log_loss", "eval/balanced_accuracy", "train/learning_rate"} <= set(events.Tags()["scalars"])
    (vectors,) = (long_run / "logs").rglob("tensors.tsv")
    rows = [line.split("\t") for line in vectors.read_text().splitlines()]
    assert (len(rows), {len(row) for row in rows}) == (4, {32})
    assert sorted(vectors.with_name("metadata.tsv").read_text().split()) == ["high", "high", "low", "low"]
    assert (long_run / "logs" / "projector_config.pbtxt").is_file()


def test_the_metrics_say_what_was_trained_on_what_and_how_well(long_run: Path) -> None:
    metrics = json.loads((long_run / "metrics.json").read_text())
    best = history(long_run)[metrics["best_epoch"] - 1]
    scores = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "macro_auc")
    assert set(metrics["validation"]) == set(scores)
    assert all(metrics["validation"][name] == pytest.approx(best[f"validation_{name}"], rel=1e-5) for name in scores)
    for name, (low, high) in metrics["validation_intervals"].items():
        assert 0 <= low <= high <= 1
        if name in metrics["validation"]:
            assert low <= metrics["validation"][name] <= high
    told = {"crycli_version", "backbone", "epochs", "seconds", "device", "precision", "processes", "unreadable"}
    assert told | {"torch_version", "transformers_version"} < metrics.keys()
    assert metrics["processes"] == 1


def keep_rows(file: Path, keep: Callable[[str], bool]) -> None:
    """Leave out rows of a manifest."""
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *filter(keep, rows)]) + "\n")


def test_a_label_that_is_not_validated_leaves_scores_of_the_others(
    small: Path, backbones: dict[str, Path], tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    keep_rows(small / "validation.csv", lambda row: ",low," in row)
    done = crycli("train", small, "-o", tmp_path / "run", "--backbone", backbones["layer"], "--epochs", 2)
    assert done.code == 0
    validation = json.loads((tmp_path / "run" / "metrics.json").read_text())["validation"]
    assert validation["macro_auc"] is None
    assert validation["balanced_accuracy"] == validation["accuracy"]


def test_a_score_that_validation_cannot_give_is_refused_before_anything_is_trained(
    small: Path, still: Callable[..., Path], tmp_path: Path, backbones: dict[str, Path]
) -> None:
    keep_rows(small / "validation.csv", lambda row: ",low," in row)
    told: list[str] = []
    config = settings(f"model.backbone={backbones['layer']}", "train.epochs=1", "train.select_by=macro_auc")
    with pytest.raises(ConfigError, match="macro_auc"):
        train(small, tmp_path / "run", config, on_step=lambda step: told.append(step.name))
    assert "train" not in told


def test_one_label_alone_is_refused_with_one_line(
    small: Path, backbones: dict[str, Path], tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    for part in ("train", "validation"):
        keep_rows(small / f"{part}.csv", lambda row: ",low," in row)
    line = error_line(crycli("-q", "train", small, "-o", tmp_path / "run", "--backbone", backbones["layer"]))
    assert str(small / "train.csv") in line
    assert "low" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "assignments",
    [
        ("train.class_weights=effective", "augment.mixup=0.4", "workers=1"),
        ("train.sampling=balanced", "train.gradient_accumulation=3", "train.batch_size=1"),
        ("model.freeze=backbone", "train.logit_adjustment=1.0"),
    ],
)
def test_one_clip_a_label_trains(assignments: tuple[str, ...], small: Path, still: Callable[..., Path]) -> None:
    first: dict[str, str] = {}
    keep_rows(small / "train.csv", lambda row: first.setdefault(row.split(",")[1], row) == row)
    assert sorted(first) == ["high", "low"]
    run = still("run", "train.epochs=2", *assignments, data=small)
    assert [row["step"] for row in history(run)] == [1, 2]
    assert all(math.isfinite(row["train_loss"]) for row in history(run))
