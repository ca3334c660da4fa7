"""Which recordings of DonateACry hold a cry: what two readers of their spectrograms saw, and how far they agree.

    python recipes/readings.py

readings.csv holds a row for each of the 577 recordings and for each of 108 controls that were mixed in: ESC-10's cries
(control-cry), and its other sounds, speech, laughter, shouts, animals and music from packages (control-other). The
readers were language models, each four instances of one for a quarter of the sheets. They saw eight spectrograms at a
time, 0 to 4 kHz over 7 s, in an order drawn by chance, and knew neither what a recording was nor what the other reader
or any classifier said of it. They wrote

- C: an infant cries, clearly, for at least about a second in all;
- W: weak: fussing, or a few short or faint cries;
- N: no cry to be seen;
- U: unclear.

corpora.py leaves out where neither wrote C or W.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from sklearn.metrics import cohen_kappa_score

FILE = Path(__file__).with_name("readings.csv")
LETTERS = "CWUN"
SEEN = frozenset("CW")
CONTROL = "control"


class Reading(NamedTuple):
    """A row of readings.csv."""

    corpus: str
    file: str
    first: str
    second: str

    @property
    def unseen(self) -> bool:
        """Whether neither reader saw a cry."""
        return not SEEN & {self.first, self.second}


def read(file: Path = FILE) -> list[Reading]:
    """The rows of a file such as readings.csv."""
    with file.open(encoding="utf-8", newline="") as rows:
        return [Reading(**row) for row in csv.DictReader(rows)]


def unseen(file: Path = FILE) -> set[str]:
    """The names of the recordings of DonateACry in which neither reader saw a cry."""
    return {row.file for row in read(file) if row.unseen and not row.corpus.startswith(CONTROL)}


def agreement(readings: list[Reading]) -> tuple[float, float]:
    """The share on which both agree whether there is a cry, and Cohen's kappa of it."""
    pairs = [(row.first in SEEN, row.second in SEEN) for row in readings]
    agreed = sum(first == second for first, second in pairs) / len(pairs)
    return agreed, float(cohen_kappa_score(*zip(*pairs, strict=True)))


def main() -> None:
    """Print a table for each corpus, and the agreement on DonateACry."""
    readings = read()
    for corpus in sorted({row.corpus for row in readings}):
        counted = Counter((row.first, row.second) for row in readings if row.corpus == corpus)
        rows = [row for row in readings if row.corpus == corpus]
        print(f"{corpus}: {len(rows)} recordings, {sum(row.unseen for row in rows)} in which neither saw a cry")
        for reader, name in enumerate(("first", "second")):
            print(f"  {name} reader: a cry in {sum(row[2 + reader] in SEEN for row in rows)}")
        print("  first, down; second:" + "".join(f"{letter:>5}" for letter in LETTERS))
        for first in LETTERS:
            print(f"{first:>22}" + "".join(f"{counted[first, second]:5}" for second in LETTERS))
    agreed, kappa = agreement([row for row in readings if not row.corpus.startswith(CONTROL)])
    print(f"DonateACry: they agree whether there is a cry in {agreed:.1%}, kappa {kappa:.2f}")


if __name__ == "__main__":
    main()
