"""The preview: what lies in its folder is what training hears."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import cry, settings
from PIL import Image

from crycli import audio
from crycli.audio import SAMPLE_RATE, Samples
from crycli.augment import TrainingView
from crycli.config import Config
from crycli.errors import ConfigError, DataError, OutputError
from crycli.manifest import Clip, read_manifest, write_manifest
from crycli.preview import write_preview

CHANGES = ("augment.probability=1", "augment.noise_snr_db=[10, 30]", "augment.shift_seconds=0.2", "augment.mixup=1")


def changed(*assignments: str) -> Config:
    pytest.importorskip("audiomentations")
    return settings("data.max_seconds=0.5", *CHANGES, *assignments)


def dataset(folder: Path, clips: dict[str, Samples | None]) -> Path:
    """A training part of one clip a label; None: a recording that cannot be read."""
    folder.mkdir()
    rows = []
    for number, (label, samples) in enumerate(clips.items()):
        path = folder / f"{number}.wav"
        if samples is None:
            path.write_text("no recording")
        else:
            soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
        rows.append(Clip(path, label, str(number)))
    write_manifest(folder / "train.csv", rows)
    return folder


def test_a_recording_beyond_the_limits_is_not_decoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sounds = {"long": cry(300.0, 2.0), "short": cry(500.0, 0.6), "low": cry(200.0, 0.6)}
    data = dataset(tmp_path / "data", sounds)
    files = write_preview(data, tmp_path / "preview", settings("limits.max_hours=0.0004"), 3)
    assert sum(path.suffix == ".wav" for path in files) == 4
    assert "0.wav: goes on for more than 0.0004 h (limits.max_hours)" in caplog.text


def test_the_folder_holds_pairs_of_recordings_and_a_sheet(data: Path, tmp_path: Path) -> None:
    steps = []
    files = write_preview(data, tmp_path / "preview", changed(), 5, on_step=steps.append)
    assert sorted(files) == sorted((tmp_path / "preview").iterdir())
    assert [path.name for path in files[:4]] == [
        "01-high.wav",
        "01-high-original.wav",
        "02-low.wav",
        "02-low-original.wav",
    ]
    for path in files[:-1]:
        header = soundfile.info(path)
        assert (header.samplerate, header.channels, header.subtype) == (SAMPLE_RATE, 1, "PCM_16")
    with Image.open(files[-1]) as sheet:
        assert (sheet.format, files[-1].name) == ("PNG", "sheet.png")
        assert sheet.width > 1000
        assert sheet.height > 5 * 150
    assert [(step.done, step.total) for step in steps] == [(done, 5) for done in range(1, 6)]


def test_the_labels_come_by_turns(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data", {})
    rows = []
    for label, count in {"common": 20, "rare": 1, "some": 3}.items():
        for number in range(count):
            path = folder / f"{label}{number}.wav"
            soundfile.write(path, cry(300, 0.6, seed=number), SAMPLE_RATE)
            rows.append(Clip(path, label, path.stem))
    write_manifest(folder / "train.csv", rows)
    files = write_preview(folder, tmp_path / "preview", settings(), 7)
    labels = Counter(path.stem.split("-")[1] for path in files[:-1:2])
    assert labels == {"common": 3, "rare": 1, "some": 3}


def test_the_recordings_are_what_training_hears_in_its_first_epoch(data: Path, tmp_path: Path) -> None:
    config = changed("train.seed=4", "augment.short_clips=repeat")
    files = write_preview(data, tmp_path / "preview", config, 3)
    clips = read_manifest(data / "train.csv")
    view = TrainingView(config, SAMPLE_RATE)

    def load(number: int) -> Samples:
        return audio.load(clips[number].path, SAMPLE_RATE, clips[number].start, clips[number].end)

    heard = [view.waveform(load, index, (4, 0, index, 0), len(clips))[0] for index in range(len(clips))]
    parts = [view.part(load(index), (4, 0, index, 0)) for index in range(len(clips))]
    for changed_file, original_file in zip(files[:-1:2], files[1:-1:2], strict=True):
        samples, _ = soundfile.read(changed_file, dtype="float32")
        matches = [index for index in range(len(clips)) if np.allclose(samples, peak_limited(heard[index]), atol=1e-4)]
        assert len(matches) == 1
        original, _ = soundfile.read(original_file, dtype="float32")
        np.testing.assert_allclose(original, peak_limited(parts[matches[0]]), atol=1e-4)


def peak_limited(samples: Samples) -> Samples:
    return samples * min(1.0, 0.99 / max(np.abs(samples).max(), 1e-9))


def test_the_seed_chooses_the_clips(data: Path, tmp_path: Path) -> None:
    def preview(name: str, seed: int) -> list[bytes]:
        files = write_preview(data, tmp_path / name, settings(f"train.seed={seed}", "data.max_seconds=0.5"), 2)
        return [path.read_bytes() for path in files]

    assert preview("first", 0) == preview("again", 0) != preview("other", 1)


def test_where_nothing_is_configured_clips_are_cut_and_an_example_is_given(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    files = write_preview(data, tmp_path / "preview", settings("data.max_seconds=0.5"), 2)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert soundfile.info(files[0]).frames == SAMPLE_RATE // 2
    (message,) = [record.getMessage() for record in caplog.records]
    assert "augment is all off" in message
    assert settings(*message.partition("--set ")[2].replace("'", "").split(" --set ")).augment.shift_seconds > 0


def test_an_unreadable_recording_is_named_and_another_clip_takes_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = {"a": cry(300, 0.6), "b": None, "c": cry(400, 0.6), "d": cry(500, 0.3)}
    data = dataset(tmp_path / "data", clips)
    files = write_preview(data, tmp_path / "preview", settings(), 2)
    assert [path.name for path in files[:-1:2]] == ["01-a.wav", "02-c.wav"]
    assert "left out" in caplog.text
    assert str(data / "1.wav") in caplog.text
    caplog.clear()
    write_preview(data, tmp_path / "all", settings(), 9)
    assert f"{data / '3.wav'}: too short" in caplog.text
    assert "9 clips were asked for" in caplog.text


def test_a_clip_whose_partner_cannot_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = dataset(tmp_path / "data", {"a": cry(300, 0.6), "b": None})
    with pytest.raises(DataError, match="none of the 2 recordings"):
        write_preview(data, tmp_path / "preview", settings("augment.mixup=1"), 1)
    assert caplog.text.count(str(data / "1.wav")) == 2


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("a/b\\c: d?*", "01-a_b_c_d.wav"),
        ("$x_1$ ünter 日本", "01-x_1_ünter_日本.wav"),
        ("../..", "01-label.wav"),
        ("日" * 300, f"01-{'日' * 40}.wav"),
    ],
)
def test_a_label_becomes_a_safe_file_name(tmp_path: Path, label: str, name: str) -> None:
    data = dataset(tmp_path / "data", {label: cry(300, 0.6)})
    files = write_preview(data, tmp_path / "preview", settings(), 1)
    assert files[0] == tmp_path / "preview" / name
    assert all(path.is_file() for path in files)


def test_loud_clips_are_turned_down_and_not_clipped(tmp_path: Path) -> None:
    loud = cry(300, 0.6) * np.float32(1e6)
    files = write_preview(dataset(tmp_path / "data", {"a": loud}), tmp_path / "preview", settings(), 1)
    samples, _ = soundfile.read(files[0], dtype="float32")
    assert np.abs(samples).max() == pytest.approx(0.99, abs=1e-3)
    np.testing.assert_allclose(samples, peak_limited(loud), atol=1e-4)


def test_a_silent_clip_is_drawn_too(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", {"a": np.zeros(9600, np.float32), "b": cry(300, 2.0)})
    files = write_preview(data, tmp_path / "preview", settings(), 2)
    assert not soundfile.read(files[0])[0].any()


def test_the_sheet_ends_where_it_would_become_too_high(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crycli.preview.MOST_ROWS", 2)
    with caplog.at_level("INFO"):
        files = write_preview(data, tmp_path / "preview", settings(), 4)
    assert len(files) == 9
    assert "shows the first 2 clips" in caplog.text
    with Image.open(files[-1]) as sheet:
        assert sheet.height < 700


def test_an_earlier_preview_is_replaced_only_by_force_and_nothing_else_is(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "preview"
    write_preview(data, output, settings(), 4)
    others = [output / "01-my-song.wav", output / "notes-original.wav", output / "11-other-original.wav"]
    for path in others:
        path.write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        write_preview(data, output, settings(), 1)
    files = write_preview(data, output, settings(), 1, force=True)
    assert set(output.iterdir()) == {*files, *others}


def test_what_cannot_be_previewed_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    empty = dataset(tmp_path / "empty", {})
    for kind, folder, config, count in (
        (ConfigError, data, settings(), 0),
        (DataError, empty, settings(), 1),
        (DataError, tmp_path / "missing", settings(), 1),
        (ConfigError, data, settings("augment.background=missing"), 1),
    ):
        with pytest.raises(kind):
            write_preview(folder, tmp_path / "preview", config, count)
    assert not (tmp_path / "preview").exists()
