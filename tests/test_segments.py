"""Events are cut out of their recordings, and no name leads out of the folder."""

from __future__ import annotations

import errno
import re
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import cry
from hypothesis import example, given, strategies

from crycli.audio import Reader, Samples, decode
from crycli.errors import OutputError
from crycli.events import Event
from crycli.segments import SegmentWriter, safe_name


def event(start: float, end: float, label: str = "cry") -> Event:
    return Event(start, end, label, 0.9, start, 0.8)


def record(path: Path, rate: int = 22_050, channels: int = 2) -> Path:
    """Three seconds, whose channels differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.stack([cry(300.0 * (1 + channel), 3.0, rate=rate) for channel in range(channels)], axis=1)
    soundfile.write(path, samples, rate, "FLOAT")
    return path


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_event_is_its_part_of_the_recording_at_the_recordings_own_rate(tmp_path: Path) -> None:
    path = record(tmp_path / "night.wav")
    writer = SegmentWriter(tmp_path / "out", [path])
    files = writer.write(path, [event(0.5, 1.25), event(2.0, 3.0, "laugh")])
    assert list(below(tmp_path / "out")) == ["cry/night_0.500-1.250.wav", "laugh/night_2.000-3.000.wav"]
    assert files == [tmp_path / "out" / name for name in below(tmp_path / "out")]
    whole, _ = soundfile.read(path)
    part, rate = soundfile.read(files[0])
    assert (rate, soundfile.info(files[0]).subtype) == (22_050, "PCM_16")
    first = round(0.5 * rate)
    assert len(part) == round(1.25 * rate) - first
    np.testing.assert_allclose(part, whole.mean(axis=1)[first : first + len(part)], atol=1 / 32_000)


def test_what_is_too_loud_for_16_bits_is_clipped_and_does_not_wrap(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", np.full(16_000, 1.5, np.float32), 16_000, "FLOAT")
    (file,) = SegmentWriter(tmp_path / "out", []).write(tmp_path / "loud.wav", [event(0.0, 0.5)])
    assert soundfile.read(file)[0].min() > 0.99


def test_recordings_of_one_name_in_several_folders_are_kept_apart(tmp_path: Path) -> None:
    paths = [record(tmp_path / name) for name in ("one/a.wav", "two/a.wav", "two/A.flac.wav", "two/b.wav")]
    writer = SegmentWriter(tmp_path / "out", paths)
    for path in paths:
        writer.write(path, [event(0.0, 1.0)])
    names = list(below(tmp_path / "out"))
    assert len(names) == len(paths)
    assert sum(re.fullmatch(r"cry/a-[0-9a-f]{8}_0\.000-1\.000\.wav", name) is not None for name in names) == 2
    assert "cry/b_0.000-1.000.wav" in names


def test_the_same_events_give_the_same_files(tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav")
    SegmentWriter(tmp_path / "out", [path]).write(path, [event(0.0, 1.0)])
    before = below(tmp_path / "out")
    with pytest.raises(OutputError, match="exists and is not empty"):
        SegmentWriter(tmp_path / "out", [path])
    SegmentWriter(tmp_path / "out", [path], force=True).write(path, [event(0.0, 1.0)])
    assert below(tmp_path / "out") == before


def test_a_full_disk_is_told_as_one_and_leaves_no_half_of_a_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(tmp_path / "a.wav")
    writer = SegmentWriter(tmp_path / "out", [path])

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left") as raised:
        writer.write(path, [event(0.0, 1.0)])
    assert raised.value.errno == errno.ENOSPC  # what the command line makes one line of
    assert below(tmp_path / "out") == {}


def test_a_recording_that_has_gone_is_told_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = SegmentWriter(tmp_path / "out", [])
    assert writer.write(tmp_path / "gone.wav", [event(0.0, 1.0)]) == []
    assert "gone.wav: its events are not cut out: no such file" in caplog.text
    assert writer.write(tmp_path / "gone.wav", []) == []


@given(label=strategies.text(min_size=1), stem=strategies.text(min_size=1))
@example(label="../x", stem="..")
@example(label="a/b", stem="\\..\\..\\x")
@example(label="..", stem="/etc/passwd")
@example(label=".", stem="a\0b")
@example(label="müde 疲れ" * 40, stem="x" * 400)
def test_no_label_and_no_name_leads_out_of_the_folder(label: str, stem: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in (safe_name(label), safe_name(stem)):
            assert len(f"{part}-12345678_86400.000-86400.000.wav".encode()) <= 255  # what most file systems take
            inside = folder / part / "file"
            inside.parent.mkdir(exist_ok=True)
            inside.touch()
            assert inside.resolve().parent.parent == folder.resolve()


@given(strategies.lists(strategies.text(alphabet="a/.:\\ ", min_size=1, max_size=6), unique=True, min_size=2))
def test_names_that_differ_stay_different(names: list[str]) -> None:
    assert len({safe_name(name) for name in names}) == len(names)


def test_plain_names_stay_as_they_are() -> None:
    for name in ("hungry", "belly_pain", "not-crying", "müde 疲れ", "a.b", "C++"):
        assert safe_name(name) == name


def test_a_label_with_a_slash_gets_one_folder_in_the_folder(tmp_path: Path) -> None:
    path = record(tmp_path / "in" / "a.wav")
    SegmentWriter(tmp_path / "out", [path]).write(path, [event(0.0, 1.0, "../x")])
    (file,) = below(tmp_path / "out")
    assert re.fullmatch(r"__x-[0-9a-f]{8}/a_0\.000-1\.000\.wav", file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("form", ["wav", "ogg"])
def test_the_events_of_a_recording_are_cut_in_one_pass_over_it(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"night.{form}"
    soundfile.write(path, cry(300.0, 150.0, rate=8_000), 8_000)
    whole = decode(path).samples
    decoded, count = [], Reader._count

    def counted(reader: Reader, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in count(reader, blocks):
            decoded.append(len(block))
            yield block

    monkeypatch.setattr(Reader, "_count", counted)
    spans = [(0.5, 130.0), (1.0, 59.0), (2.0, 3.0), (59.9, 60.1), (70.0, 71.0), (125.0, 149.0), (126.0, 127.0)]
    files = SegmentWriter(tmp_path / "out", []).write(path, [event(*span, f"of {span[0]}") for span in spans])
    assert sum(decoded) == round(148.5 * 8_000)
    for (start, end), file in zip(spans, files, strict=True):
        expected = whole[round(start * 8_000) : round(end * 8_000)]
        np.testing.assert_allclose(soundfile.read(file)[0], expected, atol=1 / 32_000)


def test_sound_between_the_events_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "night.wav"
    soundfile.write(path, np.tile(cry(300.0, 60.0, rate=8_000), 20), 8_000, "PCM_U8")
    writer = SegmentWriter(tmp_path / "out", [])
    tracemalloc.start()
    assert len(writer.write(path, [event(1.0, 2.0), event(1198.0, 1199.0)])) == 2
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert peak < 10  # MB; 38 for all of it


def test_a_recording_that_has_become_shorter_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = record(tmp_path / "night.wav")
    files = SegmentWriter(tmp_path / "out", []).write(path, [event(0.0, 1.0), event(5.0, 6.0)])
    assert len(files) == 1
    assert "night.wav: its events are not cut out: it has become shorter" in caplog.text
