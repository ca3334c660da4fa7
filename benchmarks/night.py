"""Are the events of a long recording found where they are, in memory that does not grow with its length?

    python benchmarks/night.py DATA -m MODEL --label cry [--hours 6] [--window 3 --hop 1]

DATA is a folder that `crycli prepare` wrote, MODEL a run or a bundle that knows its labels. Clips of DATA's test part
are laid into hours of faint noise: episodes of one to four clips of the label, at places that are written down, and
between them clips of the other labels. `crycli predict --events` then answers for the file in a process of its own, and
before that for one of a tenth of the length.

Printed: how many episodes overlap an event of the label, how many events overlap no episode, how far starts and ends
are off, the time, and the peak memory for both lengths.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
NOISE_DB = -50.0  # of the faint noise throughout
GAP_SECONDS = (20.0, 240.0)  # between clips


@dataclass(frozen=True)
class Episode:
    """Where clips of the label lie, in seconds."""

    start: float
    end: float


def main() -> None:
    """Lay out a night, let crycli find the events, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that `crycli prepare` wrote")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--label", default="cry")
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--window", type=float, default=3.0)
    parser.add_argument("--hop", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for share in (0.1, 1.0):
            hours = arguments.hours * share
            night = Path(folder) / f"night-{share}.wav"
            episodes = _lay_out(arguments.data, arguments.label, hours, arguments.seed, night)
            found, seconds, megabytes = _predict(night, arguments)
            print(f"{hours:.1f} h ({night.stat().st_size / 1e6:,.0f} MB): {seconds:.1f} s,", end=" ")
            print(f"{hours * 3600 / seconds:,.0f} times real time, peak memory {megabytes:,.0f} MB")
            _compare(episodes, found, hours)
            night.unlink()


def _lay_out(data: Path, label: str, hours: float, seed: int, file: Path) -> list[Episode]:
    """Write a night; returns where the label is heard."""
    from crycli import audio
    from crycli.manifest import read_manifest

    generator = np.random.default_rng(seed)
    clips = read_manifest(data / "test.csv")
    wanted = [clip for clip in clips if clip.label == label]
    others = [clip for clip in clips if clip.label != label]
    episodes = []
    position = 0
    with soundfile.SoundFile(file, "w", RATE, 1, "PCM_16") as night:

        def put(samples: audio.Samples) -> None:
            nonlocal position
            noise = generator.standard_normal(len(samples)).astype(np.float32) * 10 ** (NOISE_DB / 20)
            night.write(np.clip(samples + noise, -1.0, 1.0))
            position += len(samples)

        while position < hours * 3600 * RATE:
            put(np.zeros(int(generator.uniform(*GAP_SECONDS) * RATE), np.float32))
            of_label = generator.random() < 0.5
            start = position / RATE
            for _ in range(generator.integers(1, 5)):
                clip = (wanted if of_label else others)[generator.integers(len(wanted if of_label else others))]
                put(audio.load(clip.path, RATE, clip.start, clip.end))
            if of_label:
                episodes.append(Episode(start, position / RATE))
    return episodes


def _predict(night: Path, arguments: argparse.Namespace) -> tuple[list[Episode], float, float]:
    """The events of the label, the seconds that it took, and the peak memory in MB."""
    command = [sys.executable, "-m", "crycli", "-q", "predict", str(night), "-m", arguments.model, "--events"]
    command += ["--window", str(arguments.window), "--hop", str(arguments.hop), "--format", "csv"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rows = list(csv.DictReader(process.stdout))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    events = [Episode(float(row["start"]), float(row["end"])) for row in rows if row["label"] == arguments.label]
    return events, time.perf_counter() - started, usage.ru_maxrss / 1024


def _compare(episodes: list[Episode], events: list[Episode], hours: float) -> None:
    def meeting(one: Episode, others: list[Episode]) -> list[Episode]:
        return [other for other in others if one.start < other.end and other.start < one.end]

    found = {episode: meeting(episode, events) for episode in episodes}
    hit = {episode: those for episode, those in found.items() if those}
    false = [event for event in events if not meeting(event, episodes)]
    print(
        f"  episodes found: {len(hit)} of {len(episodes)}; "
        f"false events: {len(false)} ({len(false) / hours:.1f} an hour)"
    )
    if hit:
        starts = [abs(those[0].start - episode.start) for episode, those in hit.items()]
        ends = [abs(those[-1].end - episode.end) for episode, those in hit.items()]
        summary = {name: round(statistics.median(errors), 2) for name, errors in (("start", starts), ("end", ends))}
        print(
            f"  off by, median s: {json.dumps(summary)}; by more than 2 s: {sum(e > 2 for e in starts + ends)}", end=" "
        )
        print(f"of {len(starts + ends)} edges")


if __name__ == "__main__":
    main()
