import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal


def load() -> ModuleType:
    """recipes/ is no package: the module is imported by its path."""
    path = Path(__file__).parent.parent / "recipes" / "sounds.py"
    spec = importlib.util.spec_from_file_location("recipes_sounds", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


sounds = load()
NAMES = [name for names in sounds.KINDS.values() for name in names]


def loudness(samples: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def syllables(samples: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The times in s between the envelope's peaks, and their widths in s at half their height."""
    low_pass = signal.butter(2, 20, fs=sounds.RATE, output="sos")
    power = signal.sosfiltfilt(low_pass, samples.astype(np.float64) ** 2)
    envelope = np.sqrt(np.maximum(power, 0))[::16]  # one value a millisecond
    peaks, _ = signal.find_peaks(envelope, prominence=0.08 * envelope.max(), distance=50)
    return np.diff(peaks) / 1000, signal.peak_widths(envelope, peaks, 0.5)[0] / 1000


def pitch(samples: npt.NDArray[np.float64]) -> float:
    """F0 in Hz: the highest peak of the autocorrelation between 100 and 2,000 Hz, of the middle 0.1 s."""
    middle = samples[len(samples) // 2 - 800 : len(samples) // 2 + 800]
    similarity = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    return sounds.RATE / (8 + int(similarity[8:160].argmax()))


@pytest.mark.parametrize("name", NAMES)
def test_every_sound_is_a_clip_of_its_own_seed(name: str) -> None:
    clips = [sounds.make(name, seed, 3.0) for seed in (0, 1, 2**31)]
    assert all(clip.shape == (3 * sounds.RATE,) and clip.dtype == np.float32 for clip in clips)
    assert np.array_equal(clips[0], sounds.make(name, 0, 3.0))
    similarity = np.abs(np.corrcoef(clips))[np.triu_indices(3, 1)]
    assert similarity.max() < 0.9


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 2**63), st.floats(1, 8))
def test_any_clip_is_finite_within_full_scale_and_heard(name: str, seed: int, seconds: float) -> None:
    samples = sounds.make(name, seed, seconds)
    assert samples.shape == (round(seconds * sounds.RATE),)
    assert np.isfinite(samples).all()
    assert 10 ** (-65 / 20) < np.abs(samples).max() <= 1
    assert loudness(samples) > 1e-5


@pytest.mark.parametrize("name", sounds.KINDS["laughter"])
def test_laughter_has_short_syllables_in_quick_succession(name: str) -> None:
    # What tells laughter from a cry, whose expirations last 0.5 to 2 s and come about once a second.
    for seed in range(8):
        gaps, widths = syllables(sounds.make(name, seed, 6.0))
        assert len(gaps) >= 3
        assert 1 / np.median(gaps) > 3, seed
        assert np.quantile(widths, 0.75) < 0.25, seed


def test_a_cry_has_long_expirations_at_an_infants_pitch() -> None:
    pitches = []
    for seed in range(12):
        samples = sounds.make("infant_cry", seed, 7.0).astype(np.float64)
        low_pass = signal.butter(2, 8, fs=sounds.RATE, output="sos")
        envelope = np.sqrt(np.maximum(signal.sosfiltfilt(low_pass, samples**2), 0))
        loud = np.flatnonzero(np.diff(np.pad(envelope > 0.15 * envelope.max(), 1).astype(int)))
        runs = (loud[1::2] - loud[::2]) / sounds.RATE
        assert 0.3 < runs.max() < 5.0, seed
        assert len(runs) < 2.5 * 7, seed
        pitches.append(pitch(samples[loud[::2][runs.argmax()] :][: round(runs.max() * sounds.RATE)]))
    assert 300 < np.median(pitches) < 650


def test_room_tone_is_faint_but_never_digital_silence() -> None:
    for seed in range(10):
        samples = sounds.make("room_tone", seed, 4.0)
        assert np.abs(samples).max() < 10 ** (-37 / 20)
        assert np.mean(samples == 0) < 0.001


def test_an_unknown_sound_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        sounds.make("unicorn", 0, 1.0)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 2**31), st.floats(1, 4))
def test_a_room_keeps_length_and_strength(name: str, seed: int, seconds: float) -> None:
    dry = sounds.make(name, seed, seconds)
    wet = sounds.reverberate(dry, seed)
    assert wet.shape == dry.shape and wet.dtype == np.float32
    assert np.isfinite(wet).all() and np.abs(wet).max() <= 1
    assert not np.array_equal(wet, dry)
    assert loudness(wet) <= 1.001 * loudness(dry)
    assert np.array_equal(wet, sounds.reverberate(dry, seed))


def test_rooms_ring_for_different_times_and_no_longer_than_1_3_seconds() -> None:
    click = np.zeros(2 * sounds.RATE, np.float32)
    click[100] = 0.5
    times = []
    for seed in range(30):
        energy = np.cumsum(np.square(sounds.reverberate(click, seed).astype(np.float64))[::-1])[::-1]
        assert energy[0] > 0 and energy[round(1.4 * sounds.RATE)] < 1e-6 * energy[0]
        times.append(np.argmax(energy < 1e-3 * energy[0]) / sounds.RATE)  # down by 30 dB
    assert min(times) < 0.2 and max(times) > 0.35
