"""Sound through pipes: every kind of wav, raw samples, and nothing held back."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import pytest
import soundfile
from conftest import cry
from hypothesis import given
from hypothesis import strategies as st

from crycli.audio import SAMPLE_RATE, decode
from crycli.errors import AudioError, DataError
from crycli.pcm import open_stream


class Trickle(io.RawIOBase):
    """A stream that gives its bytes in pieces of the given sizes, then all that is left."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content = io.BytesIO(content)
        self._sizes = iter(sizes)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._content.read(min(size, next(self._sizes, size)))


def heard(content: bytes, rate: int = SAMPLE_RATE, channels: int = 1, sizes: list[int] | None = None) -> np.ndarray:
    stream: BinaryIO = Trickle(content, sizes or [])  # type: ignore[assignment]
    _, blocks = open_stream(stream, rate, channels)
    return np.concatenate([np.zeros(0, np.float32), *blocks])


def wav(samples: np.ndarray, subtype: str = "PCM_16", form: str = "WAV", rate: int = SAMPLE_RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=form)
    return file.getvalue()


def with_sizes(content: bytes, riff: int, data: int) -> bytes:
    """A wav whose header states other sizes."""
    changed, place = bytearray(content), content.index(b"data")
    changed[4:8], changed[place + 4 : place + 8] = struct.pack("<I", riff), struct.pack("<I", data)
    return bytes(changed)


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_wav_stream_is_heard_as_the_file_is(form: str, subtype: str, channels: int, tmp_path: Path) -> None:
    samples = np.stack([cry(300.0 + 200 * channel, 0.31, rate=22_050) for channel in range(channels)], axis=1)
    path = tmp_path / "cry.wav"
    path.write_bytes(wav(samples, subtype, form, 22_050))
    rate, blocks = open_stream(path.open("rb"), SAMPLE_RATE, 1)
    assert rate == 22_050
    np.testing.assert_allclose(np.concatenate(list(blocks)), decode(path).samples, atol=1e-7)


@pytest.mark.parametrize(
    ("riff", "data"), [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0x80000024, 0x80000000), (0, 0), (36, 100)]
)
def test_a_wav_stream_is_read_to_its_end_whatever_size_it_states(riff: int, data: int) -> None:
    content = with_sizes(wav(cry(440.0, 0.5)), riff, data)
    np.testing.assert_allclose(heard(content), cry(440.0, 0.5), atol=2**-14)


def test_what_a_program_wrote_behind_the_sound_is_not_heard() -> None:
    content = wav(cry(440.0, 0.5)[:7_999], "PCM_U8") + b"LIST" + struct.pack("<I", 1000) + bytes(1000)
    assert len(heard(content)) == 7_999


@given(
    sizes=st.lists(st.integers(1, 700), max_size=30),
    channels=st.integers(1, 3),
    extra=st.integers(0, 5),
    raw=st.booleans(),
)
def test_pieces_of_any_sizes_give_the_same_and_an_incomplete_sample_is_dropped(
    sizes: list[int], channels: int, extra: int, raw: bool
) -> None:
    stored = np.random.default_rng(channels).integers(-(2**15), 2**15, (1_000, channels), dtype=np.int16)
    expected = (stored / 2**15).mean(axis=1)
    content = stored.astype("<i2").tobytes() if raw else with_sizes(wav(stored), 0, 0)
    found = heard(content + bytes(min(extra, 2 * channels - 1)), channels=channels, sizes=sizes)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_blocks_are_no_longer_than_a_tenth_of_a_second() -> None:
    _, blocks = open_stream(io.BytesIO(bytes(64_000)), SAMPLE_RATE, 2)
    sizes = [len(block) for block in blocks]
    assert (max(sizes), sum(sizes)) == (1_600, 16_000)


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64"])
def test_other_containers_are_refused_with_what_to_do(form: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, cry(440.0, 1.0), SAMPLE_RATE, format=form)
    with pytest.raises(DataError, match=r"takes 16-bit PCM or wav: pipe it through `ffmpeg -i FILE -f wav -`"):
        open_stream(io.BytesIO(file.getvalue()), SAMPLE_RATE, 1)


@pytest.mark.parametrize(("form", "encoder"), [("adts", "aac"), ("mp3", "libmp3lame"), ("mp2", "mp2"), ("mp4", "aac")])
def test_compressed_streams_are_refused(form: str, encoder: str) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(encoder, rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(cry(440.0, 1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        stream.codec_context.open()
        cutter = av.AudioResampler(stream.codec_context.format, "mono", SAMPLE_RATE, stream.codec_context.frame_size)
        for piece in [*cutter.resample(frame), None]:
            container.mux(stream.encode(piece))
    with pytest.raises(DataError, match="takes 16-bit PCM or wav"):
        open_stream(io.BytesIO(file.getvalue()), SAMPLE_RATE, 1)


@pytest.mark.parametrize("start", [b"\xff\xfb", b"\xff\xf3", b"\xff\xe2"])
@pytest.mark.parametrize("offset", [True, False])
def test_raw_samples_that_begin_like_an_mp3_are_heard(start: bytes, offset: bool) -> None:
    samples = cry(440.0, 0.5) * 0.01
    raw = start * 8_000 if offset else start + (samples * 2**15).astype("<i2").tobytes()
    assert len(heard(raw)) == len(raw) // 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing came"),
        (wav(cry(440.0, 0.1), "ULAW"), "8-bit samples of kind 7"),
        (wav(cry(440.0, 0.1), "DOUBLE"), "64-bit samples of kind 3"),
        (wav(cry(440.0, 0.1))[:30], "has (no sound|a damaged header)"),
        (wav(cry(440.0, 0.1))[:38], "has no sound"),
        (wav(np.zeros((10, 65), np.int16)), "65 channels"),
        (wav(np.zeros(10, np.int16), rate=900), "says 900 Hz"),
        (b"RIFF\0\0\0\0WAVEdata" + bytes(100), "has no sound"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(100), "takes 16-bit PCM or wav"),
    ],
)
def test_a_stream_that_cannot_be_heard_says_why(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        heard(content)


def test_samples_that_are_no_numbers_are_refused() -> None:
    samples = cry(440.0, 0.5)
    samples[5_000] = np.nan
    with pytest.raises(AudioError, match="NaN"):
        heard(wav(samples, "FLOAT"))


def test_any_bytes_are_heard_or_refused() -> None:
    chance = np.random.default_rng(0)
    whole = wav(cry(440.0, 0.05))
    for _ in range(500):
        content = bytearray(whole[: chance.integers(1, len(whole))])
        for place in chance.integers(0, min(60, len(content)), size=4):
            content[place] = chance.integers(0, 256)
        try:
            assert np.isfinite(heard(bytes(content))).all()
        except DataError as error:
            assert "\n" not in str(error)


RECORDER = """
import sys, time
for number in range(3):
    sys.stdout.buffer.write(sys.stdin.buffer.read(3_200))
    sys.stdout.buffer.flush()
    time.sleep(0.5)
"""


@pytest.fixture
def recorder() -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes a tenth of a second of sound every half second."""
    with subprocess.Popen([sys.executable, "-c", RECORDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write((cry(440.0, 0.3) * 2**15).astype("<i2").tobytes())
        process.stdin.close()
        yield process
        process.kill()


def test_what_a_process_wrote_is_heard_before_it_writes_more(recorder: subprocess.Popen[bytes]) -> None:
    assert recorder.stdout is not None
    _, blocks = open_stream(recorder.stdout, SAMPLE_RATE, 1)  # type: ignore[arg-type]
    arrivals, found = [], []
    for block in blocks:
        found.append(block)
        arrivals += [time.monotonic()] * (len(np.concatenate(found)) // 1_600 - len(arrivals))
    np.testing.assert_allclose(np.concatenate(found), cry(440.0, 0.3), atol=2**-14)
    assert len(arrivals) == 3
    assert np.diff(arrivals).min() > 0.25  # each came while the process slept


def test_a_pipe_that_is_closed_at_once_is_said_to_be_empty() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading, "rb") as stream, pytest.raises(DataError, match="nothing came"):
        open_stream(stream, SAMPLE_RATE, 1)
