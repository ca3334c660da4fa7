"""Reports: their files agree with each other, with scikit-learn, and with what could be read."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import Outcome, cry, settings, write_cries
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, log_loss

from crycli.appraisal import Appraisal
from crycli.audio import Excerpt
from crycli.errors import CheckpointError, ConfigError, DataError, OutputError
from crycli.evaluation import REPORT_FILES, evaluate, evaluate_file, evaluate_folds
from crycli.inference import load_predictor
from crycli.leakage import write_known
from crycli.manifest import Clip, read_manifest, write_manifest
from crycli.networks import softmax
from crycli.prepare import prepare_dataset_csv
from crycli.training import train

FILES = set(REPORT_FILES)
PHONES = tuple(f"0a1b2c3d-0000-4000-8000-{phone:012d}" for phone in range(3))


@pytest.fixture(scope="module")
def report(runs: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on its training part, where there is most to see. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("reports") / "report"
    evaluate([str(runs["layer"])], data, folder, settings("eval.split=train"))
    return folder


def scores(report: Path) -> dict[str, Any]:
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


def test_a_report_has_its_files(report: Path) -> None:
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
    assert found["verdict"]["sentence"] in done.out
    assert found["verdict"]["sentence"] in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_split_decides_what_is_scored(
    split: str, runs: dict[str, Path], data: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    assert crycli("eval", runs["layer"], data, "-o", tmp_path / "report", "--split", split).code == 0
    expected = [str(clip.path) for clip in read_manifest(data / f"{split}.csv")]
    assert [row["path"] for row in rows(tmp_path / "report")] == expected
    assert scores(tmp_path / "report")["split"] == split


def test_the_test_part_is_scored_where_none_is_named(runs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    assert evaluate([str(runs["layer"])], data, tmp_path / "report").about.split == "test"


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
        evaluate([str(runs["layer"])], small, tmp_path / "report")
    assert not (tmp_path / "report" / "metrics.json").exists()


def test_labels_that_the_model_does_not_know_are_refused(runs: dict[str, Path], small: Path, tmp_path: Path) -> None:
    file = small / "test.csv"
    file.write_text(file.read_text().replace(",low,", ",unheard,"))
    with pytest.raises(DataError, match="unheard"):
        evaluate([str(runs["layer"])], small, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_part_that_lacks_a_label_has_scores(runs: dict[str, Path], small: Path, tmp_path: Path) -> None:
    file = small / "test.csv"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if ",low," not in line))
    found = evaluate([str(runs["layer"])], small, tmp_path / "report")
    assert found.appraisal.scores.report.labels["low"].support == 0
    assert scores(tmp_path / "report")["macro_auc"] is None


def test_an_empty_or_missing_part_is_an_error(runs: dict[str, Path], small: Path, tmp_path: Path) -> None:
    (small / "test.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"test\.csv is empty"):
        evaluate([str(runs["layer"])], small, tmp_path / "report")
    (small / "test.csv").unlink()
    with pytest.raises(DataError, match=r"test\.csv"):
        evaluate([str(runs["layer"])], small, tmp_path / "report")


def test_a_folder_without_a_model_is_refused_before_the_output_is_touched(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        evaluate([str(tmp_path)], data, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_odd_labels_break_neither_the_tables_nor_the_csv(tmp_path: Path, backbones: dict[str, Path]) -> None:
    labels = {"a|b": 300.0, "c, d": 600.0, "[b]müde|疲れ": 900.0}
    write_cries(tmp_path / "cries", babies=4, labels=labels)
    prepare_dataset_csv([tmp_path / "cries"], tmp_path / "data", settings("data.group_by=baby-\\d+"))
    train(tmp_path / "data", tmp_path / "run", settings(f"model.backbone={backbones['layer']}", "train.epochs=1"))
    evaluate([str(tmp_path / "run")], tmp_path / "data", tmp_path / "report")
    assert {row["true_label"] for row in rows(tmp_path / "report")} == set(labels)
    text = (tmp_path / "report" / "report.md").read_text()
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) >= 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table


def test_the_confusion_matrix_is_a_picture_of_sensible_size(report: Path) -> None:
    width, height = png_size(report / "confusion_matrix.png")
    assert 300 < height <= 1.2 * width < 3_000


def test_an_existing_report_is_replaced_only_with_force(
    report: Path, runs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(report, tmp_path / "report"))
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        evaluate([str(runs["layer"])], data, copy)
    assert scores(copy) == scores(report)
    evaluate([str(runs["layer"])], data, copy, force=True)
    assert scores(copy)["split"] == "test"
    assert (copy / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_bundle_scores_as_the_run_does(
    norm: str, runs: dict[str, Path], bundles: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    by_run = evaluate([str(runs[norm])], data, tmp_path / "run").appraisal.scores.report
    by_bundle = evaluate([str(bundles[norm])], data, tmp_path / "bundle").appraisal.scores.report
    assert by_run.confusion == by_bundle.confusion
    assert by_run.log_loss == pytest.approx(by_bundle.log_loss, abs=1e-4)


def test_the_same_evaluation_gives_the_same_bytes(
    report: Path, runs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    evaluate([str(runs["layer"])], data, tmp_path / "again", settings("eval.split=train"))
    for name in FILES:
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


def test_clips_of_babies_that_the_model_has_met_are_found_and_the_others_scored_apart(
    runs: dict[str, Path], data: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    both = tmp_path / "data"
    both.mkdir()
    clips = [clip for part in ("train", "test") for clip in read_manifest(data / f"{part}.csv")]
    write_manifest(both / "test.csv", clips)
    done = crycli("eval", runs["layer"], both, "-o", tmp_path / "report")
    found = scores(tmp_path / "report")["leakage"]
    met = read_manifest(data / "train.csv")
    assert found["clips"] == len(met)
    assert set(found["groups"]["train"]) == {clip.group for clip in met}
    assert found["without"]["clips"] == len(clips) - len(met)
    assert f"the model has met {len(met)} of these clips" in done.out
    honest = crycli("eval", runs["layer"], data, "-o", tmp_path / "honest")
    assert "has met" not in honest.out
    assert scores(tmp_path / "honest")["leakage"]["clips"] == 0


def test_a_recording_that_the_model_has_met_is_known_by_its_sound_under_another_name(
    runs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    clips = read_manifest(data / "test.csv")
    copy = Path(shutil.copy(read_manifest(data / "train.csv")[0].path, tmp_path / "new.wav"))
    (tmp_path / "data").mkdir()
    stranger = Clip(copy, clips[0].label, "nobody")
    write_manifest(tmp_path / "data" / "test.csv", [*clips, stranger])
    evaluate([str(runs["layer"])], tmp_path / "data", tmp_path / "report")
    assert scores(tmp_path / "report")["leakage"]["clips"] == 1


def test_models_stand_side_by_side_with_paired_differences(
    runs: dict[str, Path], data: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    done = crycli("eval", runs["layer"], runs["group"], data, "-o", tmp_path / "report", "--split", "train")
    assert done.code == 0
    alone = evaluate([str(runs["group"])], data, tmp_path / "alone", settings("eval.split=train"))
    (other,) = scores(tmp_path / "report")["others"]
    assert other["accuracy"] == alone.appraisal.scores.report.accuracy
    difference = scores(tmp_path / "report")["balanced_accuracy"] - other["balanced_accuracy"]
    assert other["difference"]["value"] == pytest.approx(difference)


def test_what_another_model_has_met_in_its_training_is_said_beside_the_comparison(
    runs: dict[str, Path], data: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    clips = read_manifest(data / "test.csv")
    shutil.copytree(runs["group"], tmp_path / "other")
    write_known(tmp_path / "other" / "model", {"train": clips}, {})
    done = crycli("eval", runs["layer"], runs["group"], tmp_path / "other", data, "-o", tmp_path / "report")
    assert [other["met"] for other in scores(tmp_path / "report")["others"]] == [0, len(clips)]
    assert scores(tmp_path / "report")["leakage"]["clips"] == 0
    assert f"{tmp_path / 'other'} has met {len(clips)} of these clips" in done.out
    assert done.out.count("Leakage") == 1
    assert "in the training of" in (tmp_path / "report" / "report.md").read_text()
    assert "in the training of" in (tmp_path / "report" / "report.html").read_text()
    assert [baseline["met"] for baseline in scores(tmp_path / "report")["baselines"]] == [None] * 3
    (tmp_path / "other" / "model" / "known_clips.json").unlink()
    crycli("eval", runs["layer"], tmp_path / "other", data, "-o", tmp_path / "unknown")
    assert scores(tmp_path / "unknown")["others"][0]["met"] is None


def test_anyones_predictions_get_the_same_scores(report: Path, tmp_path: Path, crycli: Callable[..., Outcome]) -> None:
    ours = rows(report)
    theirs = tmp_path / "theirs.csv"
    with theirs.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["label", "p_high", "p_low", "group"])
        writer.writerows([row["true_label"], row["p_high"], row["p_low"], row["group"]] for row in ours)
    assert crycli("eval", "--predictions", theirs, "-o", tmp_path / "report").code == 0
    again, found = scores(tmp_path / "report"), scores(report)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "confusion"):
        assert again[name] == found[name], name
    assert again["log_loss"] == pytest.approx(found["log_loss"], abs=1e-5)
    assert again["intervals"]["balanced_accuracy"] == found["intervals"]["balanced_accuracy"]


def test_answers_without_probabilities_have_the_scores_that_need_none(
    tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    file = tmp_path / "answers.csv"
    file.write_text("label,predicted,group\n" + "a,a,1\na,b,1\nb,b,2\nb,b,3\na,a,4\n" * 3)
    done = crycli("eval", "--predictions", file, "-o", tmp_path / "report")
    assert done.code == 0
    found = scores(tmp_path / "report")
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["macro_auc"] is None
    assert found["log_loss"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,group\nx,1\n", "needs a column label"),
        ("label,p_a,p_b\na,0.9,0.9\n", "row 2: the columns p_LABEL must sum to 1, not to 1.800"),
        ("label,p_a,p_b\na,much,0.9\n", "row 2: p_a must be a probability, not 'much'"),
        ("label,p_a,p_b\na,0,1\na,2,-1\n", "row 3: p_b must be a probability, not '-1'"),
        ("label,p_a,p_b\nc,0.5,0.5\n", "label holds c, for which there is no column p_LABEL"),
        ("label,predicted,p_a,p_b\na,c,0.5,0.5\n", "predicted holds c, for which there is no column p_LABEL"),
        ("label,p_a,p_b\n ,0.5,0.5\n", "row 2: the label is empty"),
        ("label,predicted\na,a\na,\n", "row 3: the predicted is empty"),
        ("true_label,label,error\na,,unheard\n,a,\n", "row 3: the true_label is empty"),
        ("label,p_a,p_a \na,0.5,0.5\n", "two columns are called p_a"),
        ("path,start,end,label,confidence,error,p_a,p_b\nx,0,1,a,0.9,,0.9,0.1\n", "add a column true_label"),
        ("label,predicted\n", "no answers"),
    ],
)
def test_predictions_that_cannot_be_used_are_refused_with_one_line(
    content: str, message: str, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    (tmp_path / "answers.csv").write_text(content)
    done = crycli("eval", "--predictions", tmp_path / "answers.csv", "-o", tmp_path / "report")
    assert done.code == 1
    assert message in done.err.replace("\n", " ")
    assert not (tmp_path / "report").exists()


def appraised(folder: Path, content: str, *assignments: str) -> Appraisal:
    """What a CSV of predictions is worth; its report is beside it."""
    (folder / "answers.csv").write_text(content)
    chosen = settings("eval.draws=100", "eval.examples=0", *assignments)
    return evaluate_file(folder / "answers.csv", folder / "report", chosen, force=True).appraisal


def test_the_answer_is_the_column_predicted_also_beside_probabilities(tmp_path: Path) -> None:
    content = "label,predicted,p_a,p_b,group\n" + "a,b,0.6,0.4,1\na,a,0.9,0.1,2\nb,a,0.2,0.8,3\n"
    found = appraised(tmp_path, content)
    assert found.answers.predicted.tolist() == [1, 0, 0]
    assert found.answers.confidence == pytest.approx([0.4, 0.9, 0.2])
    assert found.scores.report.confusion == ((1, 1), (1, 0))
    assert [(row["label"], row["confidence"]) for row in rows(tmp_path / "report")] == [
        ("b", "0.400000"),
        ("a", "0.900000"),
        ("a", "0.200000"),
    ]


def test_blanks_around_labels_and_column_names_do_not_matter(tmp_path: Path) -> None:
    found = appraised(tmp_path, "label, predicted,group\ncry ,cry,1\n not_cry,cry ,2\n")
    assert found.answers.names == ("cry", "not_cry")
    assert found.answers.predicted.tolist() == [0, 0]


def test_measures_in_a_file_of_predictions_make_the_same_slices_as_in_a_manifest(tmp_path: Path) -> None:
    lines = [
        f"{'ab'[number % 2]},a,{number},{1 + number / 10},{-50 + number},{('amrnb', 'aac')[number % 2]},8000,long"
        for number in range(30)
    ]
    header = "label,predicted,group,duration,loudness_db,codec,sample_rate,silent_share"
    found = appraised(tmp_path, "\n".join([header, *lines, "a,a,x,?,,,44100,short"]))
    attributes = {one.attribute: set[str]() for one in found.slices}
    for one in found.slices:
        attributes[one.attribute].add(one.value)
    assert list(attributes) == ["sample rate", "codec", "duration", "loudness", "silent_share"]
    assert attributes["codec"] == {"amrnb", "aac", "not stated"}
    assert len(attributes["duration"]) == len(attributes["loudness"]) == 4


def test_known_file_names_tell_the_groups_of_a_file_of_predictions(
    tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    uploads = [f"/there/{PHONES[phone]}-143019276{take}-1.7-m-26-hu.wav" for phone in range(3) for take in range(2)]
    lines = [f"{path},{'ab'[number % 2]},a" for number, path in enumerate(uploads)]
    file = tmp_path / "answers.csv"
    file.write_text("\n".join(["path,label,predicted", *lines]))
    done = crycli("eval", "--predictions", file, "-o", tmp_path / "report", "--set", "eval.draws=100")
    assert (scores(tmp_path / "report")["groups"], "no group" in done.err) == (3, False)
    file.write_text("\n".join(["path,label,predicted", *lines, "/there/some.wav,a,b", "/there/some.wav,b,b"]))
    done = crycli("eval", "--predictions", file, "-o", tmp_path / "report", "--set", "eval.draws=100", "--force")
    assert scores(tmp_path / "report")["groups"] == 4
    assert done.err.count("no group for 2 of 8 clips") == 1
    listed = [f"{line},{number}" for number, line in enumerate(lines)]
    found = appraised(tmp_path, "\n".join(["path,label,predicted,group", *listed]))
    assert len(set(found.answers.groups)) == 3


def test_the_predictions_hold_the_groups_that_were_scored(
    runs: dict[str, Path], small: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    clips = read_manifest(small / "train.csv")[:4]
    named = [small / f"{PHONES[0]}-143019276{take}-1.7-m-26-hu.wav" for take in range(len(clips))]
    for clip, path in zip(clips, named, strict=True):
        shutil.copy(clip.path, path)
    write_manifest(
        small / "test.csv",
        [Clip(path, clip.label, f"apart {path.name}") for clip, path in zip(clips, named, strict=True)],
    )
    evaluate([str(runs["layer"])], small, tmp_path / "report", settings("eval.draws=100"))
    assert scores(tmp_path / "report")["groups"] == 1
    assert {row["group"] for row in rows(tmp_path / "report")} == {PHONES[0]}
    assert crycli("eval", "--predictions", tmp_path / "report" / "predictions.csv", "-o", tmp_path / "again").code == 0
    assert scores(tmp_path / "again")["groups"] == 1


def test_the_command_of_a_report_gives_the_same_report(
    runs: dict[str, Path], data: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    (tmp_path / "answers.csv").write_text("label,predicted,group\n" + "a,a,1\na,b,2\nb,b,3\nb,b,4\n" * 2)
    changed = ("--set", "eval.draws=300", "--set", "data.seed=7", "--set", "predict.threshold=0.25")
    for given in (
        ("--predictions", tmp_path / "answers.csv"),
        (runs["layer"], data, "--split", "train", "--compare-split"),
    ):
        crycli("eval", *given, *changed, "-o", tmp_path / "first", "--force")
        command = shlex.split(scores(tmp_path / "first")["command"])
        assert command[:2] == ["crycli", "eval"]
        again = [str(tmp_path / "second") if word == "REPORT" else word for word in command[1:]]
        assert crycli(*again, "--force").code == 0
        assert scores(tmp_path / "second") == scores(tmp_path / "first")


@pytest.mark.parametrize(
    "arguments",
    [
        ("RUN",),
        ("RUN", "DATA", "--folds"),
        ("RUN", "DATA", "--predictions", "x.csv"),
        ("RUN", "--folds", "--split", "test"),
    ],
)
def test_arguments_that_do_not_go_together_are_wrong_usage(
    arguments: tuple[str, ...], tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    assert crycli("eval", *arguments, "-o", tmp_path / "report").code == 2


def test_out_of_fold_predictions_are_pooled(
    data: Path, backbones: dict[str, Path], tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    arguments = ("--backbone", backbones["layer"], "--epochs", 1, "--folds", 2)
    assert crycli("train", data, "-o", tmp_path / "cv", *arguments).code == 0
    assert crycli("eval", tmp_path / "cv", "--folds", "-o", tmp_path / "report").code == 0
    found = scores(tmp_path / "report")
    pooled = json.loads((tmp_path / "cv" / "metrics.json").read_text())["pooled"]
    for name in ("clips", "groups", "accuracy", "balanced_accuracy", "macro_auc"):
        assert found[name] == pytest.approx(pooled[name]), name
    assert [baseline["name"] for baseline in found["baselines"]][-1] == "MFCC + logistic regression"
    assert crycli("eval", data, "--folds", "-o", tmp_path / "other").code == 1


def test_excerpts_of_one_start_keep_their_own_labels_out_of_fold(tmp_path: Path) -> None:
    told = [("rec0.wav", 0.0, 2.0, "a"), ("rec0.wav", 0.0, 4.0, "b"), ("rec1.wav", 0.0, 3.0, "a")]
    folds = {1: told, 2: [(name.replace("rec", "other"), *rest) for name, *rest in told]}
    lines = ["path,start,end,label,confidence,error,true_label,group,fold,p_a,p_b"]
    for fold, clips in folds.items():
        (tmp_path / f"fold-{fold}" / "data").mkdir(parents=True)
        write_manifest(
            tmp_path / f"fold-{fold}" / "data" / "test.csv",
            [
                Clip(Path("there") / name, label, name, start=start, end=end, fold=fold)
                for name, start, end, label in clips
            ],
        )
        for name, start, end, label in clips:
            error = "no such file" if name == "other0.wav" and end == 2.0 else ""
            answer = ",,,,no such file" if error else f"{start},{end},a,0.7,"
            lines.append(f"there/{name},{answer},{label},{name},{fold},0.7,0.3")
    (tmp_path / "predictions.csv").write_text("\n".join(lines))
    (tmp_path / "folds.json").write_text('{"folds": 2}')
    chosen = settings("eval.baselines=false", "eval.draws=100")
    clips = evaluate_folds(tmp_path, tmp_path / "report", chosen).appraisal.answers.clips
    expected = [(name, end, label, fold) for fold in folds for name, _, end, label in folds[fold]]
    del expected[3]  # the one that could not be read
    assert [(clip.path.name, clip.end, clip.label, clip.fold) for clip in clips] == expected
    assert [(row["end"], row["true_label"]) for row in rows(tmp_path / "report")] == [
        (f"{end:.3f}", label) for _, end, label, _ in expected
    ]
    (tmp_path / "predictions.csv").write_text("\n".join([*lines[:1], *lines[2:]]))
    with pytest.raises(DataError, match="does not fit the folds"):
        evaluate_folds(tmp_path, tmp_path / "report", chosen, force=True)


def test_the_temperature_makes_eval_and_predict_agree_and_the_answer_unsure_where_that_is_asked_for(
    runs: dict[str, Path], data: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    run = Path(shutil.copytree(runs["layer"], tmp_path / "run"))
    file = run / "model" / "calibration.json"
    content = json.loads(file.read_text())
    clips = [clip.path for clip in read_manifest(data / "validation.csv")]
    for temperature in (1.0, 0.1):
        file.write_text(json.dumps(content | {"temperature": temperature}))
        sure = [answer.confidence for answer in load_predictor(str(run)).predict(clips)]
        logits = [np.log(answer.uncalibrated) for answer in load_predictor(str(run)).predict(clips)]
        expected = [softmax(values[None] / temperature).max() for values in logits]
        assert sure == pytest.approx(expected, rel=1e-4)
    half = settings("predict.coverage=0.5")
    answers = [answer.label for answer in load_predictor(str(run), half).predict(clips)]
    threshold = content["confidence"][len(content["confidence"]) // 2]
    assert [label == "unsure" for label in answers] == [value < threshold for value in sure]
    file.unlink()
    with pytest.raises(ConfigError, match=r"calibration\.json"):
        load_predictor(str(run), half)
