"""A split that stays put: where old recordings lie, and which new ones can't be placed beside them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from crycli.duplicates import Duplicate, Groups, copies_of, rehang
from crycli.errors import DataError
from crycli.manifest import PARTS, read_manifest
from crycli.scan import identity

Place = tuple[str, int | None]
"""The part and the fold in which a recording lies already."""


def read_places(folder: Path) -> dict[str, Place]:
    """Where the recordings of an earlier split lie, by `scan.identity`.

    Raises:
        DataError: it is no folder with the three CSVs, or a recording is in two of them.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder that `crycli prepare` wrote: there is no split to keep")
    places: dict[str, Place] = {}
    for part in PARTS:
        for clip in read_manifest(folder / f"{part}.csv"):
            place = places.setdefault(identity(Path(os.path.abspath(clip.path))), (part, clip.fold))
            if place != (part, clip.fold):
                raise DataError(f"{folder}: {clip.path} is in {place[0]}.csv and in {part}.csv: it is no split to keep")
    return places


def find_bridging(
    groups: Sequence[str], duplicates: Sequence[Duplicate], places: Mapping[int, Place]
) -> dict[int, str]:
    """New recordings by which old ones of different places would come into one group, with the reason to reject them.

    Args:
        groups: of each recording, by name.
        duplicates: the pairs of the same sound.
        places: of the old recordings, by their numbers.

    Raises:
        DataError: old recordings of one group lie in different places.
    """
    if not places:
        return {}
    members = copies_of(duplicates)
    old = {first: [number for number in some if number in places] for first, some in members.items()}
    overlaps = [pair for pair in duplicates if pair.kind == "overlap"]
    joined = Groups(groups)
    for some in old.values():
        for number in some[1:]:
            joined.join(groups[some[0]], groups[number])
    for pair in overlaps:
        if old[pair.first] and old[pair.second]:
            joined.join(groups[old[pair.first][0]], groups[old[pair.second][0]])
    place_of = _place_of(groups, joined, places)
    near: dict[int, set[Place]] = {first: {places[number] for number in some} for first, some in old.items()}
    for pair in overlaps:
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            near[one] |= {places[number] for number in old[other]}
    reasons: dict[int, str] = {}
    for first, some in members.items():
        for number in set(some) - places.keys():
            own = place_of.get(joined.find(groups[number]))
            where = near[first] | ({own} if own else set())
            if len(where) > 1:
                reasons[number] = f"the same sound is in {_names(where)} of the split to keep"
    while _reject_links(groups, duplicates, places, reasons):
        pass
    return reasons


def _reject_links(
    groups: Sequence[str], duplicates: Sequence[Duplicate], places: Mapping[int, Place], reasons: dict[int, str]
) -> bool:
    """Add the new recordings that link two places by way of other new ones; False where there are none left."""
    joined = Groups(groups)
    place_of = _place_of(groups, joined, places, strict=False)
    found = False
    for pair in rehang(duplicates, places, reasons):
        one, other = (joined.find(groups[number]) for number in (pair.first, pair.second))
        met = {place_of[group] for group in (one, other) if group in place_of}
        if len(met) > 1 and pair.second not in places:
            reasons[pair.second] = f"by way of others the same sound is in {_names(met)} of the split to keep"
            found = True
        elif len(met) < 2:
            joined.join(one, other)
            place_of.update({joined.find(one): place for place in met})
    return found


def _place_of(
    groups: Sequence[str], joined: Groups, places: Mapping[int, Place], *, strict: bool = True
) -> dict[str, Place]:
    """Where each group of an earlier split lies."""
    where: dict[str, set[Place]] = defaultdict(set)
    for number, place in places.items():
        where[joined.find(groups[number])].add(place)
    torn = {group: found for group, found in where.items() if len(found) > 1}
    if torn and strict:
        group, found = next(iter(torn.items()))
        raise DataError(
            f"the split to keep has groups in two places ({len(torn)} of them, such as {group} in {_names(found)}): "
            f"`crycli prepare --check` shows them; split anew without --keep"
        )
    return {group: min(found, key=str) for group, found in where.items()}


def _names(places: Iterable[Place]) -> str:
    return " and ".join(sorted({part if fold is None else f"{part} (fold {fold})" for part, fold in places}))
