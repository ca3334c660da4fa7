"""Going on with a run that was broken off anywhere: to the same weights, from the same settings and clips."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from conftest import cry, settings
from safetensors.torch import load_file
from test_training import Killed, Train, killed_at, newest, results, same, weights, without_pictures

from crycli.audio import SAMPLE_RATE
from crycli.errors import ConfigError, DataError
from crycli.training import train

EVERYTHING_RANDOM = (
    "train.epochs=2",
    "train.learning_rate=0.003",
    "train.class_weights=effective",
    "augment.mixup=0.4",
    "augment.time_mask=0.3",
    "model.final_dropout=0.3",
    "workers=1",
    "train.checkpoint_minutes=1e-9",
    "train.keep_checkpoints=50",
)
CUTS = {"whole": ("train.batch_size=6",), "accumulated": ("train.batch_size=3", "train.gradient_accumulation=2")}
"""Four updates an epoch."""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)


@pytest.fixture
def fit(data: Path, backbones: dict[str, Path], tmp_path: Path) -> Train:
    """Train a tiny backbone with its dropout: fit("run", "train.epochs=2", resume=True)."""

    def run(name: str, *assignments: str, data: Path = data, **options: Any) -> Path:
        train(data, tmp_path / name, settings(f"model.backbone={backbones['layer']}", *assignments), **options)
        return tmp_path / name

    return run


@pytest.fixture(scope="module", params=CUTS)
def random_run(
    request: pytest.FixtureRequest, data: Path, backbones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, ...]]:
    """An uninterrupted run with all that is random, a checkpoint after each update; and its settings."""
    run = tmp_path_factory.mktemp("random") / "run"
    chosen = (*EVERYTHING_RANDOM, *CUTS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        train(data, run, settings(f"model.backbone={backbones['layer']}", *chosen))
    return run, chosen


def broken_off(run: Path, step: int, copy: Path) -> Path:
    """A copy of a run as a kill leaves it when the checkpoint of a step was the last one."""
    shutil.copytree(run, copy)
    for name in ("model", "metrics.json", "history.csv", "curves.png"):
        target = copy / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    for checkpoint in copy.glob("checkpoints/checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    return copy


def assert_same_run(run: Path, other: Path) -> None:
    """Assert that two runs learnt the same: to the last bit, in the kept epoch and in the last one."""
    assert (run / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
    assert newest(run).name == newest(other).name
    assert same(load_file(newest(run) / "model.safetensors"), load_file(newest(other) / "model.safetensors"))
    assert same(weights(run), weights(other))
    assert results(run) == results(other)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_run_broken_off_after_any_update_goes_on_as_if_nothing_had_happened(
    step: int, random_run: tuple[Path, tuple[str, ...]], fit: Train, tmp_path: Path
) -> None:
    """In the first epoch; at the end of it; in the second."""
    whole, chosen = random_run
    run = broken_off(whole, step, tmp_path / "run")
    fit("run", *chosen, resume=True)
    assert_same_run(run, whole)


@pytest.mark.parametrize("moment", [("train", 6), ("validate", 1)])
def test_a_run_killed_at_any_moment_goes_on_as_if_nothing_had_happened(
    moment: tuple[str, int], fit: Train, tmp_path: Path
) -> None:
    """After an update and before its checkpoint; in the validation that follows the last update of an epoch."""
    often = ("train.epochs=2", "train.batch_size=6", "train.checkpoint_minutes=1e-9", "train.learning_rate=0.003")
    whole = fit("whole", *often)
    with pytest.raises(Killed):
        fit("run", *often, on_step=killed_at(*moment))
    fit("run", *often, resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_a_run_killed_twice_goes_on_as_if_nothing_had_happened(fit: Train, tmp_path: Path) -> None:
    often = ("train.epochs=2", "train.batch_size=4", "train.checkpoint_minutes=1e-9", "train.learning_rate=0.003")
    whole = fit("whole", *often)
    for count in (3, 2):
        with pytest.raises(Killed):
            fit("run", *often, on_step=killed_at("train", count), resume=(tmp_path / "run").exists())
    fit("run", *often, resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_what_does_not_change_what_is_learnt_may_change_and_the_dataset_may_move(
    small: Path, fit: Train, tmp_path: Path
) -> None:
    before = ("train.epochs=2", "train.batch_size=4", "workers=1")
    whole = fit("whole", *before, data=small)
    broken_off(whole, 2, tmp_path / "run")
    moved = small.rename(tmp_path / "moved")
    after = ("workers=2", "train.checkpoint_minutes=1", "train.keep_checkpoints=3", "offline=true", "cache=none")
    fit("run", "train.epochs=2", "train.batch_size=4", *after, data=moved, resume=True)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        ("train.epochs=3", "train.epochs was 1 and is now 3"),
        ("train.gradient_accumulation=2", "train.gradient_accumulation was 1 and is now 2"),
        ("augment.mixup=0.2", "augment.mixup was 0.0 and is now 0.2"),
        ("model.pooling=max", "model.pooling was auto and is now max"),
        ("data.max_seconds=5.0", "data.max_seconds was 10.0 and is now 5.0"),
    ],
)
def test_other_settings_are_refused_with_the_difference_in_one_line(
    now: str, difference: str, runs: dict[str, Path], data: Path, backbones: dict[str, Path]
) -> None:
    begun = (f"model.backbone={backbones['layer']}", "train.epochs=1", "train.learning_rate=0.001")
    with pytest.raises(ConfigError) as caught:
        train(data, runs["layer"], settings(*begun, now), resume=True)
    (line,) = str(caught.value).splitlines()
    assert f"cannot resume {runs['layer']}: {difference}: " in line


def add(data: Path) -> None:
    """A new recording at the end of train.csv."""
    soundfile.write(data / "cries" / "new.wav", cry(500.0, 0.7), SAMPLE_RATE)
    with (data / "train.csv").open("a") as stream:
        stream.write(line_for(data, "cries/new.wav"))


def line_for(data: Path, path: str) -> str:
    """A row of train.csv for a path."""
    columns = (data / "train.csv").read_text().splitlines()[0].split(",")
    return ",".join({"path": path, "label": "low", "group": "new"}.get(name, "") for name in columns) + "\n"


def change(part: str, edit: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Edit the rows of a manifest."""

    def to(data: Path) -> None:
        header, *rows = (data / f"{part}.csv").read_text().splitlines()
        (data / f"{part}.csv").write_text("\n".join([header, *edit(rows)]) + "\n")

    return to


def sound(data: Path) -> None:
    """Another sound in the first recording of train.csv, of the same name and length."""
    path = data / (data / "train.csv").read_text().splitlines()[1].split(",")[0]
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)


def relabelled(rows: list[str]) -> list[str]:
    """The first clip with the other label."""
    path, label, rest = rows[0].split(",", 2)
    return [f"{path},{'low' if label == 'high' else 'high'},{rest}", *rows[1:]]


@pytest.mark.parametrize(
    ("edit", "difference", "row"),
    [
        (add, "1 new, such as cries/new.wav of train.csv", None),
        (change("train", lambda rows: rows[1:]), "1 gone, such as {path} of train.csv", 0),
        (change("validation", lambda rows: rows[1:]), "1 gone, such as {path} of validation.csv", 0),
        (change("train", relabelled), "1 with another label, such as {path} of train.csv", 0),
        (sound, "1 with another sound, such as {path} of train.csv", 0),
        (change("train", lambda rows: rows[::-1]), "they stand in another order", None),
    ],
)
def test_other_clips_are_refused_with_the_difference_in_one_line(
    edit: Callable[[Path], None], difference: str, row: int | None, small: Path, fit: Train, tmp_path: Path
) -> None:
    begun = ("train.epochs=1", "model.freeze=backbone")
    run = fit("run", *begun, data=small)
    finished = weights(run)
    part = "validation" if "validation" in difference else "train"
    path = (small / f"{part}.csv").read_text().splitlines()[1 + (row or 0)].split(",")[0]
    edit(small)
    with pytest.raises(DataError) as caught:
        fit("run", *begun, data=small, resume=True)
    (line,) = str(caught.value).splitlines()
    assert f"cannot resume {run}: " in line
    assert f"({difference.format(path=path)})" in line
    assert same(weights(run), finished)
