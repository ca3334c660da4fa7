"""Melodies on the instruments of a General MIDI sound font, played by FluidSynth: music that is no baby's cry."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

RATE = 16_000
INSTRUMENTS = 128
TICKS = 480  # a quarter note, which lasts half a second at MIDI's own tempo
TICKS_PER_SECOND = 2 * TICKS
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))  # major, minor, pentatonic
CENTRAL_KEYS = (48, 84)  # 131 to 1,047 Hz, where cries have their fundamental too
BEND_CENTRE = 8192


def play(sound_font: Path, program: int, seed: int, seconds: float) -> npt.NDArray[np.float32]:
    """A melody, from long slides to quick notes, of (samples,) at 16 kHz.

    Args:
        sound_font: an .sf2 or .sf3 file.
        program: the instrument, 0 to 127.
        seed: of the melody.
        seconds: how long it is.

    Raises:
        FileNotFoundError: fluidsynth is not installed.
        subprocess.CalledProcessError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        song, sound = Path(folder) / "song.mid", Path(folder) / "song.wav"
        song.write_bytes(_song(program, np.random.default_rng([seed, program]), seconds))
        command = ["fluidsynth", "-ni", "-q", "-g", "0.7", "-r", "44100", "-F", str(sound), str(sound_font), str(song)]
        subprocess.run(command, check=True, capture_output=True)
        stereo, rate = soundfile.read(sound, dtype="float32", always_2d=True)
    import soxr

    samples = soxr.resample(stereo.mean(axis=1), rate, RATE)[: round(seconds * RATE)]
    return np.pad(samples, (0, round(seconds * RATE) - len(samples))).astype(np.float32)


def _song(program: int, rng: np.random.Generator, seconds: float) -> bytes:
    """A standard MIDI file of one track."""
    track = bytearray(_event(0, 0xC0, program))
    scale = SCALES[int(rng.integers(len(SCALES)))]
    degree = int(rng.integers(2 * len(scale)))
    base = int(rng.integers(*CENTRAL_KEYS)) - 12
    note_seconds = float(rng.choice((0.15, 0.3, 0.6, 1.2)))
    passed = 0.0
    while passed < seconds:
        degree = int(np.clip(degree + rng.integers(-3, 4), 0, 2 * len(scale)))
        key = base + 12 * (degree // len(scale)) + scale[degree % len(scale)]
        length = note_seconds * float(rng.choice((0.5, 1.0, 1.0, 2.0)))
        track += _note(key, int(rng.integers(60, 120)), length, rng)
        passed += length * 1.1
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS) + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _note(key: int, velocity: int, seconds: float, rng: np.random.Generator) -> bytes:
    """A note, a pause of a tenth, and in every third note a slide by up to two semitones."""
    slide = int(rng.integers(-BEND_CENTRE, BEND_CENTRE)) if rng.random() < 0.33 else 0
    steps = 8
    track = bytearray(_event(0, 0x90, key, velocity))
    for step in range(1, steps + 1):
        bend = int(np.clip(BEND_CENTRE + slide * step / steps, 0, 2 * BEND_CENTRE - 1))
        track += _event(seconds / steps, 0xE0, bend & 0x7F, bend >> 7)
    track += _event(0, 0x80, key, 0)
    return bytes(track + _event(seconds * 0.1, 0xE0, 0, BEND_CENTRE >> 7))


def _event(seconds: float, *message: int) -> bytes:
    """A message after a pause, whose ticks are written in groups of seven bits."""
    ticks = round(seconds * TICKS_PER_SECOND)
    groups = [ticks & 0x7F]
    while ticks := ticks >> 7:
        groups.append(ticks & 0x7F | 0x80)
    return bytes([*reversed(groups), *message])
