"""Recordings to clips and windows: what is covered, what is left out, and the same from any number of processes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import cry
from hypothesis import given
from hypothesis import strategies as st

from crycli import audio
from crycli.audio import Excerpt
from crycli.measures import Meter
from crycli.probing import Probe, Windowing, probe, probe_all

RATE = 8_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


def record(folder: Path, seconds: float, rate: int = RATE) -> Path:
    path = folder / f"{seconds:.4f}-{rate}.wav"
    if not path.exists():
        soundfile.write(path, cry(300.0, seconds, seed=round(seconds * 1000), rate=rate), rate)
    return path


def spans(found: Probe) -> list[tuple[float, float]]:
    return [(window.start, round(window.start + window.measures.duration, 6)) for window in found.windows]


def test_without_a_window_a_recording_is_a_clip(folder: Path) -> None:
    found = probe(Excerpt(record(folder, 3.0)), Windowing(None, None, 0.5))
    assert [(window.start, window.measures.duration) for window in found.windows] == [(None, 3.0)]
    assert (found.seconds, found.error, found.cut_short) == (3.0, "", False)


@pytest.mark.parametrize(
    ("seconds", "window", "hop", "expected"),
    [
        (21.0, 7.0, 3.5, [(0, 7), (3.5, 10.5), (7, 14), (10.5, 17.5), (14, 21)]),
        (4.0, 2.0, None, [(0, 2), (2, 4)]),
        (4.4, 2.0, None, [(0, 2), (2, 4)]),  # the tail is shorter than 0.5 s
        (4.5, 2.0, None, [(0, 2), (2, 4), (4, 4.5)]),
        (4.4, 2.0, 1.0, [(0, 2), (1, 3), (2, 4)]),
        (4.6, 2.0, 1.0, [(0, 2), (1, 3), (2, 4), (3, 4.6)]),
        (1.5, 2.0, 1.0, [(0, 1.5)]),
        (2.0, 2.0, 1.0, [(0, 2)]),
        (0.5, 2.0, None, [(0, 0.5)]),
    ],
)
def test_windows_cover_a_recording(
    seconds: float, window: float, hop: float | None, expected: list[tuple[float, float]], folder: Path
) -> None:
    assert spans(probe(Excerpt(record(folder, seconds)), Windowing(window, hop, 0.5))) == expected


@given(
    st.integers(500, 9_000),
    st.sampled_from([500, 700, 1_000, 2_000, 3_500]),
    st.floats(0.1, 1.0),
    st.integers(100, 500),
)
def test_windows_leave_out_at_most_a_short_tail(milliseconds: int, window: int, share: float, least: int) -> None:
    from tempfile import TemporaryDirectory

    seconds, hop, shortest = milliseconds / 1000, max(0.1, round(window * share) / 1000), least / 1000
    with TemporaryDirectory() as place:
        path = Path(place, "x.wav")
        soundfile.write(path, cry(300.0, seconds, rate=1_000), 1_000)
        found = spans(probe(Excerpt(path), Windowing(window / 1000, hop, shortest)))
    assert found[0][0] == 0
    assert all(later[0] - earlier[0] == pytest.approx(hop) for earlier, later in pairwise(found))
    assert all(later[0] <= earlier[1] for earlier, later in pairwise(found))
    assert all(end - start == pytest.approx(window / 1000) for start, end in found[:-1])
    assert shortest <= round(found[-1][1] - found[-1][0], 6) <= window / 1000
    assert -1e-6 <= seconds - found[-1][1] < shortest
    assert len({end for _, end in found}) == len(found)  # none lies within another one


def test_windows_over_the_seams_of_blocks_hold_the_right_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 1)
    path = record(folder, 5.3)
    samples = audio.decode(path).samples
    for start, window in ((w.start, w) for w in probe(Excerpt(path), Windowing(1.7, 0.9, 0.5)).windows):
        first = round(start * RATE)
        meter = Meter(RATE)
        meter.add(samples[first : first + round(1.7 * RATE)])
        assert window.measures == meter.result(1, "pcm_s16")


def test_the_blocks_in_which_a_recording_is_decoded_change_no_measure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(folder, 61.0)
    found = []
    for seconds in (60, 120):
        monkeypatch.setattr(audio, "BLOCK_SECONDS", seconds)
        found.append(probe(Excerpt(path), Windowing(7.0, 3.5, 0.5)))
    assert found[0].windows == found[1].windows
    assert found[0].audio_hash == found[1].audio_hash


def test_an_excerpt_is_cut_into_windows_on_the_clock_of_the_recording(folder: Path) -> None:
    excerpt = Excerpt(record(folder, 9.0), 2.0, 4.5)
    assert spans(probe(excerpt, Windowing(None, None, 0.5))) == [(2.0, 4.5)]
    assert spans(probe(excerpt, Windowing(1.0, 0.5, 0.5))) == [(2.0, 3.0), (2.5, 3.5), (3.0, 4.0), (3.5, 4.5)]


def test_what_is_too_short_has_a_reason_and_no_clip(folder: Path) -> None:
    found = probe(Excerpt(record(folder, 0.4)), Windowing(2.0, 1.0, 0.5))
    assert (found.windows, found.error[:9]) == ((), "too short")
    excerpt = probe(Excerpt(record(folder, 9.0), 8.8, 9.5), Windowing(None, None, 0.5))
    assert (excerpt.windows, excerpt.error[:9]) == ((), "too short")


def test_the_rate_is_part_of_what_a_copy_is(folder: Path) -> None:
    samples = cry(300.0, 1.0, rate=RATE)
    hashes = []
    for rate in (8_000, 16_000):
        soundfile.write(folder / f"same-{rate}.wav", samples, rate)
        hashes.append(probe(Excerpt(folder / f"same-{rate}.wav"), Windowing(None, None, 0.1)).audio_hash)
    assert hashes[0] != hashes[1]


def test_processes_give_what_one_thread_gives(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crycli.parallel.SECONDS_TO_START", 0.0)
    excerpts = [Excerpt(record(folder, 1.0 + number / 8)) for number in range(12)]
    (tmp_path / "words.wav").write_text("words")
    excerpts += [Excerpt(tmp_path / "words.wav"), Excerpt(tmp_path / "gone.wav"), Excerpt(excerpts[0].path, 0.0, 0.5)]
    windowing = Windowing(0.5, 0.25, 0.2)
    steps = []
    many = probe_all(excerpts, windowing, workers=3, cache=tmp_path / "cache", on_step=steps.append)
    assert many == probe_all(excerpts, windowing, workers=1)
    assert many == probe_all(excerpts, windowing, workers=1, cache=tmp_path / "cache")
    assert [(step.done, step.total) for step in steps] == [(done, 15) for done in range(16)]
    assert many[12].error.startswith("not a readable recording")
    assert many[13].error == "no such file"


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "ULAW", "ALAW", "FLOAT"])
def test_silence_has_no_identity_whatever_stands_for_nought(subtype: str, tmp_path: Path) -> None:
    """A-law has no nought: its silence is 8 of 32,768."""
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), RATE, subtype=subtype)
    found = probe(Excerpt(tmp_path / "silent.wav"), Windowing(None, None, 0.5))
    assert found.error == ""
    assert found.audio_hash == ""
    assert found.fingerprint.words == b""
