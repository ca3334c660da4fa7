"""What training makes of clips: every change, alone and together, for ordinary and for strange clips."""

from __future__ import annotations

import hashlib
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import cry, settings
from hypothesis import given
from hypothesis import strategies as st

from crycli import audio, augment
from crycli.audio import SAMPLE_RATE, Samples
from crycli.augment import Augmenter, TrainingView, crop, mix, mixup_share, repeat
from crycli.errors import ConfigError, DataError

pytest.importorskip("audiomentations")

SETTINGS = {
    "gain": ("augment.gain_db=12",),
    "shift": ("augment.shift_seconds=0.3",),
    "noise": ("augment.noise_snr_db=[5, 20]",),
    "background": ("augment.background=FOLDER", "augment.background_snr_db=[0, 10]"),
    "equaliser": ("augment.equaliser_db=12",),
    "low_pass": ("augment.low_pass_hz=[300, 9000]",),
    "speed": ("augment.speed=0.5",),
    "pitch": ("augment.pitch_semitones=12",),
    "polarity": ("augment.polarity=true",),
}
SETTINGS["all"] = tuple(setting for group in SETTINGS.values() for setting in group)


@pytest.fixture(scope="session")
def backgrounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, one shorter and one longer than a second. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("backgrounds")
    write_noise(folder / "deeper" / "short.caf", 0.3, seed=1)
    write_noise(folder / "long.flac", 5.0, seed=2)
    return folder


@pytest.fixture
def make(backgrounds: Path) -> Callable[..., Augmenter]:
    """An augmenter by its settings, each transform certain."""

    def build(*assignments: str, probability: float = 1.0) -> Augmenter:
        texts = [text.replace("FOLDER", str(backgrounds)) for text in assignments]
        return Augmenter(settings(f"augment.probability={probability}", *texts).augment, SAMPLE_RATE)

    return build


def write_noise(path: Path, seconds: float, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(round(seconds * SAMPLE_RATE), seed), SAMPLE_RATE)
    return path


def noise(length: int, seed: int = 0, level: float = 0.1) -> Samples:
    return (np.random.default_rng(seed).standard_normal(length) * level).astype(np.float32)


def decibels(samples: Samples, reference: Samples) -> float:
    power = [np.mean(np.square(each, dtype=np.float64)) for each in (samples, reference)]
    return float(10 * np.log10(power[0] / power[1]))


def loudest_hertz(samples: Samples) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(samples))


STRANGE = {
    "of_400_samples": noise(400),
    "silent": np.zeros(8000, np.float32),
    "loud": noise(8000, level=1e14),
    "faint": noise(8000, level=1e-30),
    "one_click": np.eye(1, 8000, 4000, dtype=np.float32)[0],
    "read_only_and_strided": np.broadcast_to(noise(8000), (2, 8000)).T[:, 0],
}


@pytest.mark.parametrize("clip", STRANGE)
@pytest.mark.parametrize("transform", SETTINGS)
def test_strange_clips_stay_clips(make: Callable[..., Augmenter], transform: str, clip: str) -> None:
    augmenter = make(*SETTINGS[transform])
    samples, before = STRANGE[clip], STRANGE[clip].copy()
    for epoch in range(3):
        changed = augmenter(samples, (0, epoch, 0, 0))
        assert changed.dtype == np.float32
        assert changed.flags.c_contiguous
        assert changed.ndim == 1
        assert np.isfinite(changed).all()
        assert len(samples) / 1.51 < len(changed) <= 2 * len(samples)
        assert len(changed) == len(samples) or transform in ("speed", "all")
        assert changed.any() == samples.any()
    np.testing.assert_array_equal(samples, before)


def test_a_clip_of_a_minute_stays_a_clip(make: Callable[..., Augmenter]) -> None:
    changed = make(*SETTINGS["all"])(noise(60 * SAMPLE_RATE), (0, 0, 0, 0))
    assert np.isfinite(changed).all()
    assert 40 * SAMPLE_RATE <= len(changed) <= 120 * SAMPLE_RATE


@pytest.mark.parametrize("transform", SETTINGS)
def test_each_transform_is_as_likely_as_configured(make: Callable[..., Augmenter], transform: str) -> None:
    clip = noise(4000)
    never, always = make(*SETTINGS[transform], probability=0.0), make(*SETTINGS[transform])
    assert (never.active, always.active) == (False, True)
    assert np.array_equal(never(clip, (1, 2, 3, 4)), clip)
    assert not np.array_equal(always(clip, (1, 2, 3, 4)), clip)


def test_half_the_clips_are_changed_at_a_probability_of_a_half(make: Callable[..., Augmenter]) -> None:
    augmenter, clip = make("augment.polarity=true", probability=0.5), noise(400)
    changed = sum(augmenter(clip, (0, 0, index, 0))[0] != clip[0] for index in range(400))
    assert 160 < changed < 240


def test_nothing_is_configured_by_default() -> None:
    augmenter, clip = Augmenter(settings().augment, SAMPLE_RATE), noise(400)
    assert not augmenter.active
    assert np.array_equal(augmenter(clip, (0, 0, 0, 0)), clip)


@pytest.mark.parametrize("transform", SETTINGS)
def test_the_key_alone_decides(make: Callable[..., Augmenter], transform: str) -> None:
    augmenter, clip = make(*SETTINGS[transform]), cry(400, 0.5)
    random.seed(1)
    np.random.seed(1)
    first = augmenter(clip, (7, 1, 3, 0))
    others = [augmenter(clip, key) for key in ((7, 2, 3, 0), (7, 1, 4, 0), (7, 1, 3, 1), (8, 1, 3, 0))]
    random.seed(2)
    np.random.seed(2)
    assert np.array_equal(make(*SETTINGS[transform])(clip, (7, 1, 3, 0)), first)
    assert np.array_equal(pickle.loads(pickle.dumps(augmenter))(clip, (7, 1, 3, 0)), first)
    assert transform == "polarity" or not any(np.array_equal(other, first) for other in others)


def test_another_process_comes_to_the_same_result(make: Callable[..., Augmenter], backgrounds: Path) -> None:
    assignments = ["augment.probability=1", *(text.replace("FOLDER", str(backgrounds)) for text in SETTINGS["all"])]
    program = f"""
import hashlib, sys
sys.path[:0] = {sys.path!r}
from conftest import cry, settings
from crycli.augment import Augmenter
augmenter = Augmenter(settings(*{assignments!r}).augment, 16000)
augmenter(cry(500, 0.3), (9, 9, 9, 9))
print(hashlib.sha256(augmenter(cry(400, 0.5), (7, 1, 3, 0)).tobytes()).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    here = make(*SETTINGS["all"])(cry(400, 0.5), (7, 1, 3, 0))
    assert done.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()


def test_threads_do_not_disturb_each_other(make: Callable[..., Augmenter]) -> None:
    augmenter = make(*SETTINGS["all"])
    keys = [(0, 0, index, 0) for index in range(24)]
    alone = [augmenter(noise(4000), key) for key in keys]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda key: augmenter(noise(4000), key), keys))
    assert all(map(np.array_equal, alone, together))


def test_the_global_random_states_stay_as_they_were(make: Callable[..., Augmenter]) -> None:
    augmenter = make(*SETTINGS["all"])
    np.random.standard_normal()  # leaves the second of a pair in the state
    states = random.getstate(), [np.asarray(part).tolist() for part in np.random.get_state()]
    augmenter(noise(4000), (0, 0, 0, 0))
    with pytest.raises((TypeError, ValueError)):
        augmenter(noise(4000).reshape(2, 20, 100), (0, 0, 0, 0))
    assert random.getstate() == states[0]
    assert [np.asarray(part).tolist() for part in np.random.get_state()] == states[1]


def test_no_warning_is_given(make: Callable[..., Augmenter], recwarn: pytest.WarningsRecorder) -> None:
    for level in (0.0, 0.1, 10.0):
        make(*SETTINGS["all"])(noise(4000, level=level), (0, 0, 0, 0))
    assert [str(warning.message) for warning in recwarn] == []


def test_a_gain_stays_in_its_range_and_goes_both_ways(make: Callable[..., Augmenter]) -> None:
    augmenter, clip = make("augment.gain_db=12"), noise(400)
    gains = [decibels(augmenter(clip, (0, 0, index, 0)), clip) for index in range(50)]
    assert -12.01 < min(gains) < -6 < 6 < max(gains) < 12.01


def test_what_is_shifted_out_does_not_come_back(make: Callable[..., Augmenter]) -> None:
    augmenter, clip = make("augment.shift_seconds=0.3"), np.arange(1, 16_001, dtype=np.float32)
    shifts = []
    for index in range(30):
        changed = augmenter(clip, (0, 0, index, 0))
        shift = round(8001 - float(changed[8000]))
        shifts.append(shift)
        first, end = max(0, shift), min(16_000, 16_000 + shift)
        expected = np.zeros(16_000, np.float32)
        expected[first:end] = clip[first - shift : end - shift]
        fade = slice(first, first + 80) if shift > 0 else slice(end - 80, end)  # 5 ms at the seam
        assert (changed[fade] <= 1.01 * expected[fade]).all()
        assert np.array_equal(np.delete(changed, fade), np.delete(expected, fade))
    assert -4801 < min(shifts) < -1000 < 1000 < max(shifts) < 4801


def test_half_a_clip_is_left_of_one_that_is_shorter_than_the_shift(make: Callable[..., Augmenter]) -> None:
    augmenter, clip = make("augment.shift_seconds=1e300"), np.ones(1000, np.float32)
    left = [np.count_nonzero(augmenter(clip, (0, 0, index, 0))) for index in range(50)]
    assert 499 <= min(left) < 600


@pytest.mark.parametrize(
    "assignments",
    [("augment.noise_snr_db=[10, 10]",), ("augment.background=FOLDER", "augment.background_snr_db=[10, 10]")],
)
def test_noise_lies_at_the_configured_level_below_the_clip(
    make: Callable[..., Augmenter], assignments: Sequence[str]
) -> None:
    clip = cry(400, 2.0)
    changed = make(*assignments)(clip, (0, 0, 0, 0))
    assert decibels(changed - clip, clip) == pytest.approx(-10, abs=0.1)


def test_an_equaliser_changes_the_bands_and_each_clip_in_another_way(make: Callable[..., Augmenter]) -> None:
    augmenter, clip = make("augment.equaliser_db=6"), noise(32_000)
    bands = ((30, 60), (150, 250), (500, 700), (1300, 1700), (3000, 4000), (6000, 7500))

    def level(samples: Samples, low: int, high: int) -> float:
        return float(10 * np.log10(np.square(np.abs(np.fft.rfft(samples)))[2 * low : 2 * high].mean()))

    before = np.array([level(clip, *band) for band in bands])
    changes = np.array(
        [[level(augmenter(clip, (0, 0, index, 0)), *band) for band in bands] - before for index in range(20)]
    )
    assert (changes.std(axis=0) > 1).all()  # a uniform draw of 6 dB either way has 3.5
    assert (np.ptp(changes, axis=1) > 1).all()  # no mere gain
    assert np.abs(changes).max() < 12  # neighbouring bands add up


def test_above_the_low_pass_there_is_nothing_not_even_noise(make: Callable[..., Augmenter]) -> None:
    tone, hiss = cry(400, 2.0), noise(32_000, level=0.05)
    changed = make("augment.low_pass_hz=[2000, 2000]", "augment.noise_snr_db=[10, 10]")(tone + hiss, (0, 0, 0, 0))
    power = np.square(np.abs(np.fft.rfft(changed * np.hanning(32_000))))  # 0.5 Hz a bin
    original = np.square(np.abs(np.fft.rfft(tone * np.hanning(32_000))))
    assert 10 * np.log10(power[6000:].mean() / power[2000:3000].mean()) < -50
    assert power[780:820].sum() == pytest.approx(original[780:820].sum(), rel=0.05)


def test_a_range_that_reaches_beyond_half_the_rate_is_used_as_far_as_there_is_sound(
    make: Callable[..., Augmenter],
) -> None:
    augmenter, clip = make("augment.low_pass_hz=[4000, 1e6]"), noise(4000)
    losses = [decibels(augmenter(clip, (0, 0, index, 0)), clip) for index in range(20)]
    assert min(losses) > -3.5
    assert np.median(losses) < -0.5  # were it drawn up to 1e6, nine of ten clips would stay as they are


def test_speed_changes_the_length_and_the_pitch_with_it(make: Callable[..., Augmenter]) -> None:
    augmenter, clip = make("augment.speed=0.2"), cry(400, 1.0)
    changed = [augmenter(clip, (0, 0, index, 0)) for index in range(12)]
    rates = [16_000 / len(each) for each in changed]
    assert 0.79 < min(rates) < 0.95 < 1.05 < max(rates) < 1.21
    assert [loudest_hertz(each) for each in changed] == pytest.approx([400 * rate for rate in rates], rel=0.01)


def test_pitch_changes_the_pitch_and_leaves_the_length(make: Callable[..., Augmenter]) -> None:
    augmenter, clip = make("augment.pitch_semitones=4"), cry(400, 1.0)
    changed = [augmenter(clip, (0, 0, index, 0)) for index in range(12)]
    semitones = [12 * np.log2(loudest_hertz(each) / 400) for each in changed]
    assert -4.1 < min(semitones) < -1 < 1 < max(semitones) < 4.1


def test_polarity_turns_the_waveform_upside_down(make: Callable[..., Augmenter]) -> None:
    assert np.array_equal(make("augment.polarity=true")(noise(400), (0, 0, 0, 0)), -noise(400))


def background_of(augmenter: Augmenter, index: int, length: int = 16_000) -> Samples:
    clip = np.zeros(length, np.float32)
    clip[0] = 1.0  # what is not the first sample is background
    return augmenter(clip, (0, 0, index, 0))[1:]


def test_short_backgrounds_are_repeated_and_long_ones_cut_anywhere(tmp_path: Path) -> None:
    short, long = (write_noise(tmp_path / name / "x.wav", seconds, 1) for name, seconds in (("a", 0.3), ("b", 3.0)))
    augmenters = [
        Augmenter(settings("augment.probability=1", f"augment.background={path.parent}").augment, SAMPLE_RATE)
        for path in (short, long)
    ]
    repeated = background_of(augmenters[0], 0)
    np.testing.assert_allclose(repeated[4800:9600], repeated[:4800], atol=1e-7)
    recording = audio.load(long)
    starts = []
    for index in range(10):
        part = background_of(augmenters[1], index)
        starts.append(int(np.argmax(np.correlate(recording, part[:400], "valid"))) - 1)
        share = recording[starts[-1] + 1 : starts[-1] + 16_000]
        assert np.corrcoef(part, share)[0, 1] > 0.999
    assert min(starts) < 10_000 < 20_000 < max(starts) <= 32_000


def test_every_background_is_used(backgrounds: Path, make: Callable[..., Augmenter]) -> None:
    augmenter = make("augment.background=FOLDER")
    short = [np.allclose((part := background_of(augmenter, i))[:4800], part[4800:9600]) for i in range(20)]
    assert 4 < sum(short) < 16


def test_backgrounds_are_decoded_before_they_are_drawn_and_no_more_are_kept_than_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        write_noise(tmp_path / f"{number}.wav", 1.0, number)
    decoded: list[str] = []
    load = audio.load
    monkeypatch.setattr(
        audio, "load", lambda path, *rest, **more: decoded.append(path.stem) or load(path, *rest, **more)
    )
    config = settings("augment.probability=1", f"augment.background={tmp_path}").augment
    roomy = Augmenter(config, SAMPLE_RATE)
    assert sorted(decoded) == ["0", "1", "2", "3"]
    heard = [background_of(roomy, index, 8000) for index in range(20)]
    assert len(decoded) == 4
    monkeypatch.setattr(augment, "KEPT_SAMPLES", 2 * SAMPLE_RATE)
    cramped = Augmenter(config, SAMPLE_RATE)
    assert all(np.array_equal(background_of(cramped, index, 8000), heard[index]) for index in range(20))
    assert 8 + 8 < len(decoded) < 8 + 20


def test_of_a_long_background_the_part_that_is_drawn_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        write_noise(tmp_path / f"{number}.wav", 3.0, number)
    config = settings("augment.probability=1", f"augment.background={tmp_path}").augment
    whole = Augmenter(config, SAMPLE_RATE)
    heard = [background_of(whole, index, 8000) for index in range(8)]
    monkeypatch.setattr(augment, "LONG_BACKGROUND", 2.0)
    long = Augmenter(config, SAMPLE_RATE)
    decoded: list[int] = []
    load = audio.load

    def count(*arguments: Any, **more: Any) -> Samples:
        samples = load(*arguments, **more)
        decoded.append(len(samples))
        return samples

    monkeypatch.setattr(audio, "load", count)
    for index in range(8):
        np.testing.assert_allclose(background_of(long, index, 8000), heard[index], atol=1e-6)
    assert max(decoded) < 8100


def test_of_a_long_background_the_beginning_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_noise(tmp_path / "long.wav", 3.0, 0)
    monkeypatch.setattr(augment, "LONGEST_BACKGROUND", 1.0)
    with caplog.at_level("INFO"):
        augmenter = Augmenter(settings("augment.probability=1", f"augment.background={tmp_path}").augment, SAMPLE_RATE)
    part = background_of(augmenter, 0, 32_000)
    np.testing.assert_allclose(part[:15_000], part[16_000:31_000], atol=1e-7)
    assert "long.wav" in caplog.text


def test_a_background_that_cannot_be_read_is_named_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_noise(tmp_path / "b.wav", 1.0, 0)
    (tmp_path / "a.wav").write_bytes(b"RIFF not a recording")
    (tmp_path / "c.wav").write_bytes(b"")
    config = settings("augment.probability=1", f"augment.background={tmp_path}").augment
    augmenter = Augmenter(config, SAMPLE_RATE)
    heard = [background_of(augmenter, index, 8000) for index in range(12)]
    named = [record.getMessage() for record in caplog.records]
    assert [sum(f"{name}.wav" in message for message in named) for name in "abc"] == [1, 0, 1]
    assert all(part.any() for part in heard)
    late = Augmenter(config, SAMPLE_RATE)
    assert np.array_equal(background_of(late, 11, 8000), heard[11])


def test_a_silent_background_changes_nothing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), SAMPLE_RATE)
    augmenter = Augmenter(settings("augment.probability=1", f"augment.background={tmp_path}").augment, SAMPLE_RATE)
    assert np.array_equal(augmenter(noise(4000), (0, 0, 0, 0)), noise(4000))


def test_what_cannot_work_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.wav").write_text("no sound")
    cases: list[tuple[type[Exception], str, str]] = [
        (ConfigError, "no folder", f"augment.background={tmp_path / 'missing'}"),
        (DataError, "no recordings in", f"augment.background={tmp_path / 'empty'}"),
        (DataError, "none of the 1 recordings in .* can be read", f"augment.background={tmp_path / 'text'}"),
        (ConfigError, "below 8000 Hz", "augment.low_pass_hz=[8000, 9000]"),
        (ConfigError, "above 0", "augment.low_pass_hz=[0, 4000]"),
    ]
    for kind, message, assignment in cases:
        with pytest.raises(kind, match=message) as caught:
            Augmenter(settings(assignment).augment, SAMPLE_RATE)
        assert "augment." in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_library_is_named_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    assert TrainingView(settings("augment.mixup=0.4", "augment.short_clips=repeat"), SAMPLE_RATE).active
    assert not Augmenter(settings("augment.gain_db=6", "augment.probability=0").augment, SAMPLE_RATE).active
    with pytest.raises(ConfigError, match=r'pip install "crycli\[augment\]"'):
        Augmenter(settings("augment.gain_db=6").augment, SAMPLE_RATE)


KEYS = st.tuples(*[st.integers(0, 2**32 - 1)] * 4)
CLIPS = (
    st.integers(1, 50)
    .flatmap(lambda length: st.lists(st.floats(-1e3, 1e3, width=32), min_size=length, max_size=length))
    .map(lambda values: np.array(values, np.float32))
)


@given(st.integers(1, 200), st.integers(1, 200), KEYS)
def test_a_crop_is_a_part_as_long_as_asked_for(length: int, wanted: int, key: tuple[int, ...]) -> None:
    samples = np.arange(length, dtype=np.float32)
    part = crop(samples, wanted, key)
    assert len(part) == min(length, wanted)
    assert np.array_equal(part, np.arange(part[0], part[0] + len(part)))
    assert np.array_equal(part, crop(samples, wanted, key))


def test_a_crop_begins_anywhere() -> None:
    samples = np.arange(10, dtype=np.float32)
    starts = [crop(samples, 7, (0, 0, index, 0))[0] for index in range(400)]
    assert all(70 < starts.count(start) < 130 for start in (0, 1, 2, 3))


@given(CLIPS, st.integers(1, 200))
def test_what_is_repeated_comes_round_again(samples: Samples, length: int) -> None:
    result = repeat(samples, length)
    assert result.dtype == np.float32
    assert np.array_equal(result, samples[np.arange(length) % len(samples)])


@given(CLIPS, CLIPS, st.floats(0, 1), KEYS)
def test_a_mix_is_as_long_as_the_first_and_as_loud_as_either(
    first: Samples, second: Samples, share: float, key: tuple[int, ...]
) -> None:
    mixed = mix(first, second, share, key)
    assert mixed.shape == first.shape
    assert mixed.dtype == np.float32
    assert np.isfinite(mixed).all()
    assert np.sqrt(np.mean(np.square(mixed, dtype=np.float64))) <= 1 + 1e-5
    assert np.array_equal(mixed, mix(first, second, share, key))


@given(CLIPS, CLIPS, st.floats(0, 1), KEYS, st.integers(-20, 20))
def test_the_levels_of_mixed_clips_do_not_matter(
    first: Samples, second: Samples, share: float, key: tuple[int, ...], exponent: int
) -> None:
    louder = np.ldexp(first, exponent)
    np.testing.assert_allclose(mix(louder, second, share, key), mix(first, second, share, key), rtol=1e-5, atol=1e-6)


def test_a_mix_holds_both_clips_by_their_shares() -> None:
    first, second = noise(32_000, 1, 0.5), noise(32_000, 2, 0.001)
    mixed = mix(first, second, 0.7, (0, 0, 0, 0))
    shares = [np.dot(mixed, part) / np.sqrt(32_000) / np.linalg.norm(part) for part in (first, second)]
    assert shares == pytest.approx([0.7, 0.3], abs=0.02)


def test_a_silent_clip_stays_silent_in_a_mix() -> None:
    silence = np.zeros(100, np.float32)
    assert not mix(silence, silence, 0.6, (0, 0, 0, 0)).any()
    np.testing.assert_allclose(mix(np.ones(100, np.float32), silence, 0.6, (0, 0, 0, 0)), 0.6, rtol=1e-6)


@given(st.floats(1e-6, 1e6), KEYS)
def test_the_first_clip_has_at_least_half_of_a_mix(alpha: float, key: tuple[int, ...]) -> None:
    share = mixup_share(alpha, key)
    assert 0.5 <= share <= 1.0
    assert share == mixup_share(alpha, key)


@pytest.mark.parametrize(("alpha", "mean"), [(0.01, 0.99), (1.0, 0.75), (1000.0, 0.51)])
def test_the_share_follows_the_folded_beta_distribution(alpha: float, mean: float) -> None:
    shares = [mixup_share(alpha, (0, 0, index, 0)) for index in range(2000)]
    assert np.mean(shares) == pytest.approx(mean, abs=0.01)


def view(*assignments: str) -> TrainingView:
    return TrainingView(settings("data.max_seconds=1", "augment.probability=1", *assignments), SAMPLE_RATE)


def clip_number(number: int) -> Samples:
    """A clip of 0.6, 1.6, 2.6 ... seconds."""
    return cry(300.0 + 50 * number, number + 0.6, seed=number)


def test_training_takes_another_part_of_a_long_clip_in_each_epoch() -> None:
    plain = view()
    assert not plain.active
    starts = set()
    for epoch in range(8):
        samples, sources = plain.waveform(clip_number, 3, (0, epoch, 3, 0), 5)
        assert sources == [(3, 1.0)]
        assert len(samples) == SAMPLE_RATE
        assert np.array_equal(samples, plain.part(clip_number(3), (0, epoch, 3, 0)))
        starts.add(int(np.flatnonzero(clip_number(3) == samples[0])[0]))
    assert len(starts) == 8
    assert np.array_equal(plain.waveform(clip_number, 0, (0, 0, 0, 0), 5)[0], clip_number(0))


@pytest.mark.parametrize(
    "assignment", ["augment.gain_db=3", "augment.mixup=0.2", "augment.short_clips=repeat", "augment.polarity=true"]
)
def test_a_view_is_active_where_more_is_done_than_to_take_a_part(assignment: str) -> None:
    assert view(assignment).active


def test_a_clip_is_mixed_with_each_other_one_and_never_with_itself() -> None:
    mixing = view("augment.mixup=0.5")
    partners = set()
    for epoch in range(40):
        samples, [(own, share), (partner, rest)] = mixing.waveform(clip_number, 1, (0, epoch, 1, 0), 4)
        assert own == 1
        assert 0.5 <= share <= 1.0
        assert share + rest == pytest.approx(1.0)
        assert len(samples) == SAMPLE_RATE
        assert samples.dtype == np.float32
        partners.add(partner)
    assert partners == {0, 2, 3}
    assert mixing.waveform(clip_number, 0, (0, 0, 0, 0), 1)[1] == [(0, 1.0)]


def test_a_mixed_clip_is_about_as_loud_as_its_own() -> None:
    quiet = {0: noise(8000, 0, 0.001), 1: noise(8000, 1, 0.5), 2: np.zeros(8000, np.float32)}
    mixing = view("augment.mixup=0.5")
    for epoch in range(8):
        samples, _ = mixing.waveform(quiet.__getitem__, 0, (0, epoch, 0, 0), 2)
        assert -4 < decibels(samples, quiet[0]) < 0.1
        assert np.isfinite(mixing.waveform(quiet.__getitem__, 2, (0, epoch, 2, 0), 3)[0]).all()


def test_the_changes_of_both_mixed_clips_are_drawn_apart() -> None:
    same = noise(SAMPLE_RATE)
    samples, [(_, share), _] = view("augment.mixup=5", "augment.noise_snr_db=[0, 0]").waveform(
        lambda _: same, 0, (0, 0, 0, 0), 2
    )
    left = samples - same * (np.dot(samples, same) / np.dot(same, same))
    # Two independent noises, as loud as the clip, by their shares; were they the same, they would add up to 0 dB.
    expected = 10 * np.log10(share**2 + (1 - share) ** 2)
    assert decibels(left, same) == pytest.approx(expected, abs=0.5)


def test_short_clips_are_repeated_up_to_the_longest_and_only_where_configured() -> None:
    samples, _ = view("augment.short_clips=repeat").waveform(clip_number, 0, (0, 0, 0, 0), 3)
    assert np.array_equal(samples, repeat(clip_number(0), SAMPLE_RATE))
    mixed, _ = view("augment.short_clips=repeat", "augment.mixup=1").waveform(clip_number, 0, (0, 0, 0, 0), 3)
    assert len(mixed) == SAMPLE_RATE
    np.testing.assert_array_equal(mixed[:6400], mixed[9600:])


def test_no_change_makes_a_clip_longer_than_planned_or_too_short_for_the_network() -> None:
    stretched = view("augment.speed=0.5")
    lengths = [len(stretched.waveform(clip_number, 1, (0, epoch, 1, 0), 2)[0]) for epoch in range(12)]
    assert SAMPLE_RATE // 2 < min(lengths) < max(lengths) == SAMPLE_RATE
    quarter = noise(SAMPLE_RATE // 4)
    short = [len(stretched.waveform(lambda _: quarter, 0, (0, epoch, 0, 0), 1)[0]) for epoch in range(12)]
    assert min(short) == len(quarter)


def test_a_view_depends_on_its_key_alone() -> None:
    every = view("augment.mixup=1", "augment.noise_snr_db=[0, 20]", "augment.shift_seconds=1")
    first = every.waveform(clip_number, 2, (5, 1, 2, 0), 4)
    every.waveform(clip_number, 1, (5, 1, 1, 0), 4)
    again = view("augment.mixup=1", "augment.noise_snr_db=[0, 20]", "augment.shift_seconds=1").waveform(
        clip_number, 2, (5, 1, 2, 0), 4
    )
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]
    for key in ((6, 1, 2, 0), (5, 2, 2, 0), (5, 1, 2, 1)):
        assert not np.array_equal(first[0], every.waveform(clip_number, 2, key, 4)[0])
