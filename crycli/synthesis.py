"""Cries that no baby cried, for the demo: harmonic sweeps whose labels differ by construction.

The labels are named by how they sound. They stand for no reason of a cry, and prove nothing about babies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crycli.audio import SAMPLE_RATE, Samples
from crycli.progress import OnStep, Step, silent

CLIP_SECONDS = 2.0
CLIPS_PER_LABEL = 2  # of each baby
BABIES = 20
HARMONICS = 6
SECONDS_OF_A_TURN = 0.1  # after which the pitch of a burst wanders to another


@dataclass(frozen=True)
class Sound:
    """How one label sounds: bursts that sweep from one pitch to another.

    Attributes:
        start_hertz: pitch at the beginning of a burst.
        end_hertz: pitch at its end.
        burst_seconds: length of a burst.
        pause_seconds: silence after it.
    """

    start_hertz: float
    end_hertz: float
    burst_seconds: float
    pause_seconds: float


SOUNDS = {
    "moaning": Sound(320.0, 240.0, 0.90, 0.25),
    "rhythmic": Sound(380.0, 480.0, 0.22, 0.18),
    "shrill": Sound(750.0, 900.0, 0.70, 0.20),
}


def write_recordings(folder: Path, seed: int = 0, on_step: OnStep = silent) -> int:
    """Write LABEL/baby-NN-N.wav for each label and baby, 2 s each; returns how many."""
    import soundfile

    generator = np.random.default_rng(seed)
    total = BABIES * len(SOUNDS) * CLIPS_PER_LABEL
    done = 0
    for label in SOUNDS:
        (folder / label).mkdir(parents=True, exist_ok=True)
    for baby in range(BABIES):
        pitch = generator.uniform(0.85, 1.18)
        timbre = generator.uniform(0.5, 1.5)
        for label, sound in SOUNDS.items():
            for take in range(CLIPS_PER_LABEL):
                samples = synthesise(sound, pitch, timbre, generator)
                soundfile.write(folder / label / f"baby-{baby:02d}-{take}.wav", samples, SAMPLE_RATE)
                done += 1
                on_step(Step("synthesise", done, total))
    return done


def synthesise(sound: Sound, pitch: float, timbre: float, generator: np.random.Generator) -> Samples:
    """One clip: (samples,) at 16 kHz, with noise 20 to 30 dB below.

    Args:
        sound: the label's.
        pitch: the baby's, a factor on all frequencies.
        timbre: the baby's: harmonic k has the amplitude k to the power -timbre.
        generator: draws what differs between takes.
    """
    samples = np.zeros(round(CLIP_SECONDS * SAMPLE_RATE), np.float32)
    position = round(generator.uniform(0.0, 0.2) * SAMPLE_RATE)
    while position < len(samples):
        burst = _burst(sound, pitch, timbre, generator)
        room = len(samples) - position
        samples[position : position + len(burst)] += burst[:room]
        position += len(burst) + round(sound.pause_seconds * generator.uniform(0.8, 1.2) * SAMPLE_RATE)
    level = np.sqrt(np.mean(samples**2))
    noise = generator.standard_normal(len(samples)) * level * 10 ** (-generator.uniform(20, 30) / 20)
    samples += noise.astype(np.float32)
    return np.asarray(samples / np.abs(samples).max() * generator.uniform(0.2, 0.9), dtype=np.float32)


def _burst(sound: Sound, pitch: float, timbre: float, generator: np.random.Generator) -> Samples:
    """A sweep with a wandering pitch: two that follow a formula would be found to be copies of each other."""
    seconds = sound.burst_seconds * generator.uniform(0.85, 1.15)
    count = round(seconds * SAMPLE_RATE)
    time = np.arange(count) / SAMPLE_RATE
    turns = round(seconds / SECONDS_OF_A_TURN) + 2
    wander = np.interp(time, np.linspace(0, seconds, turns), generator.uniform(0.9, 1.1, turns))
    hertz = pitch * wander * np.linspace(sound.start_hertz, sound.end_hertz, count)
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    burst = np.sum([np.sin(number * phase) * number**-timbre for number in range(1, HARMONICS + 1)], axis=0)
    return np.asarray(burst * np.hanning(count) ** 0.5, dtype=np.float32)
