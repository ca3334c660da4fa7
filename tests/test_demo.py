"""The demo, as a person runs it: the whole job in a real process."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Outcome:
    import subprocess
    import sys

    command = [sys.executable, "-m", "crycli", "demo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_the_demo_ends_well_and_far_above_chance(outcome: Outcome, folder: Path) -> None:
    assert outcome.code == 0, outcome.err
    scores = json.loads((folder / "crycli-demo" / "report" / "metrics.json").read_text())
    assert scores["chance_balanced_accuracy"] == pytest.approx(1 / 3)
    assert scores["balanced_accuracy"] > 0.8


def test_the_demo_says_that_synthetic_cries_prove_nothing(outcome: Outcome) -> None:
    assert "prove nothing about babies" in outcome.err
    assert "says nothing about what can be told from a real baby's cry" in outcome.err


def test_the_demo_shows_the_five_commands_in_order(outcome: Outcome) -> None:
    names = re.findall(r"^\$ crycli (\w+)", outcome.err, re.MULTILINE)
    assert names == ["prepare", "train", "eval", "predict", "export", "predict"]


def test_a_command_that_the_demo_shows_does_the_same(
    outcome: Outcome, folder: Path, crycli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    prepare, _, evaluate, predict, _, from_bundle = re.findall(r"^\$ crycli (.+)", outcome.err, re.MULTILINE)
    before = (folder / "crycli-demo" / "data" / "train.csv").read_bytes()
    assert crycli(*shlex.split(prepare), "--force").code == 0
    assert (folder / "crycli-demo" / "data" / "train.csv").read_bytes() == before
    assert crycli(*shlex.split(evaluate), "--force").code == 0
    for command in (predict, from_bundle):
        assert crycli(*shlex.split(command)).out in outcome.out


def test_the_demo_refuses_to_run_over_an_earlier_one(
    outcome: Outcome, folder: Path, crycli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    again = crycli("demo")
    assert again.code == 1
    assert "--force" in again.err
