"""Decoding, resampling and limits, on files of every kind written on the spot."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from conftest import cry
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from crycli.audio import (
    BLOCK_SECONDS,
    BLOCK_VALUES,
    SAMPLE_RATE,
    SHORTEST_SAMPLES,
    SUFFIXES,
    Reader,
    decode,
    find_recordings,
    load,
    normalise,
    resample,
    resample_blocks,
)
from crycli.errors import AudioError
from crycli.limits import Limits

TONE = 440.0  # Hz
BREAK = 0.6  # of a file's bytes: where the truncated ones end

SOUNDFILE_KINDS = [
    # suffix, subtype, largest error of a sample
    (".wav", "PCM_U8", 2**-6),
    (".wav", "PCM_16", 2**-14),
    (".wav", "PCM_24", 2**-22),
    (".wav", "PCM_32", 2**-22),
    (".wav", "FLOAT", 0.0),
    (".wav", "DOUBLE", 0.0),
    (".wav", "ALAW", 0.02),
    (".wav", "ULAW", 0.02),
    (".flac", "PCM_16", 2**-14),
    (".flac", "PCM_24", 2**-22),
    (".aiff", "PCM_16", 2**-14),
    (".au", "ULAW", 0.02),
    (".caf", "ALAC_16", 2**-14),
    (".w64", "PCM_16", 2**-14),
    (".rf64", "PCM_16", 2**-14),
]
LOSSY_KINDS = [
    # suffix, encoder of FFmpeg (empty: soundfile's own), sample rate, seconds that padding may add
    (".ogg", "", SAMPLE_RATE, 0.0),
    (".mp3", "", SAMPLE_RATE, 0.0),
    (".opus", "libopus", SAMPLE_RATE, 0.0),
    (".mp3", "libmp3lame", 44_100, 0.06),
    (".mp2", "mp2", SAMPLE_RATE, 0.1),
    (".m4a", "aac", 44_100, 0.1),
    (".mp4", "aac", SAMPLE_RATE, 0.15),
    (".3gp", "aac", SAMPLE_RATE, 0.15),
    (".aac", "aac", SAMPLE_RATE, 0.15),
    (".mka", "aac", SAMPLE_RATE, 0.15),
    (".webm", "libopus", SAMPLE_RATE, 0.0),
    (".amr", "libopencore_amrnb", 8_000, 0.1),
    (".3gp", "libopencore_amrnb", 8_000, 0.1),
]


@dataclass(frozen=True)
class Kind:
    """A container and what is in it.

    Attributes:
        suffix: of the container.
        encoder: of FFmpeg; empty: soundfile's own.
        codec: what `decode` is to call it.
        rate: Hz.
        subtype: of soundfile.
        options: of FFmpeg's container.
        bits: a second, where the encoder must be told.
        slip: seconds by which an excerpt may be off after a seek.
        error: largest error of a sample of an excerpt, after the first tenth of a second; 0: there is none at all.
        flagged: the container tells where its end should be.
    """

    suffix: str
    encoder: str
    codec: str
    rate: int = SAMPLE_RATE
    subtype: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    bits: int = 0
    slip: float = 0.0
    error: float = 0.0
    flagged: bool = True

    def __str__(self) -> str:
        words = (self.suffix[1:], self.encoder or "soundfile", self.subtype, *self.options, self.rate)
        return "-".join(str(word) for word in words if word)


IN_FRONT = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}
KINDS = [
    Kind(".wav", "", "pcm_u8", subtype="PCM_U8"),
    Kind(".wav", "", "pcm_s16", subtype="PCM_16"),
    Kind(".wav", "", "pcm_s24", subtype="PCM_24"),
    Kind(".wav", "", "pcm_s32", subtype="PCM_32"),
    Kind(".wav", "", "pcm_f32", subtype="FLOAT"),
    Kind(".wav", "", "pcm_f64", subtype="DOUBLE"),
    Kind(".wav", "", "pcm_alaw", 8_000, subtype="ALAW"),
    Kind(".wav", "", "pcm_mulaw", 8_000, subtype="ULAW"),
    Kind(".wav", "", "adpcm_ima_wav", subtype="IMA_ADPCM"),
    Kind(".wav", "", "adpcm_ms", subtype="MS_ADPCM"),
    Kind(".wav", "libmp3lame", "mp3"),
    Kind(".wav", "adpcm_yamaha", "adpcm_yamaha"),
    Kind(".flac", "", "flac", subtype="PCM_16"),
    Kind(".flac", "flac", "flac", 44_100),
    Kind(".aiff", "", "pcm_s16", subtype="PCM_16"),
    Kind(".au", "", "pcm_mulaw", subtype="ULAW"),
    Kind(".w64", "", "pcm_s16", subtype="PCM_16"),
    Kind(".rf64", "", "pcm_s16", subtype="PCM_16"),
    Kind(".caf", "", "alac", subtype="ALAC_16"),
    Kind(".caf", "", "pcm_s16", subtype="PCM_16"),
    # FFmpeg's decoder goes on from the packet before where that is close to what the packet says.
    Kind(".caf", "adpcm_ima_qt", "adpcm_ima_qt", error=0.01),
    Kind(".ogg", "", "vorbis"),
    Kind(".ogg", "flac", "flac"),
    Kind(".opus", "libopus", "opus"),
    Kind(".mp3", "", "mp3", flagged=False),
    Kind(".mp3", "libmp3lame", "mp3", 44_100, flagged=False),
    Kind(".mp2", "mp2", "mp2", error=2**-14, flagged=False),
    Kind(".aac", "aac", "aac", flagged=False),
    Kind(".amr", "libopencore_amrnb", "amr_nb", 8_000, error=0.01, flagged=False),
    Kind(".m4a", "aac", "aac", 44_100, error=0.03),  # the decoder fills noisy bands with noise of its own
    Kind(".m4a", "aac", "aac", options=IN_FRONT, error=0.03),
    Kind(".mp4", "aac", "aac", options=FRAGMENTS, error=0.03, flagged=False),  # as if more were to come
    Kind(".m4a", "alac", "alac", options=IN_FRONT),
    Kind(".3gp", "libopencore_amrnb", "amr_nb", 8_000, options=IN_FRONT, error=0.01),
    Kind(".3gp", "aac", "aac", error=0.03),
    Kind(".webm", "libopus", "opus", 48_000, slip=0.001, error=0.03),
    Kind(".mka", "aac", "aac", slip=0.001, error=0.03),
    Kind(".mka", "pcm_s16le", "pcm_s16", slip=0.001),
    Kind(".mka", "flac", "flac", 44_100, slip=0.001),
    # FFmpeg takes the duration of a cut WMA from what is left of it.
    Kind(".wma", "wmav2", "wmav2", 44_100, bits=64_000, slip=0.001, error=0.03, flagged=False),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def encode(
    path: Path, encoder: str, samples: np.ndarray, rate: int = SAMPLE_RATE, *, bits: int = 0, **options: str
) -> Path:
    """Write (samples,) or (channels, samples) with FFmpeg; skips where this build lacks the encoder."""
    with av.open(str(path), "w", options=options) as container:
        encode_into(container, encoder, samples, rate, bits)
    return path


def encode_into(
    container: av.container.OutputContainer, encoder: str, samples: np.ndarray, rate: int, bits: int = 0
) -> None:
    try:
        av.codec.Codec(encoder, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg has no {encoder}")
    samples = np.atleast_2d(samples)
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    stream = container.add_stream(encoder, rate=rate, layout=layout)
    context = stream.codec_context
    if bits:
        stream.bit_rate = bits
    if not context.frame_size:
        context.open()  # decides on the format and the size of the frames
    cutter = av.AudioResampler(context.format, layout, rate, frame_size=context.frame_size or 1024)
    for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
        container.mux(stream.encode(piece))


def write(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, subtype: str | None = None) -> Path:
    """Write (samples,) or (samples, channels) with soundfile."""
    soundfile.write(path, samples, rate, subtype)
    return path


def glide(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A tone that rises and swells, with a little noise: no part of it sounds like another."""
    time = np.arange(round(seconds * rate)) / rate
    voice = np.sin(2 * np.pi * (300 * time + 120 * time**2)) * (1 + 0.5 * np.sin(2 * np.pi * 1.7 * time))
    return (0.3 * voice + 0.01 * np.random.default_rng(3).standard_normal(len(time))).astype(np.float32)


def make(folder: Path, kind: Kind, seconds: float = 5.0) -> Path:
    """A recording of a kind, with a `glide` in it."""
    path = folder / f"glide{kind.suffix}"
    if kind.encoder:
        return encode(path, kind.encoder, glide(seconds, kind.rate), kind.rate, bits=kind.bits, **kind.options)
    return write(path, glide(seconds, kind.rate), kind.rate, kind.subtype)


def truncated(path: Path) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: round(len(whole) * BREAK)])
    return path


def loudest(samples: np.ndarray, rate: int) -> float:
    """The frequency with the most energy, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * rate / len(samples)


def tone(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def middle_rms(samples: np.ndarray) -> float:
    """Without the tenths at both ends, where a filter rings."""
    edge = len(samples) // 10
    return float(np.sqrt(np.mean(samples[edge:-edge] ** 2)))


@pytest.mark.parametrize(("suffix", "subtype", "error"), SOUNDFILE_KINDS)
def test_a_recording_comes_back_sample_for_sample_within_its_precision(
    suffix: str, subtype: str, error: float, tmp_path: Path
) -> None:
    samples = cry(TONE, 0.5)
    recording = decode(write(tmp_path / f"cry{suffix}", samples, subtype=subtype))
    assert (recording.sample_rate, recording.cut_short) == (SAMPLE_RATE, False)
    assert recording.samples.dtype == np.float32
    assert np.abs(recording.samples - samples).max() <= error
    assert len(recording.samples) == len(samples)


@pytest.mark.parametrize(("suffix", "encoder", "rate", "padding"), LOSSY_KINDS)
def test_a_compressed_recording_keeps_its_length_pitch_and_loudness(
    suffix: str, encoder: str, rate: int, padding: float, tmp_path: Path
) -> None:
    samples, path = cry(TONE, 1.0, rate=rate), tmp_path / f"cry{suffix}"
    recording = decode(encode(path, encoder, samples, rate) if encoder else write(path, samples, rate))
    assert -0.001 <= recording.seconds - 1.0 <= padding + 0.001
    assert loudest(recording.samples, recording.sample_rate) == pytest.approx(TONE, abs=3)
    assert middle_rms(recording.samples) == pytest.approx(middle_rms(samples), rel=0.1)
    assert not recording.cut_short


def test_an_alac_recording_of_a_phone_is_decoded_by_ffmpeg(tmp_path: Path) -> None:
    samples = cry(TONE, 1.024)
    recording = decode(encode(tmp_path / "memo.m4a", "alac", samples))
    assert np.abs(recording.samples[: len(samples)] - samples[: len(recording.samples)]).max() < 2**-14


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_channels_become_their_mean_through_soundfile(channels: int, tmp_path: Path) -> None:
    samples = np.stack([cry(200.0 * (1 + channel), 0.3, seed=channel) for channel in range(channels)], axis=1)
    recording = decode(write(tmp_path / "many.wav", samples, subtype="FLOAT"))
    assert recording.samples == pytest.approx(samples.mean(axis=1), abs=1e-6)


def test_stereo_becomes_the_mean_through_ffmpeg(tmp_path: Path) -> None:
    samples = np.stack([cry(300.0, 0.3), cry(900.0, 0.3, seed=1)])
    recording = decode(encode(tmp_path / "stereo.mka", "pcm_f32le", samples))
    assert recording.samples == pytest.approx(samples.mean(axis=0), abs=1e-6)


def test_a_channel_and_its_opposite_cancel_through_ffmpeg(tmp_path: Path) -> None:
    recording = decode(encode(tmp_path / "opposite.mka", "pcm_s16le", np.stack([cry(300.0, 0.3), -cry(300.0, 0.3)])))
    assert np.abs(recording.samples).max() < 1e-4


def test_a_recording_longer_than_a_block_comes_back_whole(tmp_path: Path) -> None:
    samples = np.linspace(-0.9, 0.9, 150 * 1000, dtype=np.float32)
    recording = decode(write(tmp_path / "long.wav", samples, rate=1000, subtype="FLOAT"))
    assert np.array_equal(recording.samples, samples)


def test_a_video_with_sound_gives_its_sound(tmp_path: Path) -> None:
    path, samples = tmp_path / "video.mp4", cry(TONE, 1.0)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=5)
        picture.width = picture.height = 32
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number * 40, np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        cutter = av.AudioResampler("fltp", "mono", SAMPLE_RATE, frame_size=1024)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for piece in [*cutter.resample(frame), None]:
            container.mux(sound.encode(piece))
        container.mux(picture.encode(None))
    assert loudest(decode(path).samples, SAMPLE_RATE) == pytest.approx(TONE, abs=3)


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    samples = cry(TONE, 0.5)
    path = tmp_path / "really-flac.wav"
    soundfile.write(path, samples, SAMPLE_RATE, format="FLAC")
    assert decode(path).seconds == 0.5


def test_recordings_are_found_below_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b/z.WAV", "b/a.Mp3", "a/b/c.m4a", "c.flac", "a.ogg", "notes.txt", "b/cover.jpg", "wav", "x.wav.bak"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_recordings(tmp_path)]
    assert found == ["a.ogg", "c.flac", "a/b/c.m4a", "b/a.Mp3", "b/z.WAV"]


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_is_found_in_upper_and_lower_case(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"lower{suffix}").touch()
    (tmp_path / f"UPPER{suffix.upper()}").touch()
    assert len(list(find_recordings(tmp_path))) == 2


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    for name in (".hidden.wav", "._resource-fork.wav", ".trash/cry.wav", "kept/cry.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_recordings(tmp_path)) == [tmp_path / "kept" / "cry.wav"]


def test_a_folder_called_like_a_recording_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "cry.wav").mkdir()
    (tmp_path / "cry.wav" / "inside.wav").touch()
    assert list(find_recordings(tmp_path)) == [tmp_path / "cry.wav" / "inside.wav"]
    with pytest.raises(AudioError, match="not a file"):
        decode(tmp_path / "cry.wav")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        decode(tmp_path / "nowhere.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_said_to_lack_it(tmp_path: Path) -> None:
    path = write(tmp_path / "secret.wav", cry(TONE, 0.5))
    path.chmod(0)
    with pytest.raises(AudioError, match="permission denied"):
        decode(path)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    for name in ("a\0b.wav", "\ud800.wav"):
        with pytest.raises(AudioError, match="cannot be opened"):
            decode(Path(name))


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".m4a"])
def test_an_empty_file_is_said_to_be_empty(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"empty{suffix}"
    path.touch()
    with pytest.raises(AudioError, match="empty file"):
        decode(path)


@pytest.mark.parametrize("suffix", [".wav", ".aiff"])
def test_a_header_without_samples_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no samples"):
        decode(write(tmp_path / f"header{suffix}", np.zeros(0, np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_refused_through_either_decoder(value: float, tmp_path: Path) -> None:
    samples = cry(TONE, 0.5)
    samples[5000] = value
    for path in (
        write(tmp_path / "bad.wav", samples, subtype="FLOAT"),
        encode(tmp_path / "bad.mka", "pcm_f32le", samples),
    ):
        with pytest.raises(AudioError, match="NaN or infinite"):
            decode(path)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".m4a", ".amr", ".au", ".snd", ".webm"])
@pytest.mark.parametrize("content", [b"These are words, not sounds.\n" * 40, np.random.default_rng(0).bytes(20_000)])
def test_text_and_noise_are_no_recordings_whatever_their_suffix(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"words{suffix}"
    path.write_bytes(content)
    with pytest.raises(AudioError):
        decode(path)


def test_the_reason_is_one_line_that_does_not_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "words.wav"
    path.write_text("words")
    with pytest.raises(AudioError) as caught:
        decode(path)
    assert "\n" not in str(caught.value)
    assert "words" not in str(caught.value)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "silent-film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(AudioError, match="no audio"):
        decode(path)


@pytest.mark.parametrize("rate", [1, 2_000_000_000])
def test_a_sample_rate_that_no_recorder_has_is_refused(rate: int, tmp_path: Path) -> None:
    # One bit of a header makes 4 s of 16 kHz into 18 hours of 1 Hz, which at 16 kHz are 4 GB.
    path = write(tmp_path / "rate.wav", cry(TONE, 4.0))
    header = bytearray(path.read_bytes())
    header[24:28] = struct.pack("<I", rate)
    path.write_bytes(header)
    with pytest.raises(AudioError, match="sample rate"):
        decode(path)


def salvaged(path: Path, whole: np.ndarray) -> float:
    """The share of a recording that is decoded after its file was cut; what is there is right."""
    recording = decode(truncated(path))
    kept = recording.samples[: len(whole)]
    inside = slice(SAMPLE_RATE // 10, len(kept) - SAMPLE_RATE // 10)
    assert np.corrcoef(kept[inside], whole[: len(kept)][inside])[0, 1] > 0.95
    return len(kept) / len(whole)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac"])
def test_a_truncated_lossless_recording_is_salvaged_up_to_the_break(suffix: str, tmp_path: Path) -> None:
    samples = cry(TONE, 4.0)
    assert BREAK - 0.15 < salvaged(write(tmp_path / f"cut{suffix}", samples), samples) < BREAK + 0.1


def test_a_truncated_ogg_is_salvaged_up_to_its_last_whole_page(tmp_path: Path) -> None:
    samples = cry(TONE, 8.0)
    assert 0.25 < salvaged(write(tmp_path / "cut.ogg", samples), samples) < BREAK + 0.1


def test_a_truncated_flac_is_known_to_be_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.flac", cry(TONE, 4.0))
    assert not decode(path).cut_short
    assert decode(truncated(path)).cut_short


def test_a_truncated_m4a_with_its_index_in_front_is_salvaged(tmp_path: Path) -> None:
    path = encode(tmp_path / "cut.m4a", "aac", cry(TONE, 4.0), movflags="faststart")
    recording = decode(truncated(path))
    assert recording.cut_short
    assert 1.5 < recording.seconds < 3.0
    assert loudest(recording.samples, SAMPLE_RATE) == pytest.approx(TONE, abs=3)


def test_a_truncated_m4a_with_its_index_at_the_lost_end_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "cut.m4a", "aac", cry(TONE, 2.0))
    with pytest.raises(AudioError, match="not a readable recording"):
        decode(truncated(path))


def test_using_a_cut_recording_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("crycli"), "propagate", True)
    load(truncated(write(tmp_path / "cut.flac", cry(TONE, 4.0))))
    assert "cut.flac is damaged: only its first" in caplog.text
    caplog.clear()
    whole = write(tmp_path / "cut.wav", cry(TONE, 6.0))
    whole.write_bytes(whole.read_bytes()[: 44 + 2 * round(3.7 * SAMPLE_RATE)])
    load(whole, start=1.0, end=3.5)
    assert caplog.text == ""
    load(whole, start=1.0, end=5.0)
    assert "cut.wav is damaged: only its first 3.7 s are used" in caplog.text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.flagged], ids=str)
def test_an_excerpt_that_a_cut_file_does_not_hold_is_known_to_be_cut_short(kind: Kind, tmp_path: Path) -> None:
    path = make(tmp_path, kind, 6.0)
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * BREAK)])
    if kind.suffix in (".m4a", ".mp4", ".3gp") and not kind.options:  # its index is lost
        return
    assert decode(path, 1.0, 5.9).cut_short
    assert decode(path, 1.5).cut_short


@pytest.mark.parametrize("name", ["list.mp3", "list.wav", "list.m4a"])
@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'cry.wav'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\ncry.aac\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nhttp://127.0.0.1:9/cry.aac\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_playlist_is_no_recording_although_the_one_it_names_is(name: str, text: str, tmp_path: Path) -> None:
    write(tmp_path / "cry.wav", cry(TONE, 1.0))
    encode(tmp_path / "cry.aac", "aac", cry(TONE, 1.0))
    (tmp_path / name).write_text(text)
    with pytest.raises(AudioError):
        decode(tmp_path / name)


def damage(path: Path) -> Path:
    """Overwrite a stretch in every tenth of a file."""
    content = bytearray(path.read_bytes())
    for start in range(len(content) // 10, len(content) - 200, len(content) // 10):
        content[start : start + 150] = np.random.default_rng(start).bytes(150)
    path.write_bytes(content)
    return path


def noise(path: Path) -> Path:
    path.write_bytes(np.random.default_rng(1).bytes(20_000))
    return path


@pytest.mark.parametrize("spoil", [damage, truncated, noise])
@pytest.mark.parametrize("suffix", [".mp3", ".wav", ".flac", ".ogg", ".m4a"])
def test_a_damaged_recording_prints_nothing(
    suffix: str, spoil: Callable[[Path], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"spoilt{suffix}"
    if suffix == ".m4a":
        encode(path, "aac", cry(TONE, 2.0), movflags="faststart")
    else:
        write(path, cry(TONE, 2.0))
    with contextlib.suppress(AudioError):
        decode(spoil(path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".caf", ".m4a"])
def test_no_damage_raises_anything_but_an_audio_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cry{suffix}"
    whole = (encode(path, "aac", cry(TONE, 0.3)) if suffix == ".m4a" else write(path, cry(TONE, 0.3))).read_bytes()
    chance = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        for place in chance.integers(0, 400, size=3):  # most of it in the header
            content[place] = chance.integers(0, 256)
        path.write_bytes(content)
        try:
            recording = decode(path)
        except AudioError:
            continue
        assert len(recording.samples) > 0
        assert np.isfinite(recording.samples).all()


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_keeps_length_pitch_and_loudness(rate: int) -> None:
    samples = resample(tone(1234.0, rate), rate, SAMPLE_RATE)
    assert samples.dtype == np.float32
    assert len(samples) == SAMPLE_RATE
    assert loudest(samples, SAMPLE_RATE) == pytest.approx(1234.0, abs=2)
    assert middle_rms(samples) == pytest.approx(np.sqrt(0.5), rel=1e-3)


@pytest.mark.parametrize("hertz", [8_050.0, 8_500.0, 9_500.0, 11_000.0, 15_000.0, 20_000.0])
def test_a_tone_above_the_new_band_vanishes_instead_of_folding_back(hertz: float) -> None:
    assert middle_rms(resample(tone(hertz, 44_100), 44_100, SAMPLE_RATE)) < 1e-3  # -57 dB


def test_a_tone_near_the_edge_of_the_new_band_stays() -> None:
    assert middle_rms(resample(tone(7_200.0, 44_100), 44_100, SAMPLE_RATE)) == pytest.approx(np.sqrt(0.5), rel=0.02)


@given(
    rates=st.sampled_from([(8_000, 16_000), (44_100, 16_000), (48_000, 16_000), (11_025, 16_000), (16_000, 8_000)]),
    seconds=st.floats(0.0001, 0.4),
    sizes=st.lists(st.integers(0, 3_000), max_size=12),
)
def test_resampling_by_blocks_equals_resampling_the_whole(
    rates: tuple[int, int], seconds: float, sizes: list[int]
) -> None:
    samples = cry(TONE, seconds, rate=rates[0])[: round(seconds * rates[0])]
    blocks = np.split(samples, np.minimum(np.cumsum(sizes, dtype=int), len(samples)))
    found = np.concatenate(list(resample_blocks(blocks, *rates)))
    np.testing.assert_array_equal(found, resample(samples, *rates))


def test_a_recording_at_the_right_rate_is_left_alone() -> None:
    samples = cry(TONE, 0.3)
    assert resample(samples, SAMPLE_RATE, SAMPLE_RATE) is samples


def test_what_is_shorter_than_the_network_needs_is_refused(tmp_path: Path) -> None:
    assert len(load(write(tmp_path / "just.wav", cry(TONE, 0.5)[:SHORTEST_SAMPLES]))) == SHORTEST_SAMPLES
    with pytest.raises(AudioError, match="too short"):
        load(write(tmp_path / "less.wav", cry(TONE, 0.5)[: SHORTEST_SAMPLES - 1]))


@trials(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 3000),
    loudness=st.sampled_from([0.0, 1e-6, 1e-3, 0.3, 1.0]),
    offset=st.floats(-0.5, 0.5, width=32),
)
def test_normalising_equals_the_feature_extractor(seed: int, length: int, loudness: float, offset: float) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    samples = np.random.default_rng(seed).standard_normal(length).astype(np.float32) * np.float32(loudness)
    samples += np.float32(offset)
    # In double precision, as ours: in single precision its own rounding exceeds the tolerance beside a large offset.
    (expected,) = Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm([samples.astype(np.float64)], attention_mask=None)
    assert normalise(samples).dtype == np.float32
    assert np.abs(normalise(samples) - expected).max() <= 1e-5


def test_silence_normalises_to_silence() -> None:
    assert not normalise(np.zeros(1000, np.float32)).any()


@pytest.mark.parametrize("level", [1e-2, 1.0, 1e20, 1e37])
def test_the_level_of_a_recording_does_not_matter(level: float) -> None:
    samples = cry(TONE, 0.3)
    assert normalise(np.float32(level) * samples).std() == pytest.approx(1.0, abs=0.02)


def test_links_to_folders_are_followed_and_never_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "cry.wav", cry(TONE, 0.5))
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "root" / "hungry").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "sub" / "back").symlink_to(tmp_path / "root")
    assert list(find_recordings(tmp_path / "root")) == [tmp_path / "root" / "hungry" / "cry.wav"]


@every_kind
def test_a_recording_is_named_by_ffmpegs_codec_and_whole(kind: Kind, tmp_path: Path) -> None:
    for seconds in (0.1, 1.37, 2.0):
        recording = decode(make(tmp_path, kind, seconds))
        assert (recording.codec, recording.channels, recording.sample_rate) == (kind.codec, 1, kind.rate)
        assert not recording.cut_short


def test_the_channels_of_the_file_are_counted_by_either_decoder(tmp_path: Path) -> None:
    six = np.stack([cry(TONE, 0.2, seed=channel) for channel in range(6)], axis=1)
    assert decode(write(tmp_path / "six.wav", six)).channels == 6
    assert decode(encode(tmp_path / "two.m4a", "aac", np.stack([cry(TONE, 0.2), cry(TONE, 0.2)]))).channels == 2


SPANS: list[tuple[float | None, float | None]] = [
    (None, 0.75),
    (0.0, 0.01),
    (0.4, 1.5),
    (1.1, 1.2),
    (1.5, 2.5),
    (2.0, 4.25),
    (3.333, 4.111),
    (4.2, None),
    (4.6, 9.0),
]


@every_kind
def test_an_excerpt_is_a_slice_of_the_whole(kind: Kind, tmp_path: Path) -> None:
    path = make(tmp_path, kind)
    whole, rate = decode(path).samples, kind.rate
    for start, end in SPANS:
        excerpt = decode(path, start, end)
        first, last = round((start or 0.0) * rate), round((9.0 if end is None else end) * rate)
        assert (excerpt.sample_rate, excerpt.codec, excerpt.cut_short) == (rate, kind.codec, False)
        assert abs(len(excerpt.samples) - len(whole[first:last])) <= kind.slip * rate, (start, end)
        sought = (start or 0.0) > 1.0 and kind.error > 0.0  # then decoders may need a moment, or differ in their noise
        skip = min(rate // 10, len(excerpt.samples) // 2) if sought else 0
        slips = range(-round(kind.slip * rate), round(kind.slip * rate) + 1) if sought or kind.slip else range(1)
        errors = []
        for slip in slips:
            expected = whole[max(0, first + slip) : last + slip]
            length = min(len(expected), len(excerpt.samples)) - abs(slip)
            errors.append(float(np.abs(excerpt.samples[skip:length] - expected[skip:length]).max()))
        assert min(errors) <= (kind.error if sought else 0.0), (start, end)


@pytest.fixture(scope="module")
def glides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    """Three seconds by each of the decoders, and what is in them. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("glides")
    files = [write(folder / f"glide{suffix}", glide(3.0, 8_000), 8_000) for suffix in (".wav", ".flac")]
    files.append(encode(folder / "glide.m4a", "alac", glide(3.0, 8_000), 8_000))
    return {file.suffix: (file, decode(file).samples) for file in files}


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".m4a"])
@trials(max_examples=40)
@given(times=st.tuples(st.floats(0.0, 3.2), st.floats(0.0, 3.2)))
def test_any_excerpt_is_a_slice_of_the_whole(
    suffix: str, times: tuple[float, float], glides: dict[str, tuple[Path, np.ndarray]]
) -> None:
    path, whole = glides[suffix]
    start, end = sorted(times)
    expected = whole[round(start * 8_000) : round(end * 8_000)]
    if len(expected):
        np.testing.assert_array_equal(decode(path, start, end).samples, expected)
    else:
        with pytest.raises(AudioError):
            decode(path, start, end)


@every_kind
def test_an_excerpt_from_beyond_the_end_is_refused(kind: Kind, tmp_path: Path) -> None:
    path = make(tmp_path, kind, 1.0)
    for start, end in ((7.0, 8.0), (7.0, None), (0.5, 0.5), (0.9, 0.3)):
        with pytest.raises(AudioError):
            decode(path, start, end)


def test_a_part_is_loaded_at_the_rate_of_the_network(tmp_path: Path) -> None:
    path = write(tmp_path / "glide.wav", glide(3.0, 44_100), 44_100)
    part = load(path, SAMPLE_RATE, 1.0, 2.5)
    np.testing.assert_array_equal(part, resample(decode(path).samples[44_100:110_250], 44_100, SAMPLE_RATE))
    assert len(part) == 24_000
    with pytest.raises(AudioError, match="too short"):
        load(path, SAMPLE_RATE, 1.0, 1.02)


def test_an_excerpt_is_not_spoilt_by_what_lies_outside_it(tmp_path: Path) -> None:
    samples = cry(TONE, 2.0)
    samples[5000] = np.nan
    path = write(tmp_path / "bad.wav", samples, subtype="FLOAT")
    np.testing.assert_array_equal(decode(path, 1.0, 2.0).samples, samples[16_000:])
    with pytest.raises(AudioError, match="NaN"):
        decode(path, 0.0, 1.0)


LONG, LONG_RATE = 130.0, 4_000  # three blocks
LONG_KINDS = [
    Kind(".wav", "", "pcm_s16", LONG_RATE),
    Kind(".flac", "", "flac", LONG_RATE),
    Kind(".mka", "pcm_s16le", "pcm_s16", LONG_RATE),
    Kind(".m4a", "alac", "alac", LONG_RATE),
    Kind(".amr", "libopencore_amrnb", "amr_nb", 8_000, error=0.01),
]


@pytest.mark.parametrize("kind", LONG_KINDS, ids=str)
def test_a_recording_longer_than_a_block_is_the_same_in_blocks(kind: Kind, tmp_path: Path) -> None:
    rate = kind.rate
    path = make(tmp_path, kind, LONG)
    reader = Reader(path)
    blocks = list(reader)
    whole = np.concatenate(blocks)
    assert len(blocks) >= 2
    assert all(len(block) <= BLOCK_SECONDS * rate + 65_536 for block in blocks)
    assert (reader.sample_rate, reader.channels, reader.codec, reader.cut_short) == (rate, 1, kind.codec, False)
    assert len(whole) == pytest.approx(LONG * rate, abs=0.02 * rate)
    if not kind.error:
        assert np.abs(whole - np.clip(glide(LONG, rate), -1, 1)).max() <= 2**-14
    for start, end in ((59.5, 60.5), (55.0, 125.0), (119.99, 121.0), (60.0, 120.0), (60.0, None)):
        excerpt = decode(path, start, end).samples
        expected = whole[round(start * rate) : None if end is None else round(end * rate)]
        assert len(excerpt) == len(expected)
        assert np.abs(excerpt - expected).max() <= kind.error


def test_a_flac_that_is_damaged_in_its_second_minute_is_read_up_to_there(tmp_path: Path) -> None:
    path = write(tmp_path / "long.flac", glide(LONG, LONG_RATE), LONG_RATE)
    whole = decode(path).samples
    content = bytearray(path.read_bytes())
    place = len(content) * 7 // 10
    content[place : place + 6_000] = bytes(6_000)
    path.write_bytes(content)
    recording = decode(path)
    assert recording.cut_short
    assert recording.seconds > 80  # soundfile alone gives the first minute
    length = round(80 * LONG_RATE)
    np.testing.assert_array_equal(recording.samples[:length], whole[:length])


def test_a_sample_that_is_no_number_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    samples = glide(LONG, LONG_RATE)
    samples[-1] = np.nan
    with pytest.raises(AudioError, match="NaN"):
        decode(write(tmp_path / "bad.wav", samples, LONG_RATE, "FLOAT"))


TENTHS = [place / 11 for place in range(1, 11)]


@every_kind
def test_a_file_cut_anywhere_gives_its_beginning_and_says_that_it_is_cut(kind: Kind, tmp_path: Path) -> None:
    path = make(tmp_path, kind, 6.0)
    whole, content = decode(path), path.read_bytes()
    with av.open(str(path)) as container:
        packets = [packet.pos for packet in container.demux(audio=0) if packet.pos]
    between = [packets[len(packets) * quarter // 4] / len(content) for quarter in (1, 2, 3)]
    index_is_lost = kind.suffix in (".m4a", ".mp4", ".3gp") and not kind.options
    salvaged, unsaid = 0, []
    for share in TENTHS + between:
        path.write_bytes(content[: round(len(content) * share)])
        try:
            recording = decode(path)
        except AudioError:
            continue
        salvaged += 1
        missing = whole.seconds - recording.seconds
        assert missing >= 0
        # A packet of which only the beginning is there may be decoded to anything.
        inside = len(recording.samples) - kind.rate // 10
        assert np.abs(recording.samples[:inside] - whole.samples[:inside]).max(initial=0.0) <= 1e-3, share
        if kind.flagged and missing >= 0.6 and not recording.cut_short:
            unsaid.append(f"at {share:.0%} of the bytes {missing:.2f} s are missing")
    assert unsaid == []
    assert salvaged == 0 if index_is_lost else salvaged >= 9


class OneWay:
    """A stream that can only be written, such as a pipe."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> int:
        self.content += data
        return len(data)


@pytest.mark.parametrize(
    ("form", "encoder", "options"),
    [
        ("wav", "pcm_s16le", {}),
        ("wav", "pcm_s24le", {}),
        ("flac", "flac", {}),
        ("ogg", "libopus", {}),
        ("au", "pcm_s16be", {}),
        ("matroska", "pcm_s16le", {}),
        ("webm", "libopus", {}),
        ("mp3", "libmp3lame", {}),
        ("adts", "aac", {}),
        ("caf", "pcm_s16be", {}),
        ("mp4", "aac", FRAGMENTS),
    ],
)
def test_what_was_written_into_a_pipe_is_whole(
    form: str, encoder: str, options: dict[str, str], tmp_path: Path
) -> None:
    stream, rate = OneWay(), 48_000
    with av.open(stream, "w", format=form, options=options) as container:
        encode_into(container, encoder, glide(3.0, rate), rate)
    path = tmp_path / f"piped.{form}"
    path.write_bytes(stream.content)
    recording = decode(path)
    assert recording.seconds == pytest.approx(3.0, abs=0.1)
    assert not recording.cut_short
    part = decode(path, 1.5, 2.0)
    assert part.seconds == pytest.approx(0.5, abs=0.002)
    assert loudest(part.samples, rate) == pytest.approx(loudest(recording.samples[72_000:96_000], rate), abs=5)


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # FFmpeg
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (0x7FFFF024, 0x7FFFF000),  # SoX
        (0x80000024, 0x80000000),  # arecord
        (0, 0),  # a recorder whose battery ran out
        (36, 0),
    ],
)
def test_a_wav_that_does_not_know_its_size_is_not_called_damaged(riff: int, data: int, tmp_path: Path) -> None:
    path = write(tmp_path / "piped.wav", cry(TONE, 2.0))
    content = bytearray(path.read_bytes())
    content[4:8], content[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    path.write_bytes(content)
    recording = decode(path)
    assert (recording.seconds, recording.cut_short) == (2.0, False)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".au", ".flac", ".ogg"])
def test_what_follows_the_end_of_a_recording_does_no_harm(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"tagged{suffix}", cry(TONE, 2.0))
    with path.open("ab") as file:
        file.write(b"TAG" + bytes(125))
    recording = decode(path)
    assert recording.seconds == pytest.approx(2.0, abs=0.005)
    assert not recording.cut_short


def test_an_odd_number_of_bytes_is_no_damage_with_or_without_the_padding(tmp_path: Path) -> None:
    path = write(tmp_path / "odd.wav", cry(TONE, 0.5)[:7_999], subtype="PCM_U8")
    content = path.read_bytes()
    for stored in (content, content.rstrip(b"\0") if len(content) % 2 == 0 else content):
        path.write_bytes(stored)
        recording = decode(path)
        assert (len(recording.samples), recording.cut_short) == (7_999, False)


@every_kind
@pytest.mark.parametrize("suffix", ["", ".dat", ".txt"])
def test_a_recording_is_found_by_its_content_whatever_it_is_called(suffix: str, kind: Kind, tmp_path: Path) -> None:
    path = make(tmp_path, kind, 0.5)
    renamed = path.rename(path.with_name(f"renamed{suffix}"))
    assert list(find_recordings(tmp_path)) == [renamed]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_an_mp3_is_found_by_its_content_at_any_rate_with_or_without_tags(rate: int, tmp_path: Path) -> None:
    write(tmp_path / "a.mp3", cry(TONE, 0.5, rate=rate), rate).rename(tmp_path / "a")
    encode(tmp_path / "b.mp3", "libmp3lame", cry(TONE, 0.5, rate=rate), rate).rename(tmp_path / "b")
    encode(tmp_path / "c.mp3", "libmp3lame", cry(TONE, 0.5, rate=rate), rate, id3v2_version="0").rename(tmp_path / "c")
    assert [path.name for path in find_recordings(tmp_path)] == ["a", "b", "c"]


def test_a_film_is_found_by_its_content(tmp_path: Path) -> None:
    encode(tmp_path / "film.avi", "libmp3lame", cry(TONE, 0.5, rate=44_100), 44_100)
    encode(tmp_path / "film.mov", "aac", cry(TONE, 0.5))
    encode(tmp_path / "film.mkv", "aac", cry(TONE, 0.5))
    assert [path.name for path in find_recordings(tmp_path)] == ["film.avi", "film.mkv", "film.mov"]


def test_what_is_no_recording_is_not_found(tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    for form in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ico", "pdf"):
        picture.save(tmp_path / f"picture.{form}")
    for brand in (b"heic", b"heix", b"mif1", b"avif", b"crx "):  # the last: raw pictures of Canon cameras
        (tmp_path / f"picture.{brand.decode().strip()}").write_bytes(bytes([0, 0, 0, 24]) + b"ftyp" + brand + bytes(99))
    text = "RIFF is a container, and so is FORM. Säuglinge schreien.\n" * 20
    for encoding in ("utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        (tmp_path / f"text.{encoding}").write_text(text, encoding=encoding)
    (tmp_path / "big-endian").write_bytes(b"\xfe\xff" + text.encode("utf-16-be"))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / f"pickle{protocol}").write_bytes(pickle.dumps({"a": [1.0] * 99}, protocol))
    with zipfile.ZipFile(tmp_path / "cries.zip", "w") as archive:
        archive.writestr("cry.wav", bytes(100))
    np.save(tmp_path / "array.npy", np.zeros(100))
    for name, content in {
        "empty": b"",
        "one": b"\xff",
        "short": b"RIFF",
        "zeros": bytes(100),
        "ones": b"\xff" * 99,
    }.items():
        (tmp_path / name).write_bytes(content)
    assert [path.name for path in find_recordings(tmp_path)] == []


def test_a_file_that_may_not_be_read_or_is_a_dangling_link_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "device").symlink_to("/dev/zero")
    write(tmp_path / "cry.wav", cry(TONE, 0.1))
    (tmp_path / "link").symlink_to(tmp_path / "cry.wav")
    assert [path.name for path in find_recordings(tmp_path)] == ["cry.wav", "link"]


def test_a_named_pipe_blocks_neither_the_search_nor_the_decoder(tmp_path: Path) -> None:
    for name in ("pipe", "pipe.wav", "pipe.m4a"):
        os.mkfifo(tmp_path / name)
    refused: list[str] = []

    def work() -> None:
        for path in [*find_recordings(tmp_path), tmp_path / "pipe"]:
            try:
                decode(path)
            except AudioError as error:
                refused.append(str(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert set(refused) == {"not a file"}


def test_a_dangling_link_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "cry.wav").symlink_to(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match="no such file"):
        decode(tmp_path / "cry.wav")


@pytest.mark.parametrize(
    "name",
    [
        "-cry",
        "two\nlines",
        "müde 👶 赤ちゃん",
        os.fsdecode(b"latin-\xfc"),
        "50%d",
        "concat:a|b",
        "http:cry",
        "x" * 250,
        "'quoted' \"name\"",
        "back\\slash",
    ],
    ids=ascii,
)
def test_a_file_with_any_name_is_read_by_either_decoder(name: str, tmp_path: Path) -> None:
    for path in (write(tmp_path / "a.wav", cry(TONE, 0.2)), encode(tmp_path / "a.m4a", "alac", cry(TONE, 0.2))):
        recording = decode(path.rename(tmp_path / f"{name}{path.suffix}"))
        assert np.abs(recording.samples - cry(TONE, 0.2)).max() < 2**-14


@pytest.mark.parametrize("rate", [4_000, 11_025, 96_000, 192_000])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mka"])
def test_the_rates_of_telephones_and_studios_are_read_and_resampled(suffix: str, rate: int, tmp_path: Path) -> None:
    path, samples = tmp_path / f"cry{suffix}", tone(TONE, rate) * np.float32(0.5)
    encode(path, "pcm_s16le", samples, rate) if suffix == ".mka" else write(path, samples, rate)
    recording = decode(path)
    assert recording.sample_rate == rate
    assert np.abs(recording.samples - samples).max() < 2**-14
    assert len(load(path)) == SAMPLE_RATE
    assert loudest(load(path), SAMPLE_RATE) == pytest.approx(TONE, abs=1)


@pytest.mark.parametrize("wrong", [".wav", ".mp3", ".m4a", ".amr", ".flac", ".ogg", ".au", ".raw"])
@pytest.mark.parametrize("right", [".wav", ".mp3", ".m4a", ".amr", ".ogg"])
def test_a_wrong_suffix_changes_nothing(right: str, wrong: str, tmp_path: Path) -> None:
    path, samples = tmp_path / f"cry{right}", cry(TONE, 0.5, rate=8_000)
    encoder = {".m4a": "aac", ".amr": "libopencore_amrnb"}.get(right)
    encode(path, encoder, samples, 8_000) if encoder else write(path, samples, 8_000)
    recording = decode(path)
    again = decode(path.rename(tmp_path / f"renamed{wrong}"))
    assert (again.codec, again.sample_rate, again.cut_short) == (recording.codec, 8_000, False)
    np.testing.assert_array_equal(again.samples, recording.samples)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".au", ".caf", ".w64", ".rf64"])
def test_a_header_alone_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(AudioError):
        decode(write(tmp_path / f"header{suffix}", np.zeros(0, np.float32)))


MANY_CHANNELS = """
import sys
from pathlib import Path
from crycli.audio import decode
for path in map(Path, sys.argv[1:]):
    recording = decode(path)
    print(recording.channels, recording.samples.tobytes().hex())
"""


def test_any_number_of_channels_becomes_their_mean_through_ffmpeg(tmp_path: Path) -> None:
    # In a process of its own: PyAV ends the interpreter where planar frames have eight channels or more.
    counts = (1, 2, 3, 6, 7, 8, 9, 12, 16, 17, 32)
    samples = {count: np.random.default_rng(count).uniform(-0.5, 0.5, (3_000, count)) for count in counts}
    files = [tmp_path / f"{count}.sph" for count in counts]
    for path, count in zip(files, counts, strict=True):
        soundfile.write(path, samples[count], SAMPLE_RATE, "PCM_16", format="NIST")  # which soundfile is not asked for
    command = [sys.executable, "-c", MANY_CHANNELS, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for line, count in zip(done.stdout.splitlines(), counts, strict=True):
        channels, content = line.split()
        assert int(channels) == count
        assert np.frombuffer(bytes.fromhex(content), np.float32) == pytest.approx(samples[count].mean(axis=1), abs=1e-4)


def test_more_channels_than_the_limit_are_refused_by_either_decoder(tmp_path: Path) -> None:
    many = np.zeros((100, 1_000), np.float32)
    soundfile.write(tmp_path / "many.sph", many[:, :100], SAMPLE_RATE, "PCM_16", format="NIST")
    for path, count in ((write(tmp_path / "many.wav", many), "1,000"), (tmp_path / "many.sph", "100")):
        with pytest.raises(AudioError, match=f"^{count} channels, and limits\\.max_channels is 64$"):
            decode(path)
    six = write(tmp_path / "six.wav", np.zeros((8_000, 6), np.float32))
    assert decode(six, limits=Limits(max_channels=6)).channels == 6
    with pytest.raises(AudioError, match=r"^6 channels, and "):
        load(six, limits=Limits(max_channels=5))


@every_kind
def test_a_recording_beyond_the_limit_of_time_is_refused_in_every_format(kind: Kind, tmp_path: Path) -> None:
    path = make(tmp_path, kind, 3.0)
    assert decode(path, limits=Limits(max_hours=3.2 / 3600)).seconds > 2.8
    with pytest.raises(AudioError, match=r"goes on for more than 0\.0005 h \(limits\.max_hours\)"):
        decode(path, limits=Limits(max_hours=0.0005))


def test_many_channels_of_a_high_rate_are_refused_before_the_limit_of_time(tmp_path: Path) -> None:
    path = write(tmp_path / "dense.wav", np.zeros((43_200, 8), np.float32), 48_000)  # 0.9 s of 384,000 values
    with pytest.raises(AudioError, match=r"^8 channels of 48,000 Hz hold more than .* of 192,000 values a second"):
        decode(path, limits=Limits(max_hours=1 / 3600))
    assert decode(path, limits=Limits(max_hours=2 / 3600)).seconds == 0.9


def test_what_is_too_long_for_the_memory_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "cry.wav", cry(TONE, 2.0))
    assert len(load(path, limits=Limits(max_samples=32_000))) == 32_000
    with pytest.raises(AudioError, match="too long to be held in memory"):
        load(path, limits=Limits(max_samples=31_999))


def test_many_channels_come_in_smaller_blocks(tmp_path: Path) -> None:
    path = write(tmp_path / "many.wav", np.zeros((200_000, 64), np.int16), 8_000)
    sizes = [len(block) for block in Reader(path)]
    assert sum(sizes) == 200_000
    assert max(sizes) * 64 <= BLOCK_VALUES


def test_without_pyav_soundfile_reads_its_formats_and_others_say_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo = encode(tmp_path / "memo.m4a", "alac", cry(TONE, 0.5))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"^needs PyAV: pip install av$"):
        decode(memo)
    assert decode(write(tmp_path / "cry.flac", cry(TONE, 0.5))).seconds == 0.5
    with pytest.raises(AudioError, match=r"^needs PyAV"):  # for what is left of it
        decode(truncated(write(tmp_path / "cut.flac", cry(TONE, 4.0))))
    assert decode(truncated(write(tmp_path / "cut.wav", cry(TONE, 4.0)))).cut_short
    with pytest.raises(AudioError, match="no samples in it"):
        decode(write(tmp_path / "header.wav", np.zeros(0, np.float32)))
