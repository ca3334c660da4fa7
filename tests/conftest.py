"""Small recordings and small networks made on the spot; one thread; no network; no recording of a real baby."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Before torch, transformers and datasets are imported, here and in the processes that the tests start.
# With both cores busy a small network takes 580 ms on two threads and 17 ms on one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="crycli-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["COLUMNS"] = "200"
os.environ["CRYCLI_CACHE"] = tempfile.mkdtemp(prefix="crycli-tests-")

import hypothesis
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from crycli.audio import SAMPLE_RATE
from crycli.config import Config, load_config

# The same examples in every run: a gate that opens by luck is none. `--hypothesis-profile=default` explores.
hypothesis.settings.register_profile("crycli", derandomize=True, deadline=None)
hypothesis.settings.load_profile("crycli")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real recordings for development; they are no part of the project."""

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "layerdrop": 0.0,
}
NORMS = {
    "group": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "layer": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real recordings; the test is skipped where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real recordings are not on this machine")
    return REAL_DATA


def cry(hertz: float, seconds: float, seed: int = 0, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A harmonic tone with some noise: (samples,) float32."""
    time = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * hertz * number * time) / number for number in (1, 2, 3))
    noise = np.random.default_rng(seed).standard_normal(len(time)) * 0.05
    return ((tone + noise) * 0.2).astype(np.float32)


def write_cries(folder: Path, babies: int = 8, labels: dict[str, float] | None = None) -> Path:
    """LABEL/baby-NN-N.wav, two clips of 0.6 to 0.9 s for each label and baby; the label decides the pitch."""
    for label, hertz in (labels or {"high": 900.0, "low": 300.0}).items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for baby in range(babies):
            for take in range(2):
                seconds = 0.6 + 0.1 * ((baby + take) % 4)
                # Two recordings with the same noise would be found to be of the same sound.
                samples = cry(hertz * (1 + 0.02 * baby), seconds, seed=round(hertz) * 1000 + baby * 2 + take)
                soundfile.write(folder / label / f"baby-{baby:02d}-{take}.wav", samples, SAMPLE_RATE)
    return folder


@pytest.fixture(scope="session")
def cries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 synthetic recordings, two labels, eight babies. Not to be changed by a test."""
    return write_cries(tmp_path_factory.mktemp("cries"))


@pytest.fixture(scope="session")
def data(cries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifests of `cries`, split by baby. Not to be changed by a test."""
    from crycli.prepare import prepare_dataset_csv

    folder = tmp_path_factory.mktemp("data")
    prepare_dataset_csv([cries], folder, settings("data.group_by=baby-\\d+"))
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A dataset to be changed: 16 recordings, of two labels and four babies, and its manifests beside them."""
    from crycli.prepare import prepare_dataset_csv

    write_cries(tmp_path / "small" / "cries", babies=4)
    babies = settings("data.group_by=baby-\\d+")
    prepare_dataset_csv([tmp_path / "small" / "cries"], tmp_path / "small", babies, force=True)
    return tmp_path / "small"


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny plain wav2vec2 checkpoints with random weights: "group" and "layer" norm."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    folders = {}
    for norm, architecture in NORMS.items():
        torch.manual_seed(0)
        folders[norm] = tmp_path_factory.mktemp(f"backbone-{norm}")
        Wav2Vec2Model(Wav2Vec2Config(**TINY, **architecture)).save_pretrained(folders[norm])
    return folders


@pytest.fixture(scope="session")
def runs(data: Path, backbones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one epoch from the tiny backbones: "group" and "layer". Not to be changed by a test."""
    from crycli.training import train

    folders = {}
    for norm, backbone in backbones.items():
        folders[norm] = tmp_path_factory.mktemp("runs") / norm
        train(
            data, folders[norm], settings(f"model.backbone={backbone}", "train.epochs=1", "train.learning_rate=0.001")
        )
    return folders


@pytest.fixture(scope="session")
def bundles(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of `runs`: "group" and "layer". Not to be changed by a test."""
    from crycli.exporting import export_bundle

    folders = {}
    for norm, run in runs.items():
        folders[norm] = tmp_path_factory.mktemp("bundles") / norm
        export_bundle(str(run), folders[norm])
    return folders


def settings(*assignments: str) -> Config:
    """The defaults with some settings changed, as by --set."""
    return load_config(None, assignments)


INTERRUPTED = (130, -signal.SIGINT)
"""Under `python -m` Python may end itself by the signal after Ctrl-C; a shell calls that 130 too."""


def interruptible() -> None:
    """For `preexec_fn`: a shell that runs the tests in the background has its children ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def crycli() -> Callable[..., Outcome]:
    """Run a command in this process: crycli("prepare", root, "-o", folder)."""
    from crycli.cli import app

    def run(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def process() -> Callable[..., Outcome]:
    """Run a command in a process of its own, without a terminal: process("prepare", root, "-o", folder)."""

    def run(*arguments: object, **options: object) -> Outcome:
        command = [sys.executable, "-m", "crycli", *(str(argument) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run
