"""Copies and overlapping excerpts are found; other recordings, hum, noise and silence are not."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from crycli.audio import decode, resample
from crycli.fingerprint import Fingerprint, find_matches, fingerprint, join

RATE = 8_000


def noise(seconds: float, seed: int, level: float = 0.1, rate: int = RATE) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * rate)) * level).astype(np.float32)


def melody(seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    """A harmonic voice whose pitch and loudness wander, and some noise: (samples,) float32."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    knots = np.arange(0, seconds + 0.3, 0.3)
    pitch = np.interp(time, knots, generator.uniform(300, 700, len(knots)))
    loudness = np.interp(time, knots, generator.uniform(0.05, 1, len(knots)))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(number * phase) / number for number in (1, 2, 3, 4))
    return (0.2 * loudness * voice).astype(np.float32) + noise(seconds, seed + 1_000_000, 0.01, rate)


def hum(seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * 50 * number * time) / number for number in range(1, 40)).astype(np.float32) * 0.1


def pairs(recordings: list[np.ndarray], rates: list[int] | None = None) -> set[tuple[int, int]]:
    fingerprints = [fingerprint(*each) for each in zip(recordings, rates or [RATE] * len(recordings), strict=True)]
    return {(match.first, match.second) for match in find_matches(fingerprints)}


def encoded(samples: np.ndarray, rate: int, **options: str) -> tuple[np.ndarray, int]:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **options)
    file.seek(0)
    return soundfile.read(file, dtype="float32")


def test_different_recordings_do_not_match() -> None:
    assert pairs([melody(7, seed) for seed in range(30)]) == set()


def test_two_noises_do_not_match() -> None:
    assert pairs([noise(7, seed) for seed in range(30)]) == set()


@pytest.mark.parametrize("level", [0.003, 0.03])
def test_stationary_hum_that_two_recordings_share_is_no_match(level: float) -> None:
    assert pairs([hum(7) + noise(7, seed, level) for seed in range(10)]) == set()
    assert pairs([hum(7) + melody(7, seed) for seed in range(10)]) == set()


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(5 * RATE, np.float32),
        np.full(5 * RATE, 0.3, np.float32),
        melody(0.4, 0),
        noise(5, 0, 1e-7),
    ],
    ids=["no samples", "zeros", "constant", "short", "below the rounding noise"],
)
@pytest.mark.parametrize("rate", [4_000, 8_000, 44_100, 192_000])
def test_silence_and_what_is_short_match_nothing(samples: np.ndarray, rate: int) -> None:
    if rate < RATE:
        samples = samples[: len(samples) // 2]
    assert fingerprint(samples, rate) == Fingerprint()
    assert find_matches([fingerprint(samples, rate)] * 3) == []


def test_digital_silence_around_different_sounds_is_no_match() -> None:
    quiet = np.zeros(3 * RATE, np.float32)
    assert pairs([np.concatenate([quiet, melody(2, seed), quiet]) for seed in range(10)]) == set()


def test_of_no_recordings_none_match() -> None:
    assert find_matches([]) == []
    assert find_matches([Fingerprint(), Fingerprint()]) == []


@pytest.mark.parametrize("rate", [6_000, 11_025, 16_000, 44_100, 48_000, 192_000])
def test_a_copy_at_another_rate_matches(rate: int) -> None:
    original = melody(6, 1)
    assert pairs([original, melody(6, 2), resample(original, RATE, rate)], [RATE, RATE, rate]) == {(0, 2)}


@pytest.mark.parametrize("options", [{"format": "MP3"}, {"format": "OGG", "subtype": "VORBIS"}])
def test_a_compressed_copy_matches(options: dict[str, str]) -> None:
    original = melody(6, 3, 16_000)
    copy, rate = encoded(original, 16_000, **options)
    assert pairs([melody(6, 4, 16_000), original, copy], [16_000, 16_000, rate]) == {(1, 2)}


def test_a_match_says_where_the_second_begins_on_the_first() -> None:
    sound = melody(9, 5)
    (match,) = find_matches([fingerprint(sound[: 6 * RATE], RATE), fingerprint(sound[3 * RATE :], RATE)])
    assert match.offset == pytest.approx(3, abs=0.04)
    assert match.seconds == pytest.approx(3, abs=0.15)
    assert match.agreement > 0.8


def test_an_excerpt_of_a_long_recording_that_came_in_blocks_matches() -> None:
    sound = melody(150, 6)
    blocks = [(float(start), fingerprint(sound[start * RATE : (start + 60) * RATE], RATE)) for start in (0, 60, 120)]
    for start in (10, 58, 130):
        excerpt = fingerprint(sound[start * RATE : (start + 5) * RATE], RATE)
        (match,) = find_matches([excerpt, join(blocks)])
        assert match.offset == pytest.approx(-start, abs=0.04)
    assert join([]) == Fingerprint()
    assert join([(0.0, Fingerprint())]) == Fingerprint()


def test_consecutive_cuts_match_the_whole_and_not_each_other() -> None:
    sound = melody(12, 7)
    cuts = [sound[start * RATE : (start + 4) * RATE] for start in (0, 4, 8)]
    assert pairs([sound, *cuts]) == {(0, 1), (0, 2), (0, 3)}


def test_many_copies_all_match() -> None:
    assert len(find_matches([fingerprint(melody(4, 8), RATE)] * 40)) == 40 * 39 // 2


def test_a_fingerprint_of_seven_seconds_is_below_two_kilobytes() -> None:
    entry = fingerprint(noise(7, 9), RATE)
    assert len(entry.to_bytes()) < 2_048
    assert pickle.loads(pickle.dumps(entry)) == entry


@given(words=st.binary(max_size=64), peaks=st.binary(max_size=64))
def test_bytes_make_the_round_trip(words: bytes, peaks: bytes) -> None:
    assert Fingerprint.from_bytes(Fingerprint(words, peaks).to_bytes()) == Fingerprint(words, peaks)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), decibels=st.floats(-20, 20))
def test_a_recording_matches_itself_at_any_gain(seed: int, decibels: float) -> None:
    sound = melody(4, seed)
    assert pairs([sound, sound * np.float32(10 ** (decibels / 20))]) == {(0, 1)}


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), start=st.integers(0, 4 * RATE))
def test_an_excerpt_at_any_offset_matches(seed: int, start: int) -> None:
    sound = melody(7, seed)
    (match,) = find_matches([fingerprint(sound, RATE), fingerprint(sound[start : start + 3 * RATE], RATE)])
    assert match.offset == pytest.approx(start / RATE, abs=0.04)


@settings(max_examples=15)
@given(order=st.permutations(range(8)))
def test_the_order_of_the_recordings_does_not_matter(order: list[int]) -> None:
    sounds = [melody(5, seed) for seed in range(4)]
    sounds += [sound[RATE // 3 :] for sound in sounds]
    found = pairs([sounds[index] for index in order])
    assert {frozenset((order[one], order[two])) for one, two in found} == {
        frozenset((index, index + 4)) for index in range(4)
    }


def test_real_uploads_match_their_cleaned_copies_and_no_other(real_data: Path) -> None:
    paths = sorted((real_data / "donateacry").rglob("*.wav")) + sorted((real_data / "donateacry-raw").iterdir())
    recordings = [decode(path) for path in paths]
    matches = find_matches([fingerprint(each.samples, each.sample_rate) for each in recordings])
    stems = [path.stem for path in paths]
    expected = {(stems.index(path.stem), index) for index, path in enumerate(paths) if stems.index(path.stem) < index}
    assert len(expected) == 48
    assert {(match.first, match.second) for match in matches} == expected
