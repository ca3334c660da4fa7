"""Decoding, resampling and windows, on files of every kind written on the spot."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
from collections.abc import Callable
from itertools import pairwise
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
    SAMPLE_RATE,
    SHORTEST_SAMPLES,
    SUFFIXES,
    decode,
    find_recordings,
    load,
    normalise,
    resample,
    window_bounds,
)
from crycli.errors import AudioError

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


def encode(path: Path, encoder: str, samples: np.ndarray, rate: int = SAMPLE_RATE, **options: str) -> Path:
    """Write (samples,) or (channels, samples) with FFmpeg; skips where this build lacks the encoder."""
    try:
        av.codec.Codec(encoder, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg has no {encoder}")
    samples = np.atleast_2d(samples)
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(encoder, rate=rate, layout=layout)
        context = stream.codec_context
        cutter = av.AudioResampler(context.format, layout, rate, frame_size=context.frame_size or 1024)
        for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
            container.mux(stream.encode(piece))
    return path


def write(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, subtype: str | None = None) -> Path:
    """Write (samples,) or (samples, channels) with soundfile."""
    soundfile.write(path, samples, rate, subtype)
    return path


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


@trials(deadline=None)
@given(length=st.integers(0, 10**7), window=st.integers(1, 10**6))
def test_windows_cover_a_recording_with_the_fewest_of_one_length(length: int, window: int) -> None:
    length = min(length, 200 * window)
    bounds = window_bounds(length, window)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == length
    assert {end - start for start, end in bounds} == {min(length, window)}
    assert all(before[0] < after[0] <= before[1] for before, after in pairwise(bounds))
    assert len(bounds) == max(1, -(-length // window))


@trials(deadline=None)
@given(length=st.integers(1, 10**7), window=st.integers(1000, 10**6))
def test_windows_are_evenly_placed(length: int, window: int) -> None:
    starts = [start for start, _ in window_bounds(length, window)]
    steps = np.diff(starts)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


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
