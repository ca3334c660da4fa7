"""Recordings with labels to measured, flagged clips in groups, and those that have to be left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crycli.audio import Excerpt
from crycli.cache import cache_folder
from crycli.config import Config, Flag
from crycli.duplicates import Duplicate, find_duplicates, join_groups, rehang
from crycli.keeping import Place, find_bridging
from crycli.manifest import Clip
from crycli.measures import FLAG_MEANINGS, find_flags, flag_meaning
from crycli.probing import Probe, Window, Windowing, probe_all
from crycli.progress import OnStep, silent
from crycli.scan import Found, identity

NO_LABEL = "(no label)"  # of a clip in somebody else's CSV


@dataclass(frozen=True)
class Rejected:
    """A recording, or a window of one, that is left out.

    Attributes:
        path: where it is.
        reason: why.
        start: seconds into the recording, of a window.
        clip: what it would have been, where it was rejected for a flag.
    """

    path: Path
    reason: str
    start: float | None = None
    clip: Clip | None = None


@dataclass(frozen=True)
class Survey:
    """What a survey of recordings found.

    Attributes:
        clips: the clips that can be used, in the order of the recordings.
        numbers: for each of them its recording's number in `recordings`.
        rejected: what is left out.
        duplicates: the pairs of the same sound, by their numbers in `recordings`.
        recordings: what was surveyed: all that bears a label.
        named_groups: the group of each recording before duplicates were joined.
        groups: the group of each recording.
        places: where the groups of an earlier split lie.
    """

    clips: list[Clip]
    numbers: list[int]
    rejected: list[Rejected]
    duplicates: list[Duplicate]
    recordings: list[Found]
    named_groups: list[str]
    groups: list[str]
    places: dict[str, Place]

    def contradicts(self, pair: Duplicate) -> bool:
        """Whether the two recordings bear different labels."""
        return _contradict(self.recordings, pair)


def survey(
    found: Sequence[Found],
    config: Config,
    *,
    together: Sequence[tuple[int, int]] = (),
    kept: Mapping[str, Place] | None = None,
    on_step: OnStep = silent,
) -> Survey:
    """Decode and measure every recording, find the duplicates, and flag what is wrong.

    Args:
        found: the recordings; those without a label are rejected unheard.
        config: `data`, `checks`, `limits`, `workers` and `cache` are used.
        together: pairs of recordings, by their numbers among those with a label, that belong to one group.
        kept: where the recordings of an earlier split lie, by `scan.identity`.
        on_step: told of the progress.

    Raises:
        DataError: the earlier split has the same group in two places.
    """
    data = config.data
    rejected = [Rejected(item.path, item.problem, item.start) for item in found if item.problem]
    recordings = [item for item in found if not item.problem]
    excerpts = [Excerpt(item.path, item.start, item.end) for item in recordings]
    windowing = Windowing(data.window, data.hop, data.min_seconds, config.limits.to_limits())
    cache = cache_folder(config.cache)
    probes = probe_all(excerpts, windowing, workers=config.workers, cache=cache, on_step=on_step)
    # Excerpts of one recording are in one group as it is.
    duplicates = [
        pair
        for pair in find_duplicates(probes, overlaps=data.join_overlaps)
        if identity(recordings[pair.first].path) != identity(recordings[pair.second].path)
    ]
    known = kept or {}
    places = {number: known[name] for number, item in enumerate(recordings) if (name := identity(item.path)) in known}
    named_groups = join_groups([item.group for item in recordings], [*_same_file(recordings), *together])
    bridging = find_bridging(named_groups, duplicates, places)
    duplicates = rehang(duplicates, places, bridging)
    groups = join_groups(named_groups, [(pair.first, pair.second) for pair in duplicates])
    flags = _duplicate_flags(recordings, duplicates)
    clips, numbers = [], []
    for number, (item, probe) in enumerate(zip(recordings, probes, strict=True)):
        if probe.error or number in bridging:
            rejected.append(Rejected(item.path, probe.error or bridging[number], item.start))
            continue
        for window in probe.windows:
            clip = _to_clip(item, groups[number], window, probe, flags.get(number, []), config)
            wrong = [flag for flag in config.checks.reject if flag in clip.flags]
            if wrong:
                reason = "; ".join(f"{flag}: {flag_meaning(flag, config.checks)}" for flag in wrong)
                rejected.append(Rejected(item.path, reason, clip.start, clip))
            else:
                clips.append(clip)
                numbers.append(number)
    where = {groups[number]: place for number, place in places.items()}
    return Survey(clips, numbers, rejected, duplicates, recordings, named_groups, groups, where)


def _same_file(recordings: Sequence[Found]) -> list[tuple[int, int]]:
    """Pairs of excerpts of one recording."""
    first_of: dict[str, int] = {}
    return [(first_of.setdefault(identity(item.path), number), number) for number, item in enumerate(recordings)]


def _contradict(recordings: Sequence[Found], pair: Duplicate) -> bool:
    labels = {recordings[pair.first].label, recordings[pair.second].label}
    return len(labels) > 1 and NO_LABEL not in labels


def _duplicate_flags(
    recordings: Sequence[Found], duplicates: Iterable[Duplicate]
) -> dict[int, list[tuple[Flag, float, float]]]:
    """For each recording its flags, each with the seconds from and to which it holds."""
    flags: dict[int, list[tuple[Flag, float, float]]] = defaultdict(list)
    for pair in duplicates:
        begin = max(0.0, -pair.offset)
        flags[pair.second].append((pair.kind, begin, begin + pair.seconds))
        if _contradict(recordings, pair):
            flags[pair.second].append(("contradiction", begin, begin + pair.seconds))
            begin = max(0.0, pair.offset)
            flags[pair.first].append(("contradiction", begin, begin + pair.seconds))
    return flags


def _to_clip(
    item: Found,
    group: str,
    window: Window,
    probe: Probe,
    duplicate_flags: Sequence[tuple[Flag, float, float]],
    config: Config,
) -> Clip:
    duration = window.measures.duration
    begin = (window.start or 0.0) - (item.start or 0.0)  # an excerpt is decoded by itself: its clock starts with it
    flags = {flag for flag, first, last in duplicate_flags if first < begin + duration and begin < last}
    flags.update(find_flags(window.measures, config.checks))
    if probe.cut_short and window is probe.windows[-1]:
        flags.add("cut_short")
    return Clip(
        path=item.path,
        label=item.label,
        group=group,
        corpus=item.corpus,
        start=window.start,
        end=None if window.start is None else window.start + duration,
        fold=item.fold if config.data.folds else None,
        **vars(window.measures),
        flags=tuple(flag for flag in FLAG_MEANINGS if flag in flags),
        extra=item.extra,
    )


def count_flags(clips: Iterable[Clip]) -> Counter[str]:
    """How many clips bear each flag."""
    return Counter(flag for clip in clips for flag in clip.flags)
