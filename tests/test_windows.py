"""The rule of windows, for wholes and for streams, and recordings of hours in bounded memory."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import cry
from hypothesis import given
from hypothesis import strategies as st

from crycli import audio
from crycli.audio import SAMPLE_RATE, Excerpt
from crycli.errors import AudioError
from crycli.limits import Limits
from crycli.windows import WindowCutter, stream_windows, window_bounds

lengths, windows, hops = st.integers(0, 400), st.integers(1, 60), st.integers(1, 90)


@pytest.mark.parametrize(
    ("length", "window", "hop", "bounds"),
    [
        (0, 4, 2, []),
        (3, 4, 2, [(0, 3)]),
        (4, 4, 2, [(0, 4)]),
        (8, 4, 4, [(0, 4), (4, 8)]),
        (9, 4, 4, [(0, 4), (4, 8), (5, 9)]),
        (8, 4, 2, [(0, 4), (2, 6), (4, 8)]),
        (9, 4, 2, [(0, 4), (2, 6), (4, 8), (5, 9)]),
        (12, 4, 6, [(0, 4), (6, 10), (8, 12)]),
    ],
)
def test_windows_start_a_hop_apart_and_one_more_ends_at_the_end(
    length: int, window: int, hop: int, bounds: list[tuple[int, int]]
) -> None:
    assert window_bounds(length, window, hop) == bounds


@given(length=lengths.filter(bool), window=windows, hop=hops)
def test_windows_are_of_one_length_and_reach_from_the_start_to_the_end(length: int, window: int, hop: int) -> None:
    bounds = window_bounds(length, window, hop)
    assert {last - first for first, last in bounds} == {min(length, window)}
    assert (bounds[0][0], bounds[-1][1]) == (0, length)
    steps = np.diff([first for first, _ in bounds])
    assert (steps[:-1] == hop).all()
    assert (steps > 0).all()
    assert (steps <= hop).all()


@given(length=lengths, window=windows, hop=hops, sizes=st.lists(st.integers(0, 120), max_size=30))
def test_blocks_of_any_sizes_are_cut_like_the_whole(length: int, window: int, hop: int, sizes: list[int]) -> None:
    samples = np.arange(length, dtype=np.float32)
    cutter, cut = WindowCutter(window, hop), []
    for block in np.split(samples, np.minimum(np.cumsum(sizes, dtype=int), length)):
        cut += list(cutter.push(block))
    cut += list(cutter.close())
    assert [(found.start, found.start + len(found.samples)) for found in cut] == window_bounds(length, window, hop)
    for found in cut:
        np.testing.assert_array_equal(found.samples, samples[found.start : found.start + window])


def test_a_window_is_given_as_soon_as_it_is_full() -> None:
    cutter = WindowCutter(4, 2)
    given_by = [len(list(cutter.push(np.zeros(1, np.float32)))) for _ in range(9)]
    assert given_by == [0, 0, 0, 1, 0, 1, 0, 1, 0]
    assert [window.start for window in cutter.close()] == [5]


@pytest.mark.parametrize("rate", [8_000, 11_025, SAMPLE_RATE, 44_100])
def test_the_windows_of_a_file_are_those_of_its_samples(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "cry.wav"
    soundfile.write(path, cry(440.0, 3.3, rate=rate), rate)
    for start, end in ((None, None), (0.5, 2.75)):
        whole = audio.load(path, SAMPLE_RATE, start, end)
        stream = stream_windows(Excerpt(path, start, end), SAMPLE_RATE, 16_000, 5_000, digest=True)
        found = list(stream)
        bounds = window_bounds(len(whole), 16_000, 5_000)
        assert [window.start for window in found] == [first for first, _ in bounds]
        for window, (first, last) in zip(found, bounds, strict=True):
            np.testing.assert_array_equal(window.samples, whole[first:last])
        assert stream.seconds == len(whole) / SAMPLE_RATE
        assert stream.digest == audio.digest(whole)
        assert not stream.cut_short


def test_a_recording_that_is_too_short_or_too_long_gives_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cry.wav"
    soundfile.write(path, cry(440.0, 0.02), SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"too short: 0.020 s"):
        list(stream_windows(Excerpt(path), SAMPLE_RATE, 16_000, 16_000))
    soundfile.write(path, cry(440.0, 4.0), SAMPLE_RATE)
    with pytest.raises(AudioError, match="goes on for more than"):
        list(stream_windows(Excerpt(path), SAMPLE_RATE, 16_000, 16_000, Limits(max_hours=3.9 / 3600)))


def test_a_damaged_recording_gives_its_beginning_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("crycli"), "propagate", True)
    path = tmp_path / "cut.flac"
    soundfile.write(path, cry(440.0, 4.0), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    stream = stream_windows(Excerpt(path), SAMPLE_RATE, 16_000, 16_000)
    assert len(list(stream)) >= 2
    assert stream.cut_short
    assert "cut.flac is damaged: only its first" in caplog.text


STREAM = """
import sys
from pathlib import Path
from crycli.audio import Excerpt
from crycli.windows import stream_windows
from crycli import audio
import soxr, soundfile

def highest():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = highest()
count = sum(1 for _ in stream_windows(Excerpt(Path(sys.argv[1])), 16_000, 48_000, 24_000))
print(count, (highest() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_recording_of_two_hours_is_cut_in_bounded_memory(tmp_path: Path) -> None:
    path, hours = tmp_path / "night.wav", 2
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_U8") as file:
        for _ in range(hours):
            file.write(np.zeros(3600 * 8_000, np.int16))
    done = subprocess.run([sys.executable, "-c", STREAM, path], capture_output=True, text=True, timeout=120)
    count, megabytes = map(int, done.stdout.split())
    assert count == (hours * 3600 - 3) / 1.5 + 1
    assert megabytes < 40  # the whole takes 460
