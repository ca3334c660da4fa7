"""Search: what may be tried, what it writes, and that an interruption changes nothing."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import settings

from crycli import resuming, training
from crycli.config import Config, Interval, flatten, load_config, to_yaml
from crycli.errors import ConfigError, DataError, OutputError, TrainingError
from crycli.inference import load_predictor
from crycli.progress import OnStep, Step
from crycli.search import SearchResult, search
from crycli.trainer import OnEpoch

SPACE = {
    "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "train.batch_size": {"low": 4, "high": 8, "whole": True},
    "model.pooling": ["mean", "max"],
    "train.patience": [None, 1],
    "train.class_weights": [{"high": 1.0, "low": 2.0}],
}


def with_space(config: Config, space: Mapping[str, Any], **others: object) -> Config:
    """The configuration with another space; the names of other settings with "__" for "."."""
    flags = flatten(config) | {"search.space": dict(space)}
    return load_config(None, (), flags | {name.replace("__", "."): value for name, value in others.items()})


@pytest.fixture(scope="module")
def tiny(backbones: dict[str, Path]) -> Config:
    config = settings(f"model.backbone={backbones['layer']}", "train.epochs=2", "train.learning_rate=0.003")
    return with_space(config, SPACE)


@pytest.fixture(scope="module")
def dataset(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` with a test part that cannot be read. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("dataset") / "data"
    shutil.copytree(data, folder)
    (folder / "test.csv").write_text("no manifest")
    return folder


@dataclass(frozen=True)
class Done:
    """A search of two trials that nothing interrupted. Not to be changed by a test."""

    result: SearchResult
    output: Path
    steps: list[Step]


@pytest.fixture(scope="module")
def whole(dataset: Path, tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Done:
    output = tmp_path_factory.mktemp("whole") / "a b?c=1&d#e%20{f}é"
    steps: list[Step] = []
    return Done(search(dataset, output, tiny, 2, on_step=steps.append), output, steps)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a model folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_it_tries_what_the_space_names_and_keeps_the_best(tiny: Config, whole: Done) -> None:
    result, output = whole.result, whole.output
    assert [(trial.number, trial.state) for trial in result.trials] == [(n, "finished") for n in (1, 2)]
    assert result.best.score == max(trial.score for trial in result.trials if trial.score is not None)
    assert len({trial.settings["train.learning_rate"] for trial in result.trials}) == 2
    for trial in result.trials:
        run = output / f"trial-{trial.number:04d}"
        assert list(trial.settings) == list(SPACE)
        assert 1e-4 <= trial.settings["train.learning_rate"] <= 1e-2
        assert type(trial.settings["train.batch_size"]) is int
        assert trial.settings["train.patience"] in (None, 1)
        assert flatten(load_config(run / "config.yaml")) == flatten(tiny) | trial.settings
        assert trial.score == json.loads((run / "metrics.json").read_text())["validation"]["macro_f1"]
        assert {path.name for path in run.iterdir()} == set(resuming.RUN_FILES) - {"checkpoints"}


def test_the_output_is_a_run_with_the_best_trials_model(whole: Done) -> None:
    result, output = whole.result, whole.output
    best = output / f"trial-{result.best.number:04d}"
    assert contents(output / "model") == contents(best / "model")
    for name in ("config.yaml", "history.csv", "curves.png"):
        assert (output / name).read_bytes() == (best / name).read_bytes()
    assert load_predictor(str(output)).labels == ("high", "low")
    written = json.loads((output / "metrics.json").read_text())
    assert written["best"]["settings"] == result.best.settings
    assert [trial["score"] for trial in written["trials"]] == [trial.score for trial in result.trials]
    so_far = [trial["best_so_far"] for trial in written["trials"]]
    assert so_far == sorted(so_far)
    assert so_far[-1] == result.best.score
    assert "flatters" in result.remark
    assert "crycli eval" in result.remark


def test_the_test_part_is_not_read(dataset: Path, whole: Done) -> None:
    assert (dataset / "test.csv").read_text() == "no manifest"
    assert whole.result.best


def test_progress_and_rows_name_the_trial(whole: Done) -> None:
    assert {"trial 1/2: train", "trial 2/2: train"} <= {step.name for step in whole.steps}
    assert {step.row["trial"] for step in whole.steps if step.row is not None} == {"1/2", "2/2"}


def test_a_folder_of_any_name_will_do(whole: Done) -> None:
    assert set("?#%{} ") < set(whole.output.name)
    assert (whole.output / "search.db").is_file()


def test_after_a_kill_it_goes_on_and_ends_as_if_nothing_had_happened(
    dataset: Path, tiny: Config, whole: Done, tmp_path: Path
) -> None:
    output, file = tmp_path / "search", tmp_path / "config.yaml"
    file.write_text(to_yaml(tiny), encoding="utf-8")
    code = "import sys; from pathlib import Path; from crycli.config import load_config; "
    code += "from crycli.search import search; "
    code += "data, output, file = map(Path, sys.argv[1:]); search(data, output, load_config(file), 2)"
    process = subprocess.Popen([sys.executable, "-c", code, str(dataset), str(output), str(file)])
    deadline = time.monotonic() + 120
    while not list(output.glob("trial-0002/checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (output / "metrics.json").exists()
    assert_ends_like(whole, dataset, tiny, output)


@pytest.mark.parametrize("moment", ["trial 1/2: validate", "trial 2/2: train"])
def test_after_ctrl_c_it_goes_on_and_ends_as_if_nothing_had_happened(
    dataset: Path, tiny: Config, whole: Done, tmp_path: Path, moment: str
) -> None:
    def interrupt(step: Step) -> None:
        if step.name == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(dataset, tmp_path / "search", tiny, 2, on_step=interrupt)
    assert_ends_like(whole, dataset, tiny, tmp_path / "search")


def assert_ends_like(whole: Done, dataset: Path, config: Config, output: Path) -> None:
    """Resume and compare with what was not interrupted; trials that were finished stay as they are."""
    finished = {file: file.stat().st_mtime_ns for file in output.glob("trial-*/metrics.json")}
    assert search(dataset, output, config, 2, resume=True) == whole.result
    assert finished == {file: file.stat().st_mtime_ns for file in finished}
    weights = "model/model.safetensors"
    assert (output / weights).read_bytes() == (whole.output / weights).read_bytes()
    assert [path.name for path in output.glob("trial-*/checkpoints")] == []


def test_resuming_what_is_finished_trains_nothing(
    dataset: Path, tiny: Config, whole: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole.output, tmp_path / "search")
    monkeypatch.delattr(training, "train")
    assert search(dataset, tmp_path / "search", tiny, 2, resume=True) == whole.result


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ("space", ConfigError, r"in search.space model.pooling was \['mean', 'max'\] and is now not there"),
        ("settings", ConfigError, "train.epochs was 2 and is now 3"),
        ("clips", DataError, "validation.csv is not what it was begun with"),
        ("weights", DataError, "model.safetensors of .* is not what it was begun with"),
        ("study", DataError, "is not a search"),
        ("damage", DataError, "search.db is damaged"),
    ],
)
def test_resuming_with_something_changed_is_refused(
    dataset: Path,
    tiny: Config,
    whole: Done,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    kind: type[Exception],
    message: str,
) -> None:
    data, output = tmp_path / "data", tmp_path / "search"
    shutil.copytree(dataset, data)
    shutil.copytree(whole.output, output)
    config = tiny
    if change == "space":
        config = with_space(tiny, {key: values for key, values in SPACE.items() if key != "model.pooling"})
    elif change == "settings":
        config = with_space(tiny, SPACE, train__epochs=3)
    elif change == "clips":
        lines = (data / "validation.csv").read_text().splitlines(keepends=True)
        (data / "validation.csv").write_text("".join(lines[:-1]))
    elif change == "weights":
        monkeypatch.setattr("crycli.search.hash_weights", lambda folder: {"model.safetensors": "0" * 64})
    elif change == "study":
        (output / "search.db").unlink()
    elif change == "damage":
        (output / "search.db").write_bytes(b"no database" * 1000)
    with pytest.raises(kind, match=message):
        search(data, output, config, 4, resume=True)


def test_a_search_is_not_resumed_as_a_single_run(dataset: Path, tiny: Config, whole: Done) -> None:
    before = (whole.output / "metrics.json").read_bytes()
    with pytest.raises(DataError, match="is a search: give --search"):
        training.train(dataset, whole.output, tiny, resume=True)
    assert (whole.output / "metrics.json").read_bytes() == before


def test_a_trial_that_fails_is_reported_and_the_search_goes_on(
    dataset: Path, tiny: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_space(tiny, {"train.precision": ["fp16", "no"], "train.seed": [1, 2]}, device="cpu")
    result = search(dataset, tmp_path / "search", config, 3)
    assert {trial.state for trial in result.trials} == {"finished", "failed"}
    for trial in result.trials:
        failed = trial.settings["train.precision"] == "fp16"
        assert (trial.state, trial.score is None) == (("failed", True) if failed else ("finished", False))
        assert ("fp16 needs an NVIDIA GPU" in trial.remark) == failed
    assert "failed: train.precision: fp16 needs an NVIDIA GPU" in caplog.text


def test_a_search_whose_trials_all_fail_says_why(dataset: Path, tiny: Config, tmp_path: Path) -> None:
    config = with_space(tiny, {"train.precision": ["fp16"]}, device="cpu")
    with pytest.raises(TrainingError, match=r"none of the 2 trials was finished: .* fp16 needs an NVIDIA GPU"):
        search(dataset, tmp_path / "search", config, 2)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Stands in for training, where a law is about the trials alone: an epoch's score is the dropout.

    The epochs that each trial was trained for.
    """
    epochs: dict[int, int] = {}

    def train(data: Path, output: Path, config: Config, *, on_step: OnStep, on_epoch: OnEpoch, **_: object) -> None:
        number, score = int(output.name.removeprefix("trial-")), config.model.final_dropout
        for epoch in range(1, config.train.epochs + 1):
            on_step(Step("train", epoch, config.train.epochs))
            epochs[number] = epoch
            if not on_epoch({"epoch": epoch, "validation_macro_f1": score}):
                break
        (output / "model").mkdir(parents=True)
        (output / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        for name in ("history.csv", "curves.png"):
            (output / name).touch()
        content = {"best_epoch": 1, "unreadable": 0, "validation": {"macro_f1": score, "loss": 1.0}}
        (output / "metrics.json").write_text(json.dumps(content))

    monkeypatch.setattr(training, "train", train)
    return epochs


@pytest.fixture
def dropout(tiny: Config) -> Config:
    """A space for `untrained`."""
    return with_space(tiny, {"model.final_dropout": {"low": 0.0, "high": 0.9}}, train__epochs=6)


def test_a_trial_below_the_median_is_stopped_early(
    dataset: Path, dropout: Config, tmp_path: Path, untrained: dict[int, int]
) -> None:
    trials = search(dataset, tmp_path / "search", dropout, 12).trials
    completed: list[float] = []
    for trial in trials:
        score = trial.settings["model.final_dropout"]
        hopeless = len(completed) >= 5 and score < statistics.median(completed)
        assert (trial.state, untrained[trial.number]) == (("pruned", 3) if hopeless else ("finished", 6))
        assert trial.remark == ("after epoch 3" if hopeless else "")
        assert trial.score == score
        if not hopeless:
            completed.append(score)
    assert len(completed) < len(trials)


def test_an_interruption_changes_nothing_of_what_is_drawn(
    dataset: Path, dropout: Config, tmp_path: Path, untrained: dict[int, int]
) -> None:
    expected = search(dataset, tmp_path / "whole", dropout, 13)
    moments = [f"trial {number}/13: train" for number in (1, 7, 7, 13)]

    def interrupt(step: Step) -> None:
        if moments and step.name == moments[0] and step.done == 2:
            moments.pop(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(dataset, tmp_path / "search", dropout, 13, on_step=interrupt)
    while moments:
        with pytest.raises(KeyboardInterrupt):
            search(dataset, tmp_path / "search", dropout, 13, resume=True, on_step=interrupt)
    assert search(dataset, tmp_path / "search", dropout, 13, resume=True) == expected


def test_more_trials_can_be_added_and_draw_what_one_search_would_have_drawn(
    dataset: Path, dropout: Config, tmp_path: Path, untrained: dict[int, int]
) -> None:
    expected = search(dataset, tmp_path / "whole", dropout, 12)
    assert search(dataset, tmp_path / "search", dropout, 5).trials == expected.trials[:5]
    # The command line takes the settings from the folder, where those of the best trial stand now.
    config = load_config(tmp_path / "search" / "config.yaml")
    assert config.model.final_dropout == max(trial.score or 0.0 for trial in expected.trials[:5])
    assert search(dataset, tmp_path / "search", config, 12, resume=True) == expected


def test_another_seed_draws_other_settings(
    dataset: Path, dropout: Config, tmp_path: Path, untrained: dict[int, int]
) -> None:
    found = [
        search(dataset, tmp_path / str(seed), with_space(dropout, dropout.search.space, train__seed=seed), 2)
        for seed in (0, 1)
    ]
    assert len({trial.settings["model.final_dropout"] for result in found for trial in result.trials}) == 4


def test_optuna_says_nothing_by_itself(
    dataset: Path,
    dropout: Config,
    tmp_path: Path,
    untrained: dict[int, int],
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    search(dataset, tmp_path / "search", dropout, 1)
    assert tuple(capfd.readouterr()) == ("", "")
    assert [warning for warning in recwarn if "optuna" in warning.filename] == []


def test_a_trial_that_finds_no_memory_has_failed(
    dataset: Path, dropout: Config, tmp_path: Path, untrained: dict[int, int]
) -> None:
    def exhaust(step: Step) -> None:
        if step.name.startswith("trial 1/2"):
            raise MemoryError

    trials = search(dataset, tmp_path / "search", dropout, 2, on_step=exhaust).trials
    assert [(trial.state, trial.remark) for trial in trials] == [("failed", "MemoryError"), ("finished", "")]


def test_an_output_is_replaced_only_by_force_and_other_peoples_files_stay(
    dataset: Path, dropout: Config, tmp_path: Path, untrained: dict[int, int]
) -> None:
    output = tmp_path / "search"
    search(dataset, output, dropout, 2)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        search(dataset, output, dropout, 1)
    assert len(search(dataset, output, dropout, 1, force=True).trials) == 1
    assert [path.name for path in output.glob("trial-*")] == ["trial-0001"]
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "search.space is empty"),
        ({"train.epochs": []}, "train.epochs has no values"),
        ({"train.learnig_rate": [0.1]}, "unknown setting train.learnig_rate: did you mean train.learning_rate?"),
        ({"trian.epochs": [1]}, "unknown setting trian"),
        ({"train": [1]}, "train is a section"),
        ({"train.class_weights.hungry": [1.0]}, "try train.class_weights as a whole"),
        ({"device": ["cpu"]}, "device changes nothing that is learnt"),
        ({"eval.split": ["test"]}, "eval.split changes nothing that is learnt"),
        ({"data.seed": [1]}, "data.seed changes the clips or their split"),
        ({"data.min_seconds": [1.0]}, "data.min_seconds changes the clips or their split"),
        ({"train.select_by": ["macro_f1"]}, "train.select_by is what the trials are compared by"),
        ({"model.pooling": ["mean", "median"]}, "model.pooling: .*'median'"),
        ({"train.epochs": [None]}, "train.epochs: .*None"),
        ({"train.epochs": [True]}, "train.epochs: .*True"),
        ({"train.learning_rate": Interval(low=1e-4, high=2.0)}, "train.learning_rate: .*2.0"),
        ({"train.weight_decay": Interval(low=-0.1, high=0.1)}, "train.weight_decay: .*-0.1"),
        ({"train.batch_size": Interval(low=4, high=8)}, "train.batch_size: .*whole: true draws whole numbers"),
        ({"train.batch_size": Interval(low=4.5, high=8, whole=True)}, "whole numbers need whole ends"),
        ({"train.focal_gamma": [float("nan")]}, "train.focal_gamma cannot be nan"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_is_written(
    dataset: Path, tmp_path: Path, space: dict[str, Any], message: str
) -> None:
    config = Config().model_copy(update={"search": Config().search.model_copy(update={"space": space})})
    with pytest.raises(ConfigError, match=message) as caught:
        search(dataset, tmp_path / "search", config, 1)
    assert str(caught.value).startswith("search.space")
    assert not (tmp_path / "search").exists()


def test_the_space_of_the_defaults_can_be_searched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):  # which is looked at after the space
        search(tmp_path / "nowhere", tmp_path / "search", Config(), 1)


def test_optuna_is_an_extra(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r'pip install "crycli\[search\]"'):
        search(dataset, tmp_path / "search", Config(), 1)


def test_several_processes_are_refused(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        search(dataset, tmp_path / "search", Config(), 1)


def test_no_trial_at_all_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a trial or more, not 0"):
        search(dataset, tmp_path / "search", Config(), 0)
