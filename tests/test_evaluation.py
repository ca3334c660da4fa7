"""Reports: their files agree with each other, with scikit-learn, and with what could be read."""

from __future__ import annotations

import csv
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import Outcome, cry, settings, write_cries
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, log_loss

from crycli.audio import Excerpt
from crycli.errors import CheckpointError, DataError, OutputError
from crycli.evaluation import evaluate
from crycli.inference import load_predictor
from crycli.manifest import read_manifest
from crycli.prepare import prepare_dataset_csv
from crycli.training import train

FILES = {"metrics.json", "predictions.csv", "confusion_matrix.png", "report.md"}


@pytest.fixture(scope="module")
def report(runs: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on its training part, where there is most to see. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("reports") / "report"
    evaluate(str(runs["layer"]), data, folder, settings("eval.split=train"))
    return folder


def scores(report: Path) -> dict[str, object]:
    """What metrics.json holds."""
    return dict(json.loads((report / "metrics.json").read_text()))


def rows(report: Path) -> list[dict[str, str]]:
    """The rows of predictions.csv."""
    with (report / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def png_size(file: Path) -> tuple[int, int]:
    """Width and height in pixels of a PNG file."""
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_a_report_has_its_four_files(report: Path) -> None:
    assert {path.name for path in report.iterdir()} == FILES


def test_the_predictions_are_those_of_the_manifest_in_its_order(report: Path, data: Path) -> None:
    clips = read_manifest(data / "train.csv")
    assert [(row["path"], row["true_label"], row["group"]) for row in rows(report)] == [
        (str(clip.path), clip.label, clip.group) for clip in clips
    ]
    fixed = ["path", "start", "end", "label", "confidence", "error"]
    assert list(rows(report)[0]) == [*fixed, "true_label", "group", "p_high", "p_low"]


def test_the_scores_follow_from_the_predictions(report: Path) -> None:
    found = scores(report)
    truth, answered = [row["true_label"] for row in rows(report)], [row["label"] for row in rows(report)]
    table = np.array([[float(row["p_high"]), float(row["p_low"])] for row in rows(report)])
    assert found["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(truth, answered, strict=True)]))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, answered))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, answered, average="macro"))
    assert found["weighted_f1"] == pytest.approx(f1_score(truth, answered, average="weighted"))
    assert found["log_loss"] == pytest.approx(log_loss(truth, table, labels=["high", "low"]), abs=1e-4)
    assert found["confusion"] == confusion_matrix(truth, answered, labels=["high", "low"]).tolist()
    assert found["clips"] == len(truth) == 24
    assert found["groups"] == len({row["group"] for row in rows(report)})
    assert (found["split"], found["unreadable"]) == ("train", 0)


def test_what_is_printed_is_what_is_written(
    runs: dict[str, Path], data: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    done = crycli("eval", runs["layer"], data, "-o", tmp_path / "report")
    assert done.code == 0
    found = scores(tmp_path / "report")
    assert f"{found['balanced_accuracy']:.3f}" in done.out
    assert str(found["remark"]) in done.out
    assert str(found["remark"]) in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_split_decides_what_is_scored(
    split: str, runs: dict[str, Path], data: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    assert crycli("eval", runs["layer"], data, "-o", tmp_path / "report", "--split", split).code == 0
    expected = [str(clip.path) for clip in read_manifest(data / f"{split}.csv")]
    assert [row["path"] for row in rows(tmp_path / "report")] == expected
    assert scores(tmp_path / "report")["split"] == split


def test_the_test_part_is_scored_where_none_is_named(runs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    assert evaluate(str(runs["layer"]), data, tmp_path / "report").split == "test"


def test_a_missing_recording_is_left_out_counted_and_named(
    runs: dict[str, Path], small: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    clips = read_manifest(small / "train.csv")
    clips[0].path.unlink()
    done = crycli("eval", runs["layer"], small, "-o", tmp_path / "report", "--split", "train")
    assert done.code == 3
    assert f"left out {clips[0].path}: no such file" in done.err
    found = scores(tmp_path / "report")
    assert (found["unreadable"], found["clips"]) == (1, len(clips) - 1)
    first, *others = rows(tmp_path / "report")
    assert (first["error"], first["label"], first["true_label"]) == ("no such file", "", clips[0].label)
    assert len(others) == len(clips) - 1
    assert not any(row["error"] for row in others)
    assert "1 more could not be read" in (tmp_path / "report" / "report.md").read_text()


def test_a_part_of_which_nothing_can_be_read_is_an_error(runs: dict[str, Path], small: Path, tmp_path: Path) -> None:
    for clip in read_manifest(small / "test.csv"):
        clip.path.unlink()
    with pytest.raises(DataError, match="no such file"):
        evaluate(str(runs["layer"]), small, tmp_path / "report")
    assert not (tmp_path / "report" / "metrics.json").exists()


def test_labels_that_the_model_does_not_know_are_refused(runs: dict[str, Path], small: Path, tmp_path: Path) -> None:
    file = small / "test.csv"
    file.write_text(file.read_text().replace(",low,", ",unheard,"))
    with pytest.raises(DataError, match="unheard"):
        evaluate(str(runs["layer"]), small, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_part_that_lacks_a_label_has_scores(runs: dict[str, Path], small: Path, tmp_path: Path) -> None:
    file = small / "test.csv"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if ",low," not in line))
    found = evaluate(str(runs["layer"]), small, tmp_path / "report")
    assert found.report.labels["low"].support == 0
    assert scores(tmp_path / "report")["macro_auc"] is None


def test_an_empty_or_missing_part_is_an_error(runs: dict[str, Path], small: Path, tmp_path: Path) -> None:
    (small / "test.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"test\.csv is empty"):
        evaluate(str(runs["layer"]), small, tmp_path / "report")
    (small / "test.csv").unlink()
    with pytest.raises(DataError, match=r"test\.csv"):
        evaluate(str(runs["layer"]), small, tmp_path / "report")


def test_a_folder_without_a_model_is_refused_before_the_output_is_touched(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        evaluate(str(tmp_path), data, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_odd_labels_break_neither_the_tables_nor_the_csv(tmp_path: Path, backbones: dict[str, Path]) -> None:
    labels = {"a|b": 300.0, "c, d": 600.0, "[b]müde|疲れ": 900.0}
    write_cries(tmp_path / "cries", babies=4, labels=labels)
    prepare_dataset_csv([tmp_path / "cries"], tmp_path / "data", settings("data.group_by=baby-\\d+"))
    train(tmp_path / "data", tmp_path / "run", settings(f"model.backbone={backbones['layer']}", "train.epochs=1"))
    evaluate(str(tmp_path / "run"), tmp_path / "data", tmp_path / "report")
    assert {row["true_label"] for row in rows(tmp_path / "report")} == set(labels)
    text = (tmp_path / "report" / "report.md").read_text()
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert [len(table) for table in tables] == [2 + 6, 2 + 3, 2 + 3]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table


def test_the_confusion_matrix_is_a_picture_of_sensible_size(report: Path) -> None:
    width, height = png_size(report / "confusion_matrix.png")
    assert 300 < height <= width < 3_000


def test_an_existing_report_is_replaced_only_with_force(
    report: Path, runs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(report, tmp_path / "report"))
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        evaluate(str(runs["layer"]), data, copy)
    assert scores(copy) == scores(report)
    evaluate(str(runs["layer"]), data, copy, force=True)
    assert scores(copy)["split"] == "test"
    assert (copy / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_bundle_scores_as_the_run_does(
    norm: str, runs: dict[str, Path], bundles: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    by_run = evaluate(str(runs[norm]), data, tmp_path / "run").report
    by_bundle = evaluate(str(bundles[norm]), data, tmp_path / "bundle").report
    assert by_run.confusion == by_bundle.confusion
    assert by_run.log_loss == pytest.approx(by_bundle.log_loss, abs=1e-4)


def test_the_same_evaluation_gives_the_same_bytes(
    report: Path, runs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    evaluate(str(runs["layer"]), data, tmp_path / "again", settings("eval.split=train"))
    for name in FILES - {"confusion_matrix.png"}:
        assert (tmp_path / "again" / name).read_bytes() == (report / name).read_bytes(), name


def test_the_windows_of_the_manifest_are_scored_and_named_by_their_times(
    runs: dict[str, Path], tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    times, data = [(0.0, 0.75), (0.75, 1.5), (1.5, 2.125), (2.5, 9.0), (4.0, 5.0)], tmp_path / "data"
    data.mkdir()
    lines = ["file_name,label,group,start,end"]
    for label, hertz in {"high": 900.0, "low": 300.0}.items():
        sweep = np.concatenate([cry(hertz * factor, 1.0, seed=round(hertz * factor)) for factor in (1.0, 1.2, 1.4)])
        soundfile.write(data / f"{label}.wav", sweep, 16_000, "FLOAT")
        lines += [f"{label}.wav,{label},{label},{start},{end}" for start, end in times]
    (data / "test.csv").write_text("\n".join(lines) + "\n")
    done = crycli("eval", runs["layer"], data, "-o", tmp_path / "report")
    assert done.code == 3  # the last window of each lies beyond the end
    found = rows(tmp_path / "report")
    expected = [("0.000", "0.750"), ("0.750", "1.500"), ("1.500", "2.125"), ("2.500", "3.000"), ("", "")]
    assert [(row["start"], row["end"]) for row in found] == expected * 2
    assert [row["path"] for row in found] == [str(data / "high.wav")] * 5 + [str(data / "low.wav")] * 5
    assert [bool(row["error"]) for row in found] == [False, False, False, False, True] * 2
    assert (scores(tmp_path / "report")["clips"], scores(tmp_path / "report")["unreadable"]) == (8, 2)
    predictor = load_predictor(str(runs["layer"]))
    for row, answer in zip(
        found[:4], predictor.predict(Excerpt(data / "high.wav", *span) for span in times[:4]), strict=True
    ):
        assert float(row["p_high"]) == pytest.approx(answer.probabilities[0], abs=1e-4)
