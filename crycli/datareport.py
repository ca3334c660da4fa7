"""What `crycli prepare` found, as one dictionary for prepare.json and as a page for a person."""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from crycli import __version__, audio, checks, pages
from crycli.audio import Excerpt
from crycli.cache import Cache, cache_folder
from crycli.config import Config, flatten, to_assignments
from crycli.errors import AudioError
from crycli.manifest import Clip, stored_path
from crycli.measures import flag_meaning
from crycli.survey import NO_LABEL, Survey, count_flags

MEASURES = (
    "duration",
    "sample_rate",
    "channels",
    "bandwidth_hz",
    "loudness_db",
    "clipped_share",
    "silent_share",
    "dc_offset",
)
DURATION_BINS = 20
SECTIONS = ("data.", "checks.")  # of the configuration, that tell what is found


def build_report(
    survey: Survey,
    parts: Mapping[str, Sequence[Clip]],
    roots: Sequence[str],
    config: Config,
    output: Path,
    part_of: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The dictionary; the same recordings and settings give the same one.

    Args:
        survey: what was found in the recordings.
        parts: the clips of each part; other people's parts may have any names.
        roots: where the recordings came from, as given.
        config: the settings.
        output: the folder to which paths are relative.
        part_of: the part of each recording, where one may be in two.
    """
    clips = [clip for part in parts.values() for clip in part]
    flagged = flagged_clips(survey, parts)
    part_by_path = {clip.path: part for part, some in parts.items() for clip in some}
    part_of = part_of or [part_by_path.get(item.path, "") for item in survey.recordings]
    labelled = {part: [clip for clip in some if clip.label != NO_LABEL] for part, some in parts.items()}
    confounds = checks.confounds([clip for some in labelled.values() for clip in some], config.data.seed)
    leaks = checks.leakage(parts)
    folds = _by(clips, lambda clip: "" if clip.fold is None else str(clip.fold))
    held_out = [part for part in parts if part != "train"]
    return {
        "crycli_version": __version__,
        "check": False,
        "command": reproduce(roots, config),
        "roots": [readable(root) for root in roots],
        "settings": {key: value for key, value in flatten(config).items() if key.startswith(SECTIONS)},
        "parts": {part: checks.summarise(some) for part, some in parts.items()},
        "folds": {fold: checks.summarise(some) for fold, some in sorted(folds.items(), key=_by_number)},
        "corpora": {name: checks.summarise(some) for name, some in _by(clips, lambda clip: clip.corpus).items()},
        "codecs": {
            label: dict(Counter(clip.codec for clip in some if clip.codec).most_common())
            for label, some in _by(clips, lambda clip: clip.label).items()
        },
        "measures": {measure: checks.quantiles(clips, measure) for measure in MEASURES},
        "durations": _histogram([clip.duration for clip in clips if clip.duration is not None]),
        "flags": {
            flag: {"clips": count, "meaning": flag_meaning(flag, config.checks)}
            for flag, count in count_flags([clip for _, clip in flagged]).items()
        },
        "flagged": [_flagged(clip, part, output) for part, clip in flagged],
        "duplicates": _duplicates(survey, part_of, output),
        "confounds": [
            {
                "measure": found.measure,
                "label": found.label,
                "auc": round(found.auc, 4),
                "detail": found.detail,
                "warned": found.tells(config.checks.confound_auc),
            }
            for found in confounds
        ],
        "leakage": leak_entries(leaks),
        "detectable": [
            asdict(found) for part in held_out if (found := checks.detectable(part, labelled[part])) is not None
        ],
        "warnings": [
            *checks.label_warnings({part: some for part, some in labelled.items() if some}, config.checks.min_groups),
            *checks.corpus_warnings(clips),
            *checks.confound_warnings(confounds, config.checks.confound_auc),
            *_warn_of_flags(clips),
            *_warn_of_contradictions(survey, output),
        ],
        "rejected": [
            {"path": _path(item.path, output), "start": item.start, "reason": item.reason} for item in survey.rejected
        ],
    }


def leak_entries(leaks: Iterable[checks.Leak]) -> list[dict[str, Any]]:
    """Leaks as the dictionary holds them."""
    return [asdict(leak) | {"share": leak.share} for leak in leaks]


def reproduce(roots: Sequence[str], config: Config, *, check: bool = False) -> str:
    """What to type for the same result."""
    names = ["--check", *map(readable, roots)] if check else [*map(readable, roots), "-o", "DATA"]
    return shlex.join(["crycli", "prepare", *names, *to_assignments(config, SECTIONS)])


def render_report(
    report: Mapping[str, Any], survey: Survey, parts: Mapping[str, Sequence[Clip]], config: Config
) -> str:
    """The page: the dictionary with spectrograms and players of the first flagged clips."""
    shown = [_beginning(clip) for _, clip in flagged_clips(survey, parts)[: config.checks.players]]
    with Cache(cache_folder(config.cache), (audio.__file__, pages.__file__), "media") as kept:
        media = kept.find(shown)
        for number, excerpt in enumerate(shown):
            if media[number] is None and (made := _media(excerpt)) is not None:
                media[number] = made
                kept.add(excerpt, made)
    return pages.render("prepare.html", {"report": report, "media": media})


def flagged_clips(survey: Survey, parts: Mapping[str, Sequence[Clip]]) -> list[tuple[str, Clip]]:
    """The flagged clips with their part, those that were rejected for it first, then part by part."""
    rejected = [("", item.clip) for item in survey.rejected if item.clip is not None]
    return rejected + [(part, clip) for part, some in parts.items() for clip in some if clip.flags]


def counted(count: int, noun: str) -> str:
    """A number with its noun and verb: "1 group is", "2 groups are"."""
    return f"{count:,} {noun} is" if count == 1 else f"{count:,} {noun}s are"


def readable(text: str | Path) -> str:
    """A name that is no UTF-8 with its odd bytes escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def _by(clips: Iterable[Clip], name: Callable[[Clip], str]) -> dict[str, list[Clip]]:
    """The clips by a name, sorted; those for which it is empty are left out."""
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        found[name(clip)].append(clip)
    return {key: found[key] for key in sorted(found) if key}


def _by_number(item: tuple[str, list[Clip]]) -> int:
    return int(item[0])


def _path(path: Path, output: Path) -> str:
    return readable(stored_path(path, output))


def _flagged(clip: Clip, part: str, output: Path) -> dict[str, Any]:
    names = ("start", "end", "label", "duration", "sample_rate", "loudness_db", "bandwidth_hz", "clipped_share")
    values = {name: getattr(clip, name) for name in (*names, "silent_share", "dc_offset")}
    numbers = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
    return {
        "path": _path(clip.path, output),
        "part": part,
        "flags": list(clip.flags),
        **numbers,
    }


def _duplicates(survey: Survey, part_of: Sequence[str], output: Path) -> list[dict[str, Any]]:
    entries = []
    for pair in survey.duplicates:
        items = survey.recordings[pair.first], survey.recordings[pair.second]
        entries.append(
            {
                "first": _path(items[0].path, output),
                "second": _path(items[1].path, output),
                "kind": pair.kind,
                "offset": round(pair.offset, 3),
                "seconds": round(pair.seconds, 3),
                "labels": [item.label for item in items],
                "contradiction": survey.contradicts(pair),
                "parts": [part_of[number] for number in (pair.first, pair.second)],
            }
        )
    return entries


def _histogram(durations: Sequence[float]) -> dict[str, Any]:
    """How many clips have which duration, in round bins."""
    if not durations:
        return {"edges": [], "counts": []}
    longest = max(durations)
    width = next(
        step * 10.0**power
        for power in range(-2, 6)
        for step in (1, 2, 5)
        if step * 10.0**power * DURATION_BINS >= longest
    )
    edges = [round(width * number, 6) for number in range(int(longest / width) + 2)]
    counts, _ = np.histogram(durations, edges)
    return {"edges": edges, "counts": counts.tolist()}


def _warn_of_flags(clips: Sequence[Clip]) -> list[str]:
    """One line on what is flagged and used all the same."""
    counts = count_flags(clips)
    if not counts:
        return []
    listed = ", ".join(f"{count} {flag}" for flag, count in counts.most_common())
    return [f"flagged and used all the same: {listed} (checks.reject leaves such clips out)"]


def _warn_of_contradictions(survey: Survey, output: Path) -> list[str]:
    found = [pair for pair in survey.duplicates if survey.contradicts(pair)]
    if not found:
        return []
    first, second = (survey.recordings[number] for number in (found[0].first, found[0].second))
    return [
        f"{len(found)} pairs of recordings hold the same sound and bear different labels, such as "
        f"{_path(first.path, output)} ({first.label}) and {_path(second.path, output)} ({second.label})"
    ]


def _beginning(clip: Clip) -> Excerpt:
    start = clip.start or 0.0
    return Excerpt(clip.path, start, min(start + pages.PLAYER_SECONDS, clip.end if clip.end is not None else math.inf))


def _media(excerpt: Excerpt) -> dict[str, str] | None:
    """The spectrogram and the player of an excerpt; None where it cannot be read any more."""
    try:
        recording = audio.decode(excerpt.path, excerpt.start, excerpt.end)
    except AudioError:
        return None
    return {
        "thumbnail": pages.thumbnail(recording.samples, recording.sample_rate),
        "player": pages.player(recording.samples, recording.sample_rate),
    }
