"""Decodes damaged copies of recordings, in a process that may die of it: python fuzzing.py FOLDER ROUNDS PASSES.

Each copy is announced before it is decoded, so that the last line names the one that ended the process.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from crycli.audio import decode, load
from crycli.errors import AudioError

HANG_SECONDS = 10
HEADER = 256  # bytes; half of the damage is done there
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def damaged(whole: bytes, chance: np.random.Generator) -> bytes:
    """A copy with one to four kinds of damage: bytes changed, fields at extremes, stretches lost, doubled or put in."""
    content = bytearray(whole)
    for _ in range(chance.integers(1, 5)):
        reach = min(len(content), HEADER) if chance.random() < 0.5 else len(content)
        place = int(chance.integers(0, max(1, reach)))
        length = int(2 ** chance.uniform(0, 12))
        kind = chance.choice(["bytes", "field", "cut", "lose", "double", "insert", "zero"])
        if kind == "bytes":
            for _ in range(chance.integers(1, 9)):
                content[place : place + 1] = chance.bytes(1)
                place = int(chance.integers(0, max(1, reach)))
        elif kind == "field":
            size, order = int(chance.choice([2, 4, 8])), str(chance.choice(["little", "big"]))
            value = int(chance.choice(EXTREMES)) % 256**size
            content[place : place + size] = value.to_bytes(size, order)
        elif kind == "cut":
            del content[place:]
        elif kind == "lose":
            del content[place : place + length]
        elif kind == "double":
            content[place:place] = content[place : place + length]
        elif kind == "insert":
            content[place:place] = chance.bytes(length)
        else:
            content[place : place + length] = bytes(len(content[place : place + length]))
    return bytes(content)


def attempt(path: Path) -> bool:
    """Whether a recording can be decoded, whole or in part; anything but an answer or an `AudioError` is raised."""
    answers = []
    for start, end in ((None, None), (0.2, 0.4), (1.1, None)):
        try:
            samples = load(path, 16_000, start, end) if start is None else decode(path, start, end).samples
        except AudioError as error:
            assert "\n" not in str(error), error
            continue
        assert np.isfinite(samples).all()
        answers.append(len(samples))
    return bool(answers)


def memory(field: str) -> float:
    """VmRSS, the memory that this process holds, or VmHWM, the most that it held: MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field))) / 1024


def main(folder: Path, rounds: int, passes: int) -> None:
    """Decode so many damaged copies of each file, the same ones in each pass."""
    logging.disable(logging.CRITICAL)
    faulthandler.enable()
    decoded, slowest, resident = 0, 0.0, []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(passes):
            for number, file in enumerate(sorted(folder.iterdir())):
                whole = file.read_bytes()
                copy = Path(scratch, f"copy{file.suffix}")
                assert attempt(file), file
                for seed in range(rounds):
                    sys.stdout.write(f"{file.name} {number} {seed}\n")
                    sys.stdout.flush()
                    copy.write_bytes(damaged(whole, np.random.default_rng((number, seed))))
                    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
                    begin = time.perf_counter()
                    decoded += attempt(copy)
                    slowest = max(slowest, time.perf_counter() - begin)
                    faulthandler.cancel_dump_traceback_later()
            resident.append(memory("VmRSS"))
    found = {"decoded": decoded, "slowest": slowest, "resident": resident, "highest": memory("VmHWM")}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
