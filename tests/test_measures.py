"""Measurements against closed forms and known files, block by block, and the flags that follow from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
import soundfile
from conftest import cry, settings
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from crycli.audio import Reader, decode, resample
from crycli.config import Flag
from crycli.measures import FLAG_MEANINGS, Measures, Meter, find_flags, flag_meaning

RATES = [4_000, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000]


def measure(samples: np.ndarray, rate: int = 16_000, *cuts: int) -> Measures:
    """The measurements of (samples,), taken in blocks that begin at the cuts."""
    meter = Meter(rate)
    for block in np.split(samples.astype(np.float32), sorted(cuts)):
        if len(block):
            meter.add(block)
    return meter.result(1, "pcm_s16")


def measure_file(path: Path) -> Measures:
    """The measurements of a file, as it is read."""
    reader = Reader(path)
    blocks = iter(reader)
    first = next(blocks)
    meter = Meter(reader.sample_rate)
    for block in (first, *blocks):
        meter.add(block)
    return meter.result(reader.channels, reader.codec)


def sine(peak_db: float, hertz: float = 500.0, rate: int = 16_000, seconds: float = 1.0) -> np.ndarray:
    return 10 ** (peak_db / 20) * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def noise(seconds: float, rate: int, peak: float = 0.1, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * rate)) * peak).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
def test_a_sine_is_three_decibels_below_its_peak_at_any_rate(rate: int) -> None:
    found = measure(sine(-20.0, rate=rate), rate)
    assert found.loudness_db == pytest.approx(-23.0103, abs=0.001)
    assert found.duration == 1.0
    assert found.dc_offset == pytest.approx(0.0, abs=1e-6)
    assert (found.clipped_share, found.silent_share) == (0.0, 0.0)
    assert (found.sample_rate, found.channels, found.codec) == (rate, 1, "pcm_s16")


@pytest.mark.parametrize("offset", [-0.5, -0.02, 1e-4, 0.3])
def test_an_offset_is_measured_and_adds_nothing_to_the_loudness(offset: float) -> None:
    found = measure(sine(-20.0) + offset)
    assert found.dc_offset == pytest.approx(offset, abs=1e-6)
    assert found.loudness_db == pytest.approx(-23.0103, abs=0.01)


def test_a_faint_sound_beside_an_offset_keeps_its_loudness() -> None:
    found = measure(sine(-60.0, rate=44_100, seconds=10) + 0.2, 44_100)
    assert found.loudness_db == pytest.approx(-63.01, abs=0.1)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", [0, 1, 17, 1000])
def test_the_samples_at_full_scale_are_counted_on_both_sides(count: int, sign: int) -> None:
    samples = np.full(1000, 0.98)
    samples[:count] = sign
    assert measure(samples).clipped_share == count / 1000


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "FLOAT"])
def test_a_sine_that_is_driven_over_full_scale_is_found_clipped_in_any_precision(subtype: str, tmp_path: Path) -> None:
    clean, driven = sine(-3.0, 437.0), np.clip(sine(6.0206, 437.0), -1, 1)
    for samples, share in ((clean, 0.0), (driven, 2 / 3)):  # the sine of 30 degrees is one half
        soundfile.write(tmp_path / "sine.wav", samples, 16_000, subtype)
        assert measure_file(tmp_path / "sine.wav").clipped_share == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("faint", [0.0, 0.0005])
def test_the_share_of_silence_is_that_of_the_time_below_60_decibels(share: float, faint: float) -> None:
    samples = sine(-20.0, seconds=4.0)
    quiet = round(share * len(samples))
    samples[:quiet] *= faint / 0.1
    assert measure(samples).silent_share == pytest.approx(share, abs=0.01)


def test_digital_silence_is_silent_and_has_no_bandwidth() -> None:
    for length in (1, 400, 1023, 1024, 50_000):
        found = measure(np.zeros(length))
        assert (found.loudness_db, found.bandwidth_hz, found.silent_share) == (-120.0, 0.0, 1.0)
        assert (found.clipped_share, found.dc_offset) == (0.0, 0.0)


def test_an_offset_alone_is_no_sound() -> None:
    found = measure(np.full(50_000, 0.1))
    assert (found.loudness_db, found.bandwidth_hz) == (-120.0, 0.0)
    assert found.dc_offset == pytest.approx(0.1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_white_noise_reaches_the_highest_frequency_there_is(seconds: float, rate: int) -> None:
    assert 0.97 * rate / 2 <= measure(noise(seconds, rate), rate).bandwidth_hz <= rate / 2


@pytest.mark.parametrize("rate", [16_000, 44_100, 192_000])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
def test_a_sine_reaches_its_own_frequency(share: float, rate: int) -> None:
    found = measure(sine(-20.0, share * rate, rate), rate).bandwidth_hz
    assert (
        share * rate - rate / 1024 <= found <= share * rate + 12 * rate / 1024
    )  # what the window lets through above -70 dB


def telephone(seconds: float = 3.0, seed: int = 0) -> np.ndarray:
    """Noise and a cry that were recorded at 8 kHz, at 44.1 kHz."""
    return resample(cry(450.0, seconds, seed, rate=8_000) + noise(seconds, 8_000, 0.05, seed), 8_000, 44_100)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gain", [1.0, 0.05])
def test_what_was_recorded_at_8_khz_still_shows_it_at_44_khz_whatever_it_was_encoded_with(
    gain: float, seed: int, tmp_path: Path
) -> None:
    samples = telephone(seed=seed) * np.float32(gain)
    for suffix in (".wav", ".flac", ".mp3", ".ogg"):
        soundfile.write(tmp_path / f"telephone{suffix}", samples, 44_100)
        found = measure_file(tmp_path / f"telephone{suffix}")
        assert 3_700 <= found.bandwidth_hz <= 4_400, (suffix, found.bandwidth_hz)


@pytest.mark.parametrize("bit_rate", [64_000, 128_000, 320_000])
def test_what_was_recorded_at_8_khz_still_shows_it_in_mp3_of_any_bit_rate(bit_rate: int, tmp_path: Path) -> None:
    path = tmp_path / "telephone.mp3"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=44_100, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(telephone()[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        cutter = av.AudioResampler("fltp", "mono", 44_100, frame_size=1152)
        for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
            container.mux(stream.encode(piece))
    assert 3_700 <= measure_file(path).bandwidth_hz <= 4_400


@pytest.mark.parametrize("hiss", [0.0, 2e-5])
def test_a_short_sound_in_a_long_silence_keeps_its_bandwidth(hiss: float) -> None:
    seconds = 0.3 if hiss == 0.0 else 1.0  # of 5
    samples = np.concatenate([np.zeros(88_200), telephone(seconds), np.zeros(round(44_100 * (3 - seconds)))])
    samples += noise(5.0, 44_100, hiss)[: len(samples)]
    assert 3_700 <= measure(samples, 44_100).bandwidth_hz <= 4_400


def test_an_offset_does_not_hide_what_is_heard_above_it() -> None:
    assert measure(noise(1.0, 16_000, 0.001) + 0.9).bandwidth_hz > 7_700


def test_a_click_widens_no_bandwidth() -> None:
    samples = telephone()
    samples[60_000] = 0.9
    assert 3_700 <= measure(samples, 44_100).bandwidth_hz <= 4_400


@pytest.mark.parametrize("length", [1, 2, 399, 400, 401, 1023, 1024, 1025])
@pytest.mark.parametrize("rate", [4_000, 16_000, 192_000])
def test_a_clip_of_a_few_samples_is_measured(length: int, rate: int) -> None:
    samples = noise(1.0, 16_000)[:length]
    found = measure(samples, rate)
    assert found.duration == length / rate
    assert found.dc_offset == pytest.approx(samples.mean(), abs=1e-6)
    assert found.loudness_db == pytest.approx(max(-120.0, 10 * np.log10(samples.astype(float).var() + 1e-30)), abs=0.1)
    assert 0.0 <= found.bandwidth_hz <= rate / 2
    assert found.silent_share == (1.0 if length == 1 else 0.0)  # one sample is nothing but offset
    if length >= 399:
        assert found.bandwidth_hz > 0.9 * rate / 2


@trials(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    length=st.integers(1, 40_000),
    cuts=st.lists(st.integers(1, 40_000), max_size=4),
    gain=st.sampled_from([1e-4, 0.03, 0.5, 3.0]),
    offset=st.sampled_from([0.0, -0.1]),
)
def test_a_clip_measures_the_same_in_one_block_or_in_several(
    seed: int, length: int, cuts: list[int], gain: float, offset: float
) -> None:
    samples = np.clip(np.random.default_rng(seed).standard_normal(length) * gain + offset, -1, 1).astype(np.float32)
    whole, parts = measure(samples), measure(samples, 16_000, *cuts)
    assert parts.duration == whole.duration == length / 16_000
    assert parts.clipped_share == whole.clipped_share == np.count_nonzero(np.abs(samples) >= 0.99) / length
    assert parts.dc_offset == pytest.approx(whole.dc_offset, abs=1e-6)
    assert whole.dc_offset == pytest.approx(samples.astype(float).mean(), abs=1e-6)
    assert parts.loudness_db == pytest.approx(whole.loudness_db, abs=0.05)
    expected = 10 * np.log10(samples.astype(float).var() + 1e-30)
    assert whole.loudness_db == pytest.approx(max(-120.0, expected), abs=0.05)


def test_minutes_measure_the_same_as_one_of_them() -> None:
    minute = telephone(20.0)
    once, thrice = measure(minute, 44_100), measure(np.tile(minute, 3), 44_100, len(minute), 2 * len(minute))
    assert thrice.bandwidth_hz == pytest.approx(once.bandwidth_hz, abs=100)
    assert thrice.silent_share == pytest.approx(once.silent_share, abs=0.01)
    assert thrice.loudness_db == pytest.approx(once.loudness_db, abs=0.01)


def test_a_file_is_measured_as_what_it_holds(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "cry.flac", np.stack([cry(400.0, 1.0), cry(500.0, 1.0)], axis=1), 16_000)
    found, samples = measure_file(tmp_path / "cry.flac"), decode(tmp_path / "cry.flac").samples
    assert (found.sample_rate, found.channels, found.codec, found.duration) == (16_000, 2, "flac", 1.0)
    assert found.loudness_db == pytest.approx(10 * np.log10(np.mean(samples.astype(float) ** 2)), abs=0.01)


GOOD = Measures(
    duration=2.0,
    sample_rate=16_000,
    channels=1,
    codec="pcm_s16",
    loudness_db=-25.0,
    clipped_share=0.0,
    silent_share=0.1,
    bandwidth_hz=7_800.0,
    dc_offset=0.0,
)


def test_a_good_clip_has_no_flags() -> None:
    assert find_flags(GOOD, settings().checks) == []


@pytest.mark.parametrize(
    ("flag", "setting", "measure", "good", "bad"),
    [
        ("quiet", None, "loudness_db", -60.0, -60.01),
        ("quiet", "checks.quiet_db=-30", "loudness_db", -30.0, -30.01),
        ("silent", None, "silent_share", 0.9, 0.901),
        ("silent", "checks.silent_share=0.5", "silent_share", 0.5, 0.501),
        ("silent", "checks.silent_share=0", "silent_share", 0.0, 0.001),
        ("clipped", None, "clipped_share", 0.01, 0.0101),
        ("clipped", "checks.clipped_share=0.2", "clipped_share", 0.2, 0.201),
        ("narrow", None, "bandwidth_hz", 2_500.0, 2_499.0),
        ("narrow", "checks.narrow_hz=7000", "bandwidth_hz", 7_000.0, 6_999.0),
        ("dc_offset", None, "dc_offset", 0.02, 0.0201),
        ("dc_offset", None, "dc_offset", -0.02, -0.0201),
        ("dc_offset", "checks.dc_offset=0.1", "dc_offset", -0.1, -0.11),
    ],
)
def test_each_flag_is_raised_beyond_its_threshold_and_not_at_it(
    flag: str, setting: str | None, measure: str, good: float, bad: float
) -> None:
    checks = settings(*([setting] if setting else [])).checks
    values: dict[str, Any] = {"silent_share": 0.0}
    assert find_flags(replace(GOOD, **(values | {measure: good})), checks) == []
    assert find_flags(replace(GOOD, **(values | {measure: bad})), checks) == [flag]


def test_flags_come_in_the_order_in_which_they_are_explained() -> None:
    worst = replace(GOOD, loudness_db=-90, silent_share=1, clipped_share=1, bandwidth_hz=0, dc_offset=1)
    found = find_flags(worst, settings().checks)
    assert found == [flag for flag in FLAG_MEANINGS if flag in found]
    assert len(found) == 5


def test_every_flag_has_a_meaning_in_words() -> None:
    assert set(FLAG_MEANINGS) == set(get_args(Flag))
    for flag in get_args(Flag):
        text = flag_meaning(flag, settings().checks)
        assert text
        assert not set("{}") & set(text)


@pytest.mark.parametrize(
    ("flag", "setting", "words"),
    [
        ("quiet", "checks.quiet_db=-42.5", "-42.5 dB"),
        ("silent", "checks.silent_share=0.75", "75%"),
        ("clipped", "checks.clipped_share=0.125", "12.5%"),
        ("narrow", "checks.narrow_hz=12345", "12,345 Hz"),
        ("dc_offset", "checks.dc_offset=0.25", "0.25"),
    ],
)
def test_a_flags_meaning_names_the_threshold_that_was_set(flag: str, setting: str, words: str) -> None:
    assert words in flag_meaning(flag, settings(setting).checks)
