"""The baselines answer as they say; the MFCCs are the textbook's, and stay finite whatever they hear."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.signal
from conftest import cry, settings
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from crycli import audio, baselines
from crycli.audio import SAMPLE_RATE, Samples
from crycli.baselines import FEATURES, GUESSING_NAME, MFCC_NAME, classify, features, mfcc_statistics
from crycli.cache import FILE_NAME
from crycli.config import Config
from crycli.manifest import Clip, read_manifest

NAMES = ("high", "low")


@pytest.fixture
def chosen(tmp_path: Path) -> Config:
    return settings(f"cache={tmp_path / 'cache'}", "workers=1")


@pytest.fixture(scope="module")
def parts(data: Path) -> dict[str, list[Clip]]:
    return {part: read_manifest(data / f"{part}.csv") for part in ("train", "test")}


def noise(seconds: float, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32) * 0.1


@pytest.mark.parametrize(
    "samples",
    [cry(440.0, 1.0), noise(2.0), noise(0.07), audio.resample(cry(440.0, 1.0, rate=8_000), 8_000, SAMPLE_RATE)],
    ids=["cry", "noise", "short", "stored at 8 kHz"],
)
def test_the_mfccs_are_those_of_others(samples: Samples) -> None:
    bands = mel_filter_bank(513, baselines.BANDS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="htk")
    levels = spectrogram(
        samples.astype(np.float64),
        window_function(1024, "hann"),
        frame_length=1024,
        hop_length=256,
        power=2.0,
        pad_mode="constant",
        mel_filters=bands,
        log_mel="dB",
        db_range=80.0,
    )
    mfcc = scipy.fft.dct(levels, axis=0, norm="ortho")[:20]
    delta = scipy.signal.savgol_filter(mfcc, 9, polyorder=1, deriv=1, axis=1, mode="nearest")
    over_time = [function(mfcc, axis=1) for function in (np.mean, np.std, np.min, np.max, np.median)]
    expected = np.concatenate([*over_time, delta.std(axis=1), delta.max(axis=1)])
    assert mfcc_statistics(samples, SAMPLE_RATE) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(SAMPLE_RATE, np.float32),
        np.full(SAMPLE_RATE, 0.3, np.float32),
        np.eye(1, SAMPLE_RATE, 8000, dtype=np.float32)[0],
        noise(0.025),
        noise(1.0) * np.float32(audio.LOUDEST),
        noise(1.0) * np.float32(1e-30),
        audio.resample(noise(0.1), 1_000, SAMPLE_RATE),
    ],
    ids=["silence", "offset", "click", "shortest", "loudest", "faintest", "narrow"],
)
def test_the_statistics_are_finite_whatever_is_heard(samples: Samples) -> None:
    found = mfcc_statistics(samples, SAMPLE_RATE)
    assert found.shape == (FEATURES,)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 5_000.0


@trials(max_examples=20)
@given(gain_db=st.floats(-40.0, 20.0), seed=st.integers(0, 9))
def test_a_gain_moves_the_level_alone(gain_db: float, seed: int) -> None:
    samples = noise(0.3, seed)
    plain = mfcc_statistics(samples, SAMPLE_RATE).reshape(-1, baselines.COEFFICIENTS)
    louder = mfcc_statistics(samples * np.float32(10 ** (gain_db / 20)), SAMPLE_RATE).reshape(plain.shape)
    assert louder[:, 1:] == pytest.approx(plain[:, 1:], abs=0.01)
    mean, spread = 0, 1
    assert louder[mean, 0] - plain[mean, 0] == pytest.approx(gain_db * np.sqrt(baselines.BANDS), abs=0.01)
    assert louder[spread, 0] == pytest.approx(plain[spread, 0], abs=0.01)


def test_a_long_clip_is_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(1.0)
    whole = mfcc_statistics(samples, SAMPLE_RATE)
    monkeypatch.setattr(baselines, "FRAMES_AT_ONCE", 7)
    assert mfcc_statistics(samples, SAMPLE_RATE) == pytest.approx(whole, abs=1e-4)


def test_the_baselines_answer_as_they_say(parts: dict[str, list[Clip]], chosen: Config) -> None:
    train = [clip for clip in parts["train"] if clip.label == "low"] + parts["train"][:4]
    always, guessing, heard = baselines.baselines(train, parts["test"], NAMES, chosen)
    shares = [np.mean([clip.label == name for clip in train]) for name in NAMES]
    assert (always.name, guessing.name, heard.name) == ("always 'low'", GUESSING_NAME, MFCC_NAME)
    assert set(always.predicted) == {NAMES.index("low")}
    for blind in (always, guessing):
        assert blind.probabilities == pytest.approx(np.tile(shares, (len(parts["test"]), 1)))
    assert heard.probabilities.sum(axis=1) == pytest.approx(1.0)
    assert heard.predicted.tolist() == heard.probabilities.argmax(axis=1).tolist()
    assert heard.predicted.tolist() == [NAMES.index(clip.label) for clip in parts["test"]]


def test_guesses_are_as_frequent_as_in_training_and_the_same_in_every_run(
    parts: dict[str, list[Clip]], chosen: Config, tmp_path: Path
) -> None:
    train = [replace(parts["train"][0], label=name) for name in ("a", "a", "a", "b")]
    test = [Clip(tmp_path / "gone.wav", "a", "gone")] * 2000
    runs = [baselines.baselines(train, test, ("a", "b", "c"), chosen)[1] for _ in range(2)]
    assert np.bincount(runs[0].predicted, minlength=3) / len(runs[0].predicted) == pytest.approx(
        [0.75, 0.25, 0.0], abs=0.03
    )
    assert runs[0].predicted.tolist() == runs[1].predicted.tolist()


def test_a_label_that_was_not_trained_on_has_no_probability(parts: dict[str, list[Clip]], chosen: Config) -> None:
    found = baselines.baselines(parts["train"], parts["test"], ("a", "high", "low"), chosen)
    assert all((baseline.probabilities[:, 0] == 0.0).all() and baseline.predicted.min() > 0 for baseline in found)


def test_with_one_label_to_learn_from_that_is_the_answer() -> None:
    assert classify(np.ones((3, 2)), np.array([1, 1, 1]), np.zeros((2, 2)), 3).tolist() == [[0, 1, 0]] * 2


def test_recordings_that_cannot_be_read_are_left_out_or_answered_blindly(
    parts: dict[str, list[Clip]], chosen: Config, tmp_path: Path
) -> None:
    gone = Clip(tmp_path / "gone.wav", "high", "gone")
    always, _, heard = baselines.baselines([gone, *parts["train"]], [*parts["test"], gone], NAMES, chosen)
    assert heard.probabilities[-1].tolist() == always.probabilities[-1].tolist()
    without = baselines.baselines(parts["train"], parts["test"], NAMES, chosen)[2]
    assert np.array_equal(heard.probabilities[:-1], without.probabilities)


def test_without_recordings_to_learn_from_fewer_baselines_are_left(
    parts: dict[str, list[Clip]], chosen: Config, tmp_path: Path
) -> None:
    gone = Clip(tmp_path / "gone.wav", "high", "gone")
    assert [found.name for found in baselines.baselines([gone], parts["test"], NAMES, chosen)] == [
        "always 'high'",
        GUESSING_NAME,
    ]
    foreign = [replace(clip, label="other") for clip in parts["train"]]
    assert baselines.baselines(foreign, parts["test"], NAMES, chosen) == []


def test_a_recording_is_decoded_once_and_again_when_it_changed(
    parts: dict[str, list[Clip]], chosen: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = audio.load

    def counted(path: Path, *arguments: float | None) -> Samples:
        loaded.append(path.name)
        return load(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(audio, "load", counted)
    own = tmp_path / "own.wav"
    own.write_bytes(parts["test"][0].path.read_bytes())
    clips = [*parts["test"], replace(parts["test"][0], path=own), Clip(tmp_path / "gone.wav", "low", "gone")]
    first, readable = features(clips, chosen)
    assert readable.tolist() == [True] * (len(clips) - 1) + [False]
    assert len(loaded) == len(clips)
    assert (first[-1] == 0.0).all()

    loaded.clear()
    assert np.array_equal(features(clips, chosen)[0], first)
    assert loaded == ["gone.wav"]

    loaded.clear()
    own.write_bytes(parts["test"][-1].path.read_bytes())
    assert np.array_equal(features(clips, chosen)[0][-2], first[len(parts["test"]) - 1])
    assert sorted(loaded) == ["gone.wav", "own.wav"]

    (tmp_path / "cache" / FILE_NAME).write_bytes(b"damaged")
    assert np.array_equal(features(clips, chosen)[0][:-2], first[:-2])


def test_windows_of_a_recording_have_features_of_their_own(parts: dict[str, list[Clip]], chosen: Config) -> None:
    whole = parts["test"][0]
    found, _ = features([whole, replace(whole, start=0.0, end=0.3), replace(whole, start=0.3, end=0.6)], chosen)
    assert len(np.unique(found, axis=0)) == 3


def test_neither_torch_nor_librosa_is_needed(parts: dict[str, list[Clip]], tmp_path: Path) -> None:
    path = parts["test"][0].path
    code = f"""
import sys
from pathlib import Path
from crycli import baselines
from crycli.config import load_config
from crycli.manifest import Clip
clips = [Clip(Path({str(path)!r}), "a", "1"), Clip(Path({str(path)!r}), "b", "2", start=0.1, end=0.5)]
assert len(baselines.baselines(clips, clips, ("a", "b"), load_config(None, ["cache=none"]))) == 3
assert not {{"torch", "librosa", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
