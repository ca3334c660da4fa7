"""Recordings of the same sound: found by their samples and fingerprints, kept together, and named."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
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


def copies_of(duplicates: Iterable[Duplicate]) -> dict[int, list[int]]:
    """For each recording that is in a pair as the first of its copies, all of these, itself among them."""
    first_of: dict[int, int] = {}
    for pair in duplicates:
        for number in (pair.first, pair.second):
            first_of.setdefault(number, number)
        if pair.kind == "copy":
            first_of[pair.second] = pair.first
    members: dict[int, list[int]] = {}
    for number, first in first_of.items():
        members.setdefault(first, []).append(number)
    return members


def rehang(duplicates: Sequence[Duplicate], old: Container[int], left_out: Container[int]) -> list[Duplicate]:
    """The pairs that are left without some recordings, each with the old or else the earlier recording first.

    Where the first of some copies is left out, the next one takes its place in the pairs.
    """

    def rank(number: int) -> tuple[bool, int]:
        return number not in old, number

    alive = {
        first: sorted((number for number in some if number not in left_out), key=rank)
        for first, some in copies_of(duplicates).items()
    }
    seconds = {pair.second: pair.seconds for pair in duplicates if pair.kind == "copy"}
    found = []
    for pair in duplicates:
        if pair.kind == "overlap" and alive[pair.first] and alive[pair.second]:
            one, other = alive[pair.first][0], alive[pair.second][0]
            if rank(one) < rank(other):
                found.append(replace(pair, first=one, second=other))
            else:
                found.append(replace(pair, first=other, second=one, offset=-pair.offset))
    for first, some in alive.items():
        for number in some[1:]:
            length = seconds.get(number, seconds.get(first, 0.0)) or max(seconds.get(other, 0.0) for other in some)
            found.append(Duplicate(some[0], number, "copy", 0.0, length))
    return sorted(found, key=lambda pair: (pair.first, pair.second))


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
