"""How many times real time `crycli predict` answers on one core, and in how much memory.

    python benchmarks/realtime.py                              # the detector that comes with crycli
    python benchmarks/realtime.py FLOAT32 INT8 [--minutes 60]  # models or bundles side by side, in turns

Each model answers for one recording of so many minutes of noise, and for the same noise in files of 5 s, in the windows
and with the hop that it says itself. The command runs as a process, whole, held to one core (Linux alone), in rounds in
which the models take turns. Printed are, as median and range over the rounds,

- how many times real time the whole process is, from its start to the last answer: by the clock, and by the time that
  it had the core, which is what the clock would say of an idle one;
- the latter's ratio to the first model's of the same round, on the long recording;
- start: seconds for a recording of 1 s, libraries, model and all; and of these what importing the libraries takes;
- memory: the peak of the process, the larger one of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

RATE = 16_000
SHORT_SECONDS = 5.0
NOISE_DB = -20.0
IMPORTS = "import numpy, onnxruntime, pydantic, rich.console, soundfile, soxr, typer, yaml"
"""What crycli loads to answer from a bundle."""


class Measured(NamedTuple):
    """What a process took: seconds by the clock and of the core, and megabytes at its peak."""

    clock: float
    core: float
    megabytes: float


def main() -> None:
    """Write the recordings, run the models in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="models or bundles; the detector without any")
    parser.add_argument("--minutes", type=float, default=60.0, help="of sound")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of crycli")
    arguments = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})  # the processes that are started inherit it
    models = {model: ["-m", model] for model in arguments.models} or {"(the detector)": []}
    with tempfile.TemporaryDirectory() as name:
        sounds = {what: Path(name) / what for what in ("long", "short", "second")}
        seconds = 60.0 * arguments.minutes
        write_noise(sounds["long"], [seconds])
        write_noise(sounds["short"], [SHORT_SECONDS] * round(seconds / SHORT_SECONDS))
        write_noise(sounds["second"], [1.0])
        found: dict[tuple[str, str], list[Measured]] = {}
        for _ in range(arguments.rounds):
            for model, options in models.items():
                for what, folder in sounds.items():
                    command = ["-m", "crycli", "-q", "predict", str(folder), *options, "--format", "csv"]
                    command += [word for setting in arguments.set for word in ("--set", setting)]
                    found.setdefault((model, what), []).append(measure(command))
            found.setdefault(("", "imports"), []).append(measure(["-c", IMPORTS]))
    print(f"{arguments.minutes:g} minutes of sound on one core, load {os.getloadavg()[0]:.1f}")
    show(list(models), found, seconds, round(seconds / SHORT_SECONDS) * SHORT_SECONDS)


def write_noise(folder: Path, lengths: Sequence[float]) -> None:
    """WAV files of so many seconds of noise at 16 kHz, 16 bit, mono."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, seconds in enumerate(lengths):
        with soundfile.SoundFile(folder / f"{number:05d}.wav", "w", RATE, 1, "PCM_16") as file:
            left = round(seconds * RATE)
            while left:
                block = generator.standard_normal(min(left, 10 * RATE)) * 10 ** (NOISE_DB / 20)
                file.write(np.clip(block, -1.0, 1.0))
                left -= len(block)


def measure(command: Sequence[str]) -> Measured:
    """Run Python in a process of its own."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    clock = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return Measured(clock, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def show(models: Sequence[str], found: dict[tuple[str, str], list[Measured]], of_long: float, of_short: float) -> None:
    """The table, a row a model."""
    width = max(map(len, models)) + 2
    columns = (
        "long, clock",
        "long, core",
        "of the first",
        "5 s files, clock",
        "5 s files, core",
        "start, s of the core",
    )
    print(f"{'times real time':{width}}" + "".join(f"{column:>22}" for column in columns) + f"{'memory':>10}")
    first = found[models[0], "long"]
    for model in models:
        long, short, second = (found[model, what] for what in ("long", "short", "second"))
        cells = [
            in_words([of_long / one.clock for one in long], ".0f"),
            in_words([of_long / one.core for one in long], ".0f"),
            in_words([one.core / other.core for one, other in zip(first, long, strict=True)], ".2f"),
            in_words([of_short / one.clock for one in short], ".0f"),
            in_words([of_short / one.core for one in short], ".0f"),
            in_words([one.core for one in second], ".2f"),
        ]
        memory = max(one.megabytes for one in (*long, *short))
        print(f"{model:{width}}" + "".join(f"{cell:>22}" for cell in cells) + f"{memory:7.0f} MB")
    imports = found["", "imports"]
    core, memory = in_words([one.core for one in imports], ".2f"), max(one.megabytes for one in imports)
    print(f"importing the libraries alone: {core} s of the core, {memory:.0f} MB")


def in_words(values: Sequence[float], form: str) -> str:
    """The median, and the range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
