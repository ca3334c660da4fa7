"""Two processes, started by torchrun or accelerate: they learn what one would, speak once, and end together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed
from conftest import Outcome, settings
from safetensors.torch import load_file
from test_training import close, history, newest, results, same, steady, weights, without_pictures

from crycli.training import train

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch has no gloo here")

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# `--cpu --num_processes 2` would start one process; on a machine without a GPU this starts two on the CPU.
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")

SETTINGS = (
    "train.epochs=2",
    "train.batch_size=5",  # two processes: updates of 10, 10 and 4 clips
    "train.learning_rate=0.001",
    "train.class_weights={high: 2.0, low: 1.0}",
    "train.keep_checkpoints=3",
    "model.final_dropout=0.0",
    "device=cpu",
)


def launch(launcher: tuple[str, ...], *arguments: object) -> Outcome:
    """`crycli train` in two processes."""
    command = [sys.executable, "-m", *launcher, "-m", "crycli", "train", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def assignments(backbone: Path) -> list[str]:
    """The settings as flags."""
    return [f"--set={setting}" for setting in (f"model.backbone={backbone}", *SETTINGS)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone without anything random in training."""
    return steady(tmp_path_factory.mktemp("steady"))


@pytest.fixture(scope="module")
def two(data: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A run of two processes under torchrun, and what it said. Not to be changed by a test."""
    run = tmp_path_factory.mktemp("two") / "run"
    done = launch(TORCHRUN, data, "-o", run, *assignments(backbone))
    assert done.code == 0, done.err
    return run, done


def test_two_processes_learn_what_one_learns_with_twice_the_accumulation(
    two: tuple[Path, Outcome],
    data: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_pictures(monkeypatch)
    config = settings(f"model.backbone={backbone}", *SETTINGS, "train.gradient_accumulation=2")
    train(data, tmp_path / "one", config)
    run, _ = two
    assert newest(run).name == newest(tmp_path / "one").name == "checkpoint-6"
    for some, others in zip(history(run), history(tmp_path / "one"), strict=True):
        assert some == pytest.approx(others, rel=1e-4)
    close(weights(run), weights(tmp_path / "one"), 1e-5)


def test_two_processes_leave_one_run_and_one_of_them_speaks(two: tuple[Path, Outcome]) -> None:
    run, done = two
    assert results(run)["processes"] == 2
    names = {path.name for path in run.iterdir()}
    assert names == {"model", "checkpoints", "logs", "config.yaml", "metrics.json", "history.csv", "curves.png"}
    assert len(list((run / "logs").glob("events.*"))) == 1
    said = [line.split()[:1] for line in done.err.splitlines()]
    for first in ("loading", "epoch", "1/2", "2/2"):
        assert said.count([first]) == 1, done.err
    assert "Traceback" not in done.err
    assert [line.split("  ")[0] for line in done.out.splitlines() if line][:2] == [str(run), "best epoch"]
    assert done.out.count("best epoch") == 1


def test_two_processes_go_on_with_a_run_that_was_killed(
    two: tuple[Path, Outcome], data: Path, backbone: Path, tmp_path: Path
) -> None:
    whole, _ = two
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "model")
    shutil.rmtree(newest(run))
    done = launch(ACCELERATE, data, "-o", run, "--resume")
    assert done.code == 0, done.err
    assert "1/2" not in done.err
    assert results(run) == results(whole)
    assert (run / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    assert same(*(load_file(newest(some) / "model.safetensors") for some in (run, whole)))
    assert same(weights(run), weights(whole))


def test_an_error_ends_all_processes_with_one_line(backbone: Path, tmp_path: Path) -> None:
    done = launch(TORCHRUN, tmp_path / "missing", "-o", tmp_path / "run", *assignments(backbone))
    assert done.code == 1
    assert done.out == ""
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert str(tmp_path / "missing") in line
    assert not (tmp_path / "run").exists()
