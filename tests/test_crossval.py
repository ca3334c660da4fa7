"""Cross-validation: what the folds promise, what it writes, and that an interruption changes nothing."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
from conftest import settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, log_loss

from crycli import crossval, resuming, training
from crycli.audio import Excerpt
from crycli.config import Config, load_config, to_yaml
from crycli.crossval import CrossValidation, cross_validate
from crycli.errors import ConfigError, DataError, OutputError
from crycli.inference import load_predictor
from crycli.manifest import PARTS, Clip, read_manifest, write_manifest
from crycli.outputs import write_json
from crycli.predictions import Prediction
from crycli.progress import Step


@pytest.fixture(scope="module")
def tiny(backbones: dict[str, Path]) -> Config:
    return settings(f"model.backbone={backbones['layer']}", "train.epochs=2", "train.learning_rate=0.003")


@dataclass(frozen=True)
class Done:
    """A cross-validation of three folds that nothing interrupted. Not to be changed by a test."""

    result: CrossValidation
    output: Path
    steps: list[Step]


@pytest.fixture(scope="module")
def whole(data: Path, tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Done:
    output, steps = tmp_path_factory.mktemp("whole") / "folds", list[Step]()
    return Done(cross_validate(data, output, tiny, 3, on_step=steps.append), output, steps)


@pytest.fixture
def untrained() -> Iterator[None]:
    """See `without_training`."""
    with without_training():
        yield


@contextmanager
def without_training() -> Iterator[None]:
    """Stands in for training and prediction, where a law is about the folds alone."""

    def train(data: Path, output: Path, config: Config, **_: object) -> None:
        (output / "metrics.json").write_text('{"best_epoch": 1}')

    def load_predictor(name: str, config: Config) -> SimpleNamespace:
        labels = tuple(sorted({item.label for item in read_manifest(Path(name) / "data" / "train.csv")}))
        first = (1.0, *[0.0] * (len(labels) - 1))

        def predict(excerpts: Iterable[Excerpt]) -> Iterator[Prediction]:
            return (Prediction(excerpt.path, 0.0, 1.0, labels[0], 1.0, first) for excerpt in excerpts)

        return SimpleNamespace(labels=labels, predict=predict)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", train)
        patch.setattr(crossval, "load_predictor", load_predictor)
        yield


def clip(label: str, group: str, number: int = 0, fold: int | None = None) -> Clip:
    return Clip(Path(f"/nowhere/{group}-{label}-{number}.wav"), label, group, fold=fold)


def write_data(folder: Path, clips: Iterable[Clip], part: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    write_manifest(folder / f"{part}.csv", clips)
    return folder


def babies(folds: bool = False) -> list[Clip]:
    """Two labels, six babies with two clips of each; a fold for every two babies."""
    return [
        clip(label, f"baby-{baby}", number, baby // 2 + 1 if folds else None)
        for baby in range(6)
        for label in ("high", "low")
        for number in range(2)
    ]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def parts_of(output: Path, fold: int) -> dict[str, list[Clip]]:
    return {part: read_manifest(output / f"fold-{fold}" / "data" / f"{part}.csv") for part in PARTS}


def paths(clips: Iterable[Clip]) -> Counter[str]:
    return Counter(str(item.path) for item in clips)


@st.composite
def datasets(draw: st.DrawFn) -> tuple[list[list[Clip]], int]:
    """Three manifests and a number of folds: each label has more groups than folds; some groups bear two labels."""
    folds = draw(st.integers(2, 4))
    clips = []
    for label in ("high", "low", "noise")[: draw(st.integers(2, 3))]:
        for group in range(draw(st.integers(folds + 1, 7))):
            clips += [clip(label, f"{label}-{group}", number) for number in range(draw(st.integers(1, 3)))]
    clips += [clip(label, f"both-{group}") for group in range(draw(st.integers(0, 3))) for label in ("high", "low")]
    shuffled = draw(st.permutations(clips))
    first, second = sorted(draw(st.tuples(*[st.integers(1, len(clips))] * 2)))
    return [shuffled[:first], shuffled[first:second], shuffled[second:]], folds


@hypothesis.settings(max_examples=15)
@hypothesis.given(drawn=datasets(), seed=st.integers(0, 99), share=st.floats(0.05, 0.3))
def test_every_clip_is_tested_once_by_a_run_that_has_not_learnt_from_its_group(
    drawn: tuple[list[list[Clip]], int], seed: int, share: float
) -> None:
    manifests, folds = drawn
    everything = [item for clips in manifests for item in clips]
    labels = {item.label for item in everything}
    config = settings(f"data.seed={seed}", f"data.validation_share={share}")
    with tempfile.TemporaryDirectory() as folder, without_training():
        output = Path(folder) / "folds"
        for part, clips in zip(PARTS, manifests, strict=True):
            write_data(Path(folder), clips, part)
        cross_validate(Path(folder), output, config, folds)
        tested: Counter[str] = Counter()
        for fold in range(1, folds + 1):
            parts = parts_of(output, fold)
            groups = [group for clips in parts.values() for group in {item.group for item in clips}]
            assert len(groups) == len(set(groups))
            assert sum(map(paths, parts.values()), Counter()) == paths(everything)
            assert {item.label for item in parts["train"]} == labels
            assert parts["validation"] and parts["test"]
            tested += paths(parts["test"])
        assert tested == paths(everything)
        assert [row["path"] for row in rows(output / "predictions.csv")] == [str(item.path) for item in everything]


def test_the_validation_share_is_one_of_the_whole(tmp_path: Path, untrained: None) -> None:
    data = write_data(tmp_path / "data", [clip(label, f"{label}-{group}") for label in "ab" for group in range(20)])
    cross_validate(data, tmp_path / "folds", settings("data.validation_share=0.3"), 4)
    for fold in range(1, 5):
        counts = [Counter(item.label for item in clips) for clips in parts_of(tmp_path / "folds", fold).values()]
        assert counts == [{"a": 9, "b": 9}, {"a": 6, "b": 6}, {"a": 5, "b": 5}]


def test_the_column_fold_decides_which_clips_are_tested_together(tmp_path: Path, untrained: None) -> None:
    data = write_data(tmp_path / "data", babies(folds=True))
    cross_validate(data, tmp_path / "folds", Config(), 3)
    for fold in (1, 2, 3):
        groups = {item.group for item in parts_of(tmp_path / "folds", fold)["test"]}
        assert groups == {f"baby-{2 * fold - 2}", f"baby-{2 * fold - 1}"}
    assert json.loads((tmp_path / "folds" / "folds.json").read_text())["rule"] == "the column fold"


@pytest.mark.parametrize(
    ("clips", "folds", "kind", "message"),
    [
        (babies(), 1, ConfigError, "two folds or more, not 1"),
        ([], 2, DataError, "no clips in"),
        (babies(), 7, DataError, "6 groups are too few for 7 folds"),
        (babies(folds=True), 4, ConfigError, "4 folds are asked for, and the column fold of .* holds 1, 2, 3"),
        ([*babies(folds=True), clip("low", "new")], 3, DataError, "empty for 1 of the 25 clips"),
        (
            [*babies(folds=True), clip("low", "baby-0", 9, 3)],
            3,
            DataError,
            "the group baby-0 is in fold 1 and in fold 3",
        ),
        ([*babies(), clip("rare", "new")], 3, DataError, r"has nothing to learn rare from \(1 group in all\)"),
        ([clip(label, group) for label in "ab" for group in "xy"], 2, DataError, "too few groups left for validation"),
        (babies(), 2, ConfigError, "data.validation_share of 0.6 leaves nothing to train on"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_before_anything_is_written(
    tmp_path: Path, clips: list[Clip], folds: int, kind: type[Exception], message: str
) -> None:
    config = settings("data.validation_share=0.6", "data.test_share=0.1") if "0.6" in message else Config()
    with pytest.raises(kind, match=message):
        cross_validate(write_data(tmp_path / "data", clips), tmp_path / "folds", config, folds)
    assert not (tmp_path / "folds").exists()


def test_windows_of_one_recording_may_not_lie_in_two_folds(tmp_path: Path) -> None:
    windows = [
        replace(clip("low", "x"), group=f"window-{number}", start=float(number), end=number + 1.0, fold=number)
        for number in (1, 2)
    ]
    with pytest.raises(DataError, match=r"the recording /nowhere/x-low-0\.wav is in fold 1 and in fold 2"):
        cross_validate(write_data(tmp_path / "data", windows), tmp_path / "folds", Config(), 2)


def test_a_label_with_fewer_groups_than_folds_is_warned_about(
    tmp_path: Path, untrained: None, caplog: pytest.LogCaptureFixture
) -> None:
    rare = [clip("rare", f"rare-{group}") for group in range(2)]
    cross_validate(write_data(tmp_path / "data", [*babies(), *rare]), tmp_path / "folds", Config(), 3)
    assert "labels with fewer groups than the 3 folds are not tested in each of them: rare (2)" in caplog.text


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        cross_validate(write_data(tmp_path / "data", babies()), tmp_path / "folds", Config(), 2)


def test_an_output_is_replaced_only_by_force_and_other_peoples_files_stay(tmp_path: Path, untrained: None) -> None:
    data, output = write_data(tmp_path / "data", babies()), tmp_path / "folds"
    cross_validate(data, output, Config(), 5)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        cross_validate(data, output, Config(), 2)
    cross_validate(data, output, Config(), 2, force=True)
    assert sorted(path.name for path in output.glob("fold-*")) == ["fold-1", "fold-2"]
    assert (output / "notes.txt").read_text() == "mine"


def test_it_leaves_a_run_and_predictions_for_each_fold_and_scores_over_all(
    data: Path, tiny: Config, whole: Done
) -> None:
    result, output = whole.result, whole.output
    names = {path.name for path in output.iterdir()}
    assert names == {"folds.json", "config.yaml", "metrics.json", "predictions.csv", "fold-1", "fold-2", "fold-3"}
    assert load_config(output / "config.yaml") == load_config(output / "fold-2" / "config.yaml") == tiny
    assert set(resuming.RUN_FILES) < {path.name for path in (output / "fold-2").iterdir()}
    pooled = rows(output / "predictions.csv")
    assert list(pooled[0]) == [
        *("path", "start", "end", "label", "confidence", "error", "true_label", "group", "fold", "p_high", "p_low")
    ]
    by_fold = [row for fold in (1, 2, 3) for row in rows(output / f"fold-{fold}" / "predictions.csv")]
    assert sorted(map(str, by_fold)) == sorted(map(str, pooled))
    clips = [item for part in PARTS for item in read_manifest(data / f"{part}.csv")]
    assert [row["path"] for row in pooled] == [str(item.path) for item in clips]
    assert [row["true_label"] for row in pooled] == [item.label for item in clips]
    assert result.unreadable == 0
    written = json.loads((output / "metrics.json").read_text())
    assert written["pooled"]["macro_f1"] == result.report.macro_f1
    assert written["mean"] == result.mean
    assert written["standard_deviation"] == {"ddof": 1, **result.standard_deviation}


def test_the_scores_are_those_of_the_predictions(whole: Done) -> None:
    result, output = whole.result, whole.output
    pooled = rows(output / "predictions.csv")
    scores = []
    for fold in result.folds:
        some = [row for row in pooled if row["fold"] == str(fold.fold)]
        assert (fold.clips, fold.groups) == (len(some), len({row["group"] for row in some}))
        scores.append(balanced_accuracy_score([row["true_label"] for row in some], [row["label"] for row in some]))
        assert fold.balanced_accuracy == pytest.approx(scores[-1])
    assert result.mean["balanced_accuracy"] == pytest.approx(statistics.mean(scores))
    assert result.standard_deviation["balanced_accuracy"] == pytest.approx(statistics.stdev(scores))
    answers = [float(row["p_low"]) for row in pooled]
    assert result.report.log_loss == pytest.approx(log_loss([row["true_label"] for row in pooled], answers), rel=1e-6)
    assert result.report.chance_balanced_accuracy == 0.5
    assert result.remark


def test_progress_and_rows_name_the_fold(whole: Done) -> None:
    assert {"fold 1/3: train", "fold 3/3: train", "fold 3/3: test"} <= {step.name for step in whole.steps}
    assert {step.row["fold"] for step in whole.steps if step.row is not None} == {"1/3", "2/3", "3/3"}


def test_after_a_kill_it_goes_on_and_ends_as_if_nothing_had_happened(
    data: Path, tiny: Config, whole: Done, tmp_path: Path
) -> None:
    output, file = tmp_path / "folds", tmp_path / "config.yaml"
    file.write_text(to_yaml(tiny), encoding="utf-8")
    code = "import sys; from pathlib import Path; from crycli.config import load_config; "
    code += "from crycli.crossval import cross_validate; "
    code += "data, output, file = map(Path, sys.argv[1:]); cross_validate(data, output, load_config(file), 3)"
    process = subprocess.Popen([sys.executable, "-c", code, str(data), str(output), str(file)])
    deadline = time.monotonic() + 120
    while not list(output.glob("fold-2/checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    first = output / "fold-1" / "predictions.csv"
    before = first.stat().st_mtime_ns
    assert not (output / "predictions.csv").exists()
    result = cross_validate(data, output, tiny, 3, resume=True)
    assert first.stat().st_mtime_ns == before
    assert (output / "predictions.csv").read_bytes() == (whole.output / "predictions.csv").read_bytes()
    assert result == whole.result


def test_resuming_what_is_finished_trains_nothing(
    data: Path, tiny: Config, whole: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole.output, tmp_path / "folds")
    monkeypatch.delattr(training, "train")
    assert cross_validate(data, tmp_path / "folds", tiny, 3, resume=True) == whole.result


def test_resuming_where_nothing_is_starts_anew(tmp_path: Path, untrained: None) -> None:
    data = write_data(tmp_path / "data", babies())
    assert len(cross_validate(data, tmp_path / "folds", Config(), 2, resume=True).folds) == 2


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ("folds", ConfigError, "folds was 2 and is now 3"),
        ("settings", ConfigError, "train.epochs was auto and is now 11"),
        ("clips", DataError, "train.csv is not what it was begun with"),
        ("part", DataError, "test.csv is not what it was begun with"),
        ("plan", DataError, "is not a cross-validation"),
    ],
)
def test_resuming_with_something_changed_is_refused(
    tmp_path: Path, untrained: None, change: str, kind: type[Exception], message: str
) -> None:
    data, output = write_data(tmp_path / "data", babies()), tmp_path / "folds"
    cross_validate(data, output, Config(), 2)
    if change == "clips":
        write_data(data, babies()[1:])
    elif change == "part":
        write_data(data, [clip("low", "new")], "test")
    elif change == "plan":
        (output / "folds.json").unlink()
    config = settings("train.epochs=11") if change == "settings" else Config()
    with pytest.raises(kind, match=message):
        cross_validate(data, output, config, 3 if change == "folds" else 2, resume=True)


def test_a_cross_validation_is_not_resumed_as_a_single_run(data: Path, tiny: Config, whole: Done) -> None:
    before = (whole.output / "metrics.json").read_bytes()
    with pytest.raises(DataError, match=r"is a cross-validation: give --folds"):
        training.train(data, whole.output, tiny, resume=True)
    assert (whole.output / "metrics.json").read_bytes() == before


def test_a_run_that_replaces_a_cross_validation_can_be_used(
    data: Path, tiny: Config, whole: Done, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(whole.output, tmp_path / "run"))
    (output / "trial-0001").mkdir()
    training.train(data, output, tiny, force=True)
    assert {path.name for path in output.iterdir()} == set(resuming.RUN_FILES)
    assert load_predictor(str(output)).labels == ("high", "low")


def test_folds_do_not_start_from_different_weights(data: Path, tiny: Config, whole: Done, tmp_path: Path) -> None:
    output = Path(shutil.copytree(whole.output, tmp_path / "folds"))
    (output / "fold-2" / "predictions.csv").unlink()
    write_json(output / "fold-1" / "checkpoints" / "backbone.json", {"model.safetensors": "0" * 64})
    with pytest.raises(ConfigError, match=r"fold 2 of 3: cannot resume .*fold-1: the weights of .* are not those"):
        cross_validate(data, output, tiny, 3, resume=True)


def test_each_fold_can_start_from_a_backbone_of_its_own(tmp_path: Path, untrained: None) -> None:
    starts = []

    def train(data: Path, output: Path, config: Config, **_: object) -> None:
        starts.append((output.name, config.model.backbone))
        (output / "metrics.json").write_text('{"best_epoch": 1}')

    data = write_data(tmp_path / "data", babies(folds=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", train)
        cross_validate(data, tmp_path / "folds", settings("model.backbone=starts/{fold}/model"), 3)
    assert starts == [(f"fold-{fold}", f"starts/{fold}/model") for fold in (1, 2, 3)]
    assert "starts/{fold}/model" in (tmp_path / "folds" / "config.yaml").read_text()


def test_a_fold_that_fails_is_named_and_what_was_finished_is_kept(small: Path, tiny: Config, tmp_path: Path) -> None:
    clips = [item for part in PARTS for item in read_manifest(small / f"{part}.csv")]
    groups = sorted({item.group for item in clips})
    data = write_data(tmp_path / "data", [replace(item, fold=groups.index(item.group) + 1) for item in clips])
    for item in clips:
        if item.group == groups[1]:
            item.path.unlink()
    with pytest.raises(DataError, match=r"^fold 2 of 4: none of its 4 clips can be read: "):
        cross_validate(data, tmp_path / "folds", tiny, 4)
    assert (tmp_path / "folds" / "fold-1" / "predictions.csv").is_file()
    assert not (tmp_path / "folds" / "fold-2" / "predictions.csv").exists()


def test_a_clip_that_cannot_be_read_is_counted_and_not_scored(small: Path, tiny: Config, tmp_path: Path) -> None:
    clips = [item for part in PARTS for item in read_manifest(small / f"{part}.csv")]
    clips[3].path.unlink()
    result = cross_validate(small, tmp_path / "folds", tiny, 2)
    assert (result.unreadable, result.report.clips, sum(fold.clips for fold in result.folds)) == (1, 15, 15)
    wrong = [number for number, row in enumerate(rows(tmp_path / "folds" / "predictions.csv")) if row["error"]]
    assert wrong == [3]
