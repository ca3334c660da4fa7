"""Recordings of the same sound: found by their samples and fingerprints, kept together, and named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from crycli.fingerprint import find_matches
from crycli.probing import Probe


@dataclass(frozen=True)
class Duplicate:
    """Two recordings of the same sound, by their numbers.

    Attributes:
        first: the earlier one of the two.
        second: the later one.
        kind: "copy" where the samples are the same, "overlap" where the sound is.
        offset: seconds from the start of the first to that of the second; negative where the second starts earlier.
        seconds: how much they share.
    """

    first: int
    second: int
    kind: Literal["copy", "overlap"]
    offset: float
    seconds: float


def find_duplicates(probes: Sequence[Probe], *, overlaps: bool = True) -> list[Duplicate]:
    """The pairs of recordings that hold the same sound; of several copies each is paired with the first.

    Args:
        probes: of the recordings.
        overlaps: whether to look for more than copies.
    """
    first_of: dict[str, int] = {}
    found = []
    for number, probe in enumerate(probes):
        if not probe.audio_hash:
            continue
        first = first_of.setdefault(probe.audio_hash, number)
        if first != number:
            found.append(Duplicate(first, number, "copy", 0.0, probe.seconds))
    originals = list(first_of.values()) if overlaps else []
    for match in find_matches([probes[number].fingerprint for number in originals]):
        pair = originals[match.first], originals[match.second]
        found.append(Duplicate(*pair, "overlap", match.offset, match.seconds))
    return sorted(found, key=lambda duplicate: (duplicate.first, duplicate.second))


class Groups:
    """Groups that are joined step by step; joined ones bear the first of their names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._leader = {name: name for name in names}

    def find(self, name: str) -> str:
        """The group to which a group belongs by now."""
        while self._leader[name] != name:
            self._leader[name] = self._leader[self._leader[name]]  # shortens the way for the next search
            name = self._leader[name]
        return name

    def join(self, one: str, other: str) -> None:
        """Make one group of two."""
        first, second = sorted((self.find(one), self.find(other)))
        self._leader[second] = first


def join_groups(groups: Sequence[str], pairs: Iterable[tuple[int, int]]) -> list[str]:
    """The group of each recording when those of some pairs of recordings, by their numbers, are joined."""
    joined = Groups(groups)
    for first, second in pairs:
        joined.join(groups[first], groups[second])
    return [joined.find(group) for group in groups]
