"""How fast `crycli prepare` is, against a bare loop that decodes and resamples the same files on the same cores.

    python benchmarks/prepare.py                        # synthetic recordings in seven formats
    python benchmarks/prepare.py --data FOLDER ...      # the recordings below folders of yours
    python benchmarks/prepare.py --many 100000          # small files: time and peak memory of the whole command

The loop and crycli take turns; each figure is the best of the rounds.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from crycli import audio
from crycli.audio import Excerpt
from crycli.errors import AudioError
from crycli.parallel import map_processes, worker_count
from crycli.probing import Windowing, probe

FORMATS = {  # suffix: (FFmpeg's encoder, Hz)
    ".wav": ("pcm_s16le", 8_000),
    ".flac": ("flac", 44_100),
    ".ogg": ("libopus", 48_000),
    ".mp3": ("libmp3lame", 44_100),
    ".m4a": ("aac", 44_100),
    ".3gp": ("libopencore_amrnb", 8_000),
    ".webm": ("libopus", 48_000),
}
SECONDS = 7.0
TARGET_RATE = 16_000
WINDOWING = Windowing(None, None, 0.5)
LEAST_FILES = 500  # a shorter list is gone through again: to start the processes takes a second


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="folders of recordings")
    parser.add_argument("--each", type=int, default=60, help="synthetic recordings of each format")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="0: one a core")
    parser.add_argument("--many", type=int, help="so many small recordings, whole command only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.many:
            write_small(folder / "recordings", arguments.many)
            whole_command([folder / "recordings"], folder, arguments.workers)
            return
        roots = arguments.data or [write_formats(folder / "recordings", arguments.each)]
        compare(roots, arguments.rounds, arguments.workers)
        whole_command(roots, folder, arguments.workers)


def write_formats(folder: Path, each: int) -> Path:
    """Synthetic recordings: a gliding tone in noise, no two alike, two labels."""
    for suffix, (encoder, rate) in FORMATS.items():
        for number in range(each):
            path = folder / f"label-{number % 2}" / f"{suffix[1:]}-{number:04d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            encode(path, glide(number, SECONDS, rate), rate, encoder)
    return folder


def write_small(folder: Path, count: int) -> None:
    """Many recordings of 0.6 to 1.4 s at 8 kHz."""
    import soundfile

    for number in range(count):
        path = folder / f"label-{number % 5}" / f"{number // 1000:04d}" / f"{number:07d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, glide(number, 0.6 + 0.8 * (number % 9) / 8, 8_000), 8_000)


def glide(seed: int, seconds: float, rate: int) -> audio.Samples:
    """A harmonic tone that wanders, in noise: (samples,)."""
    random = np.random.default_rng(seed)
    count = round(seconds * rate)
    steps = np.interp(np.arange(count), np.linspace(0, count, 12), random.uniform(250, 650, 12))
    phase = 2 * np.pi * np.cumsum(steps) / rate
    tone = sum(np.sin(harmonic * phase) / harmonic for harmonic in (1, 2, 3))
    return np.asarray(0.2 * tone + 0.02 * random.standard_normal(count), dtype=np.float32)


def encode(path: Path, samples: audio.Samples, rate: int, encoder: str) -> None:
    """Write (samples,) with FFmpeg."""
    import av

    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=rate, layout="mono")
        context = stream.codec_context
        cutter = av.AudioResampler(context.format, "mono", rate, frame_size=context.frame_size or 1024)
        for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
            container.mux(stream.encode(piece))


def bare(path: Path) -> int:
    """Decode and resample, and nothing else; the number of samples."""
    import soundfile
    import soxr

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return len(soxr.resample(samples.mean(axis=1), rate, TARGET_RATE))
    except (soundfile.LibsndfileError, ValueError):
        return bare_with_av(path)


def bare_with_av(path: Path) -> int:
    """The same for what soundfile cannot read."""
    import av
    import soxr

    try:
        with av.open(str(path)) as container:
            cutter = av.AudioResampler(format="fltp", frame_size=65_536)
            stream = container.streams.audio[0]
            parts = [part for frame in container.decode(stream) for part in cutter.resample(frame)]
            parts += cutter.resample(None)
            samples = np.concatenate([part.to_ndarray().mean(axis=0) for part in parts])
            return len(soxr.resample(samples, parts[0].sample_rate, TARGET_RATE))
    except (av.FFmpegError, AudioError, ValueError, IndexError):
        return 0


def compare(roots: Sequence[Path], rounds: int, workers: int) -> None:
    """Print files a second of the loop and of crycli, by suffix and in all."""
    paths = [path for root in roots for path in audio.find_recordings(root)]
    suffixes = sorted({path.suffix.lower() for path in paths})
    print(f"{len(paths)} recordings, {worker_count(workers)} processes, best of {rounds} rounds")
    print(f"{'':8} {'files':>7} {'bare loop':>12} {'crycli':>12} {'ratio':>7}")
    for suffix in [*suffixes, "all"] if len(suffixes) > 1 else ["all"]:
        chosen = [path for path in paths if suffix in ("all", path.suffix.lower())]
        chosen *= -(-LEAST_FILES // len(chosen))
        excerpts = [Excerpt(path) for path in chosen]
        best = [float("inf"), float("inf")]
        for _ in range(rounds):
            best[0] = min(best[0], seconds(bare, chosen, workers))
            best[1] = min(best[1], seconds(partial(probe, windowing=WINDOWING), excerpts, workers))
        rates = [len(chosen) / value for value in best]
        print(f"{suffix:8} {len(chosen):7,} {rates[0]:10.1f}/s {rates[1]:10.1f}/s {rates[1] / rates[0]:7.2f}")


def seconds(function: Callable[..., object], items: Sequence[object], workers: int) -> float:
    """How long it takes to apply a function to all items in processes, and to start these."""
    started = time.perf_counter()
    for _ in map_processes(function, items, workers, failed):
        pass
    return time.perf_counter() - started


def failed(item: object) -> None:
    """No recording of a benchmark crashes a decoder."""
    sys.exit(f"a process died on {item}")


def whole_command(roots: Sequence[Path], folder: Path, workers: int) -> None:
    """Print what the command takes at first and over unchanged files."""
    environment = {**os.environ, "CRYCLI_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "crycli", "-q", "prepare", *map(str, roots), "--set", f"workers={workers}"]
    taken = []
    for run in ("first", "second"):
        started = time.perf_counter()
        done = subprocess.run([*command, "-o", str(folder / run)], env=environment, capture_output=True, text=True)
        taken.append(time.perf_counter() - started)
        if done.returncode not in (0, 3):
            sys.exit(done.stderr)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"crycli prepare, {run} run: {taken[-1]:.2f} s; peak memory of a process so far {peak:,.0f} MB")
    print(f"second / first: {taken[1] / taken[0]:.2f}")


if __name__ == "__main__":
    main()
