"""A trained classifier at work: one answer for one recording, whatever it is read with."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import NORMS, Outcome, cry, settings
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from crycli import audio
from crycli.audio import Excerpt
from crycli.checkpoint import read_json
from crycli.errors import ConfigError, DataError
from crycli.exporting import export_bundle
from crycli.inference import load_predictor
from crycli.inputs import find_inputs
from crycli.manifest import Clip, write_manifest
from crycli.networks import Output, pick_device, softmax
from crycli.outputs import write_json
from crycli.predictions import Prediction
from crycli.windows import window_bounds

WITHOUT_TORCH = """
import sys
from crycli.cli import app
code = app(["-q", "predict", *sys.argv[2:], "-m", sys.argv[1]], standalone_mode=False)
print(code or 0, sorted({"torch", "transformers", "datasets", "pandas", "sklearn"} & set(sys.modules)))
"""
SECONDS = (0.3, 1.1, 0.025, 0.72, 0.6, 2.0, 0.9)  # of different lengths, so that batches are padded


def amplify(run: Path) -> None:
    """Turn up a model's random head: answers then differ from clip to clip, and with them every fault in masking."""
    file = run / "model" / "model.safetensors"
    weights = load_file(file)
    weights["classifier.dense.weight"] *= 20
    weights["classifier.out_proj.weight"] *= 50
    save_file(weights, file, metadata={"format": "pt"})
    (run / "model" / "calibration.json").unlink()  # of the head that was; it would make every answer the surest


@pytest.fixture(scope="module")
def loud_runs(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`runs` with their heads turned up. Not to be changed by a test."""
    folders = {}
    for norm, run in runs.items():
        folders[norm] = Path(shutil.copytree(run, tmp_path_factory.mktemp("loud") / norm))
        amplify(folders[norm])
    return folders


@pytest.fixture(scope="module")
def loud_bundles(loud_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of `loud_runs`. Not to be changed by a test."""
    folders = {norm: tmp_path_factory.mktemp("loud-bundles") / norm for norm in loud_runs}
    for norm, run in loud_runs.items():
        export_bundle(str(run), folders[norm])
    return folders


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Cries of different lengths and pitches in one folder, sorted by name. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("clips")
    for number, seconds in enumerate(SECONDS):
        save(folder / f"{number}.wav", cry(250.0 + 150 * number, seconds, seed=number))
    return sorted(folder.iterdir())


def save(file: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """Write samples as they are, without rounding."""
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file


def answers(model: Path, paths: Iterable[Path], *assignments: str) -> np.ndarray:
    """The probabilities for recordings that can be read: (recordings, labels)."""
    predictions = list(load_predictor(str(model), settings(*assignments)).predict(paths))
    assert not [prediction.error for prediction in predictions if prediction.error]
    return np.array([prediction.probabilities for prediction in predictions])


def probabilities(rows: Iterable[dict[str, str]]) -> np.ndarray:
    """The probabilities in rows of CSV: (recordings, labels)."""
    return np.array([[float(row[key]) for key in row if key.startswith("p_")] for row in rows])


def shorten_window(run: Path, folder: Path, seconds: float) -> Path:
    """A copy of a model folder with another window."""
    shutil.copytree(run / "model", folder)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "window_seconds": seconds})
    return folder


@pytest.mark.parametrize("norm", NORMS)
def test_a_clip_gets_one_answer_alone_in_any_batch_and_from_every_form_of_the_model(
    norm: str, loud_runs: dict[str, Path], loud_bundles: dict[str, Path], clips: list[Path]
) -> None:
    run, bundle = loud_runs[norm], loud_bundles[norm]
    alone = np.concatenate([answers(run, [clip]) for clip in clips])
    assert np.ptp(alone[:, 0]) > 0.05  # answers that hardly differ would prove nothing
    for model in (run, run / "model", bundle):
        for size in ("auto", 1, 2, 3, 7, 50):
            np.testing.assert_allclose(answers(model, clips, f"predict.batch_size={size}"), alone, atol=1e-4, rtol=0)
    np.testing.assert_allclose(answers(run, clips[::-1], "predict.batch_size=4")[::-1], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_eval_and_predict_give_the_same_answers(
    norm: str,
    loud_runs: dict[str, Path],
    loud_bundles: dict[str, Path],
    clips: list[Path],
    tmp_path: Path,
    crycli: Callable[..., Outcome],
) -> None:
    write_manifest(tmp_path / "test.csv", [Clip(clip, "high", clip.name) for clip in clips])
    alone = np.concatenate([answers(loud_runs[norm], [clip]) for clip in clips])
    for name, model in {"run": loud_runs[norm], "bundle": loud_bundles[norm]}.items():
        assert crycli("eval", model, tmp_path, "-o", tmp_path / name, "--set", "predict.batch_size=3").code == 0
        with (tmp_path / name / "predictions.csv").open(newline="") as stream:
            np.testing.assert_allclose(probabilities(csv.DictReader(stream)), alone, atol=1e-4, rtol=0)
        done = crycli("predict", clips[0].parent, "-m", model, "--set", "predict.batch_size=4")
        rows = list(csv.DictReader(done.out.splitlines()))
        assert [row["path"] for row in rows] == [str(clip) for clip in clips]
        np.testing.assert_allclose(probabilities(rows), alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_answers_come_in_order_and_a_bad_file_does_not_stop_them(
    size: int, runs: dict[str, Path], clips: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.wav").touch()
    bad = [tmp_path / "text.wav", tmp_path / "empty.wav", tmp_path / "vanished.wav"]
    paths = [bad[0], clips[0], clips[1], bad[1], bad[2], clips[2], clips[3], bad[0]]
    predictor = load_predictor(str(runs["group"]), settings(f"predict.batch_size={size}"))
    predictions = list(predictor.predict(iter(paths)))
    assert [prediction.path for prediction in predictions] == paths
    for prediction in predictions:
        if prediction.path in bad:
            assert prediction == Prediction(prediction.path, error=prediction.error)
            assert prediction.error
        else:
            assert prediction.error == ""
            assert sum(prediction.probabilities) == pytest.approx(1.0)
            assert prediction.confidence == max(prediction.probabilities)
            assert prediction.label == predictor.labels[int(np.argmax(prediction.probabilities))]
            assert prediction.end == pytest.approx(soundfile.info(prediction.path).duration)


def test_nothing_but_bad_files_gives_nothing_but_errors(runs: dict[str, Path], tmp_path: Path) -> None:
    predictions = list(load_predictor(str(runs["layer"])).predict([tmp_path / "a.wav", tmp_path / "b.wav"]))
    assert [prediction.error for prediction in predictions] == ["no such file"] * 2


def test_no_recordings_give_no_answers(runs: dict[str, Path]) -> None:
    assert list(load_predictor(str(runs["layer"])).predict([])) == []


def test_what_is_too_short_for_the_network_is_an_error(
    runs: dict[str, Path], bundles: dict[str, Path], tmp_path: Path
) -> None:
    short, enough = save(tmp_path / "399.wav", cry(440.0, 1.0)[:399]), save(tmp_path / "400.wav", cry(440.0, 1.0)[:400])
    for model in (runs["group"], runs["layer"], bundles["group"], bundles["layer"]):
        first, second = load_predictor(str(model)).predict([short, enough])
        assert "too short" in first.error
        assert second.error == ""


def test_silence_gets_an_answer(runs: dict[str, Path], bundles: dict[str, Path], tmp_path: Path) -> None:
    silence = save(tmp_path / "silence.wav", np.zeros(8_000, np.float32))
    for model in (*runs.values(), *bundles.values()):
        assert np.isfinite(answers(model, [silence])).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [1, 2, 16])
def test_a_long_recording_gets_the_mean_over_its_windows(
    norm: str, size: int, loud_runs: dict[str, Path], tmp_path: Path
) -> None:
    model = shorten_window(loud_runs[norm], tmp_path / "model", 0.5)
    sweep = np.concatenate([cry(hertz, 0.33, seed=int(hertz)) for hertz in (200, 500, 900, 1500)])
    recording = save(tmp_path / "long.wav", sweep)
    bounds = window_bounds(len(sweep), 8_000, 8_000)
    pieces = [save(tmp_path / f"{first}.wav", sweep[first:last]) for first, last in bounds]
    each = answers(model, pieces)
    assert len(pieces) == 3
    assert np.ptp(each[:, 0]) > 0.01
    other = save(tmp_path / "other.wav", cry(300.0, 0.4))
    together = answers(model, [other, recording, other], f"predict.batch_size={size}")
    np.testing.assert_allclose(together[1], each.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(together[0], together[2], atol=1e-4)


def test_stereo_is_the_mean_of_its_channels(loud_runs: dict[str, Path], tmp_path: Path) -> None:
    left, right = cry(300.0, 0.8, seed=1), cry(700.0, 0.8, seed=2)
    stereo = save(tmp_path / "stereo.wav", np.stack([left, right], axis=1))
    mono = save(tmp_path / "mono.wav", (left + right) / 2)
    np.testing.assert_allclose(*answers(loud_runs["group"], [stereo, mono]), atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_other_sample_rates_are_resampled(rate: int, loud_runs: dict[str, Path], tmp_path: Path) -> None:
    samples = cry(400.0, 1.0, rate=rate)
    other = save(tmp_path / "other.wav", samples, rate)
    same = save(tmp_path / "same.wav", audio.resample(samples, rate, 16_000))
    np.testing.assert_allclose(*answers(loud_runs["layer"], [other, same]), atol=1e-4)
    (prediction,) = load_predictor(str(loud_runs["layer"])).predict([other])
    assert prediction.end == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_a_part_of_a_recording_is_answered_as_a_recording_of_that_part(
    size: int, loud_runs: dict[str, Path], loud_bundles: dict[str, Path], tmp_path: Path
) -> None:
    sweep = np.concatenate([cry(hertz, 0.5, seed=int(hertz)) for hertz in (200, 500, 900, 1500)])
    recording = save(tmp_path / "long.wav", sweep)
    times = [(0.0, 0.5), (0.5, 1.25), (1.0, 1.1), (1.5, 9.0)]
    parts = [save(tmp_path / f"{a}.wav", sweep[round(a * 16_000) : round(b * 16_000)]) for a, b in times]
    excerpts = [Excerpt(recording, *span) for span in times]
    for model in (loud_runs["layer"], loud_bundles["layer"]):
        alone = answers(model, parts)
        assert np.ptp(alone[:, 0]) > 0.01
        predictor = load_predictor(str(model), settings(f"predict.batch_size={size}"))
        found = list(predictor.predict([Excerpt(recording), *excerpts, recording]))
        assert [answer.path for answer in found] == [recording] * 6
        np.testing.assert_allclose([answer.probabilities for answer in found[1:-1]], alone, atol=1e-4)
        spans = [(answer.start, answer.end) for answer in found]
        assert spans == [(0.0, 2.0), (0.0, 0.5), (0.5, 1.25), (1.0, 1.1), (1.5, 2.0), (0.0, 2.0)]
        np.testing.assert_allclose(found[0].probabilities, found[-1].probabilities, atol=1e-4)


def test_a_part_beyond_the_end_is_an_error_and_does_not_stop_the_others(runs: dict[str, Path], tmp_path: Path) -> None:
    recording = save(tmp_path / "cry.wav", cry(300.0, 1.0))
    excerpts = [Excerpt(recording, 3.0, 4.0), Excerpt(recording, 0.5, 1.0), Excerpt(recording, 0.99, 1.0)]
    beyond, inside, short = load_predictor(str(runs["layer"])).predict(excerpts)
    assert (beyond.start, beyond.end, beyond.label) == (None, None, "")
    assert beyond.error
    assert (inside.start, inside.end, inside.error) == (0.5, 1.0, "")
    assert "too short" in short.error


def test_a_part_that_fails_is_told_from_others_of_its_recording(runs: dict[str, Path], tmp_path: Path) -> None:
    recording = save(tmp_path / "cry.wav", cry(300.0, 1.0))
    excerpts = [Excerpt(recording, 3.0, 4.0), Excerpt(recording, 5.0, 6.5)]
    found = [answer.error for answer in load_predictor(str(runs["layer"])).predict(excerpts)]
    assert found == ["no samples in it (3.000 to 4.000 s)", "no samples in it (5.000 to 6.500 s)"]


def test_short_hops_hold_no_more_sound_ahead_than_long_ones(tmp_path: Path) -> None:
    recording = save(tmp_path / "long.wav", cry(300.0, 60.0))
    peaks = []
    for hop in (3.5, 0.05):
        predictor = load_predictor("detector", settings(f"predict.hop={hop}", "workers=1"))
        predictor._network = lambda values, mask: Output(np.zeros((len(values), 2), np.float32), None)
        tracemalloc.start()
        assert [answer.error for answer in predictor.predict([recording])] == [""]
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize("suffix", [".raw", ".dat", ".txt", ""])
def test_a_recording_is_read_whatever_it_is_called(suffix: str, runs: dict[str, Path], tmp_path: Path) -> None:
    odd = save(tmp_path / f"cry{suffix}", cry(300.0, 0.5))
    assert answers(runs["layer"], find_inputs([odd])).shape == (1, 2)


def test_loudness_does_not_matter(loud_runs: dict[str, Path], tmp_path: Path) -> None:
    quiet, loud = save(tmp_path / "quiet.wav", cry(400.0, 1.0) * 0.1), save(tmp_path / "loud.wav", cry(400.0, 1.0))
    np.testing.assert_allclose(*answers(loud_runs["layer"], [quiet, loud]), atol=1e-3)


def test_a_bundle_predicts_without_torch_or_transformers(bundles: dict[str, Path], clips: list[Path]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(bundles["group"]), *map(str, clips)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    *rows, last = done.stdout.splitlines()
    assert len(rows) == 1 + len(clips), done.stderr
    assert last == "0 []"


def test_files_are_taken_as_they_are_and_folders_are_searched(tmp_path: Path) -> None:
    odd = save(tmp_path / "cry.dat", cry(300.0, 0.5))
    below = tmp_path / "folder" / "deep" / "LOUD.WAV"
    below.parent.mkdir(parents=True)
    save(below, cry(300.0, 0.5))
    for other in ("notes.txt", ".hidden.wav"):
        (tmp_path / "folder" / other).write_text("not meant")
    assert find_inputs([odd, tmp_path / "folder", odd]) == [Excerpt(odd), Excerpt(below), Excerpt(odd)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_list_with_semicolons_or_tabs_is_read_as_well(separator: str, tmp_path: Path) -> None:
    lines = [["path", "start", "end"], ['"a;,.wav"', "1.0", "2.5"], ["b.wav", "", ""]]
    text = "\ufeff" + "".join(separator.join(cells) + "\r\n" for cells in lines)
    (tmp_path / "list.csv").write_text(text, encoding="utf-8", newline="")
    assert find_inputs([tmp_path / "list.csv"]) == [
        Excerpt(tmp_path / "a;,.wav", 1.0, 2.5),
        Excerpt(tmp_path / "b.wav"),
    ]


def test_a_file_with_an_odd_suffix_is_read(runs: dict[str, Path], tmp_path: Path) -> None:
    assert answers(runs["layer"], find_inputs([save(tmp_path / "cry.dat", cry(300.0, 0.5))])).shape == (1, 2)


def test_missing_inputs_and_folders_without_recordings_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        find_inputs([tmp_path / "nowhere"])
    with pytest.raises(DataError, match=str(tmp_path)):
        find_inputs([tmp_path])


def test_a_device_that_is_not_there_is_refused() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in {"cpu", "cuda", "mps"}
    absent = "cuda" if pick_device("auto") == "mps" else "mps"
    with pytest.raises(ConfigError, match=absent):
        pick_device(absent)


@given(logits=arrays.arrays(np.float32, (3, 4), elements=strategies.floats(-1e4, 1e4, width=32)))
@hypothesis_settings(max_examples=50, deadline=None)
def test_softmax_gives_rows_that_sum_to_one_in_the_order_of_the_logits(logits: np.ndarray) -> None:
    rows = softmax(logits)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)
    np.testing.assert_array_equal(np.take_along_axis(rows, logits.argmax(1)[:, None], 1)[:, 0], rows.max(axis=1))


def test_a_model_that_answers_with_no_number_says_so(runs: dict[str, Path], clips: list[Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["layer"], tmp_path / "run"))
    weights = load_file(run / "model" / "model.safetensors")
    weights["classifier.out_proj.bias"] += np.nan
    save_file(weights, run / "model" / "model.safetensors", metadata={"format": "pt"})
    answers = list(load_predictor(str(run)).predict(clips))
    assert {answer.error for answer in answers} == {"the model's answer is not a number"}


def test_every_phone_upload_of_the_real_corpus_is_read(bundles: dict[str, Path], real_data: Path) -> None:
    recordings = find_inputs([real_data / "donateacry-raw"])
    answers = list(load_predictor(str(bundles["layer"])).predict(recordings))
    assert len(answers) == 120
    assert {Path(recording.path).suffix for recording in recordings} == {".3gp", ".caf"}
    assert [answer.error for answer in answers if answer.error] == []
    assert all(6.0 < answer.end < 8.0 for answer in answers if answer.end is not None)
