"""Folders of recordings to train, validation and test CSVs: scan, check, label, group, split."""

from __future__ import annotations

import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crycli import __version__, audio
from crycli.config import Config, flatten
from crycli.errors import AudioError, DataError
from crycli.manifest import PARTS, Clip, stored_path, write_manifest, write_rows
from crycli.outputs import claim_folder, refuse_existing, write_json
from crycli.parallel import map_ordered
from crycli.progress import OnStep, Step, silent

DONATEACRY_NAME = re.compile(
    r"(?P<uuid>[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})"
    r"-\d+-[\d.]+-[a-z]+-\d+-(?P<reason>[a-z]{2})$"
)
"""<uuid of the app's installation>-<epoch>-<app version>-<gender>-<age>-<reason>: an upload of the DonateACry app."""

DONATEACRY_REASONS = {
    "hu": "hungry",
    "bu": "burping",
    "bp": "belly_pain",
    "dc": "discomfort",
    "ti": "tired",
    "ch": "discomfort",  # cold or hot: the cleaned corpus files it there
    "lo": "lonely",
    "sc": "scared",
}
"""dk, "don't know", is no label."""

ESC_NAME = re.compile(r"\d-(?P<source>\d+)-[A-Z](?:-\d+)?$")
"""<fold>-<source clip>-<take>[-<class>], as ESC-10 and ESC-50 name their clips."""

PART_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A recording as the scan finds it.

    Attributes:
        path: where it is.
        relative: its path below its root, with "/".
        label: empty where there is none.
        group: what must stay on one side of the split.
        problem: why there is no label.
        told: whether a rule found the group, so that the recording is not one by itself.
    """

    path: Path
    relative: str
    label: str
    group: str
    problem: str = ""
    told: bool = True


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare_dataset_csv` made.

    Attributes:
        parts: the clips of each part.
        rejected: recordings left out, with the reason.
        warnings: what a careful reader should know about the data, a line each.
    """

    parts: dict[str, list[Clip]]
    rejected: dict[Path, str]
    warnings: list[str] = field(default_factory=list)


def prepare_dataset_csv(
    roots: Sequence[Path], output: Path, config: Config | None = None, *, force: bool = False, on_step: OnStep = silent
) -> PrepareResult:
    """Scan folders of recordings and write train.csv, validation.csv, test.csv, rejected.csv and prepare.json.

    The split is stratified by label and disjoint by group. The same recordings and seed give the same bytes.

    Args:
        roots: folders with recordings, labelled by their subfolders or by their DonateACry names.
        output: the folder for the CSVs.
        config: `data` and `workers` are used; the defaults where None.
        force: replace the CSVs of an earlier run.
        on_step: told of the progress.

    Raises:
        DataError: a root is missing or empty, labels are missing, or there is too little to split.
        OutputError: the output exists and `force` is false, or it cannot be written.
    """
    config = config or Config()
    refuse_existing(output, force=force)
    found = scan(roots, config, on_step)
    doubts = _warn_of_groups(found, config.data.group_by)
    claim_folder(output, force=force)
    clips, rejected, warnings = _check(found, config, on_step)
    if not clips:
        raise DataError(
            f"none of the {len(found)} recordings can be used: {Counter(rejected.values()).most_common(1)[0][0]}"
        )
    parts = split(clips, config.data.validation_share, config.data.test_share, config.data.seed)
    warnings = doubts + warnings + _warn_of_labels(parts)
    result = PrepareResult(parts, rejected, warnings)
    for warning in warnings:
        logger.warning("%s", warning)
    _write(result, roots, output, config)
    return result


def scan(roots: Sequence[Path], config: Config, on_step: OnStep = silent) -> list[Found]:
    """The recordings below the roots with their labels and groups, sorted by path within each root.

    Raises:
        DataError: a root is no folder or holds no recordings, or nothing bears a label.
    """
    found: list[Found] = []
    seen: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder" if root.exists() else f"no folder {root}")
        paths = []
        below = 0
        for below, path in enumerate(audio.find_recordings(root), start=1):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                paths.append(path)
            on_step(Step("scan", len(found) + below, None, "recordings"))
        if not below:
            raise audio.no_recordings(root)
        if not paths:
            logger.warning("every recording below %s was found below another root already", root)
            continue
        found += _describe(root, paths, config, several_roots=len(roots) > 1)
    labels = {item.label for item in found} - {""}
    if not labels:
        raise DataError(
            f"no labels in {', '.join(map(str, roots))}: put the recordings of each label in a subfolder of that name"
        )
    if labels <= PART_NAMES:
        raise DataError(
            f"the subfolders are called {', '.join(sorted(labels))}, which are parts and not labels: give each as a "
            f"root of its own, such as {roots[0]}/{min(labels)}"
        )
    return found


def _describe(root: Path, paths: list[Path], config: Config, *, several_roots: bool) -> list[Found]:
    relatives = [path.relative_to(root) for path in paths]
    depth = _label_depth([relative.parts[:-1] for relative in relatives])
    rule = config.data.group_by
    grouping = GROUPINGS.get(rule) or _by_expression(rule)
    found = []
    for path, relative in zip(paths, relatives, strict=True):
        label, problem = _label(root, relative, depth, config.data.label_by, several_roots)
        posix = relative.as_posix()
        group = grouping(posix)
        told = group != posix
        if several_roots and (not told or rule == "folder"):
            group = f"{root.name}/{group}"  # the same path below two roots is two recordings
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError:
            problem = "its name is not valid UTF-8: rename it"
        found.append(Found(path, posix, label, group, problem, told))
    return found


def _label_depth(folders: list[tuple[str, ...]]) -> int:
    """The level of the folders that are labels: the first where the recordings part, below folders all share."""
    shared = 0
    shortest = min(len(folder) for folder in folders)
    while shared < shortest and len({folder[shared] for folder in folders}) == 1:
        shared += 1
    if shared == shortest and all(len(folder) == shared for folder in folders):
        return shared - 1  # one folder alone: it is the label; -1 where the recordings lie in the root itself
    return shared


def _label(root: Path, relative: Path, depth: int, label_by: str, several_roots: bool) -> tuple[str, str]:
    """The label of a recording, or an empty one and why."""
    folders = relative.parts[:-1]
    name = DONATEACRY_NAME.match(relative.stem)
    if label_by == "donateacry" or (label_by == "auto" and not folders and name):
        if name is None:
            return "", "no label: not a DonateACry file name"
        label = DONATEACRY_REASONS.get(name["reason"], "")
        return label, "" if label else f"no label: the reason in its name is {name['reason']!r}"
    if 0 <= depth < len(folders):
        return folders[depth], ""
    if not folders and depth < 0 and several_roots:
        return root.resolve().name, ""
    return "", "no label: it lies beside the label folders"


def _by_donateacry(relative: str) -> str:
    name = DONATEACRY_NAME.match(Path(relative).stem)
    return name["uuid"].lower() if name else relative


def _by_esc(relative: str) -> str:
    name = ESC_NAME.match(Path(relative).stem)
    return f"esc-{name['source']}" if name else relative


def _by_known_name(relative: str) -> str:
    group = _by_donateacry(relative)
    return _by_esc(relative) if group == relative else group


def _by_expression(expression: str) -> Callable[[str], str]:
    """The part of the path that an expression finds: its group named group, its first group, or all of it."""
    pattern = re.compile(expression)

    def group(relative: str) -> str:
        found = pattern.search(relative)
        if found is None:
            return relative
        named = found.groupdict().get("group")
        return named or (found.group(1) if pattern.groups else found.group()) or relative

    return group


GROUPINGS: Mapping[str, Callable[[str], str]] = {
    "auto": _by_known_name,
    "file": lambda relative: relative,
    "folder": lambda relative: Path(relative).parent.as_posix(),
    "donateacry": _by_donateacry,
    "esc": _by_esc,
}
"""The rules of `data.group_by`: a recording's path below its root to its group."""


def _check(found: list[Found], config: Config, on_step: OnStep) -> tuple[list[Clip], dict[Path, str], list[str]]:
    """Decode every labelled recording once: the usable clips, the rejected recordings, and warnings."""
    clips: list[Clip] = []
    rejected = {item.path: item.problem for item in found if item.problem}
    labelled = [item for item in found if not item.problem]
    silent_clips = cut_short = 0

    def probe(item: Found) -> tuple[Found, audio.Recording | None, str]:
        try:
            recording = audio.decode(item.path)
            audio.refuse_short(recording.seconds, config.data.min_seconds)
        except AudioError as error:
            return item, None, str(error)
        return item, recording, ""

    for done, (item, recording, problem) in enumerate(map_ordered(probe, labelled, config.workers), start=1):
        on_step(Step("check", done, len(labelled), "recordings"))
        if recording is None:
            rejected[item.path] = problem
            continue
        clips.append(Clip(item.path, item.label, item.group, recording.seconds, recording.sample_rate))
        silent_clips += bool(np.abs(recording.samples).max() < audio.SILENT_PEAK)
        cut_short += recording.cut_short
    warnings = []
    if silent_clips:
        warnings.append(f"{silent_clips} recordings are silent (below -80 dB of full scale)")
    if cut_short:
        warnings.append(f"{cut_short} recordings are damaged and end early: what could be decoded is used")
    return clips, rejected, warnings


def split(clips: Sequence[Clip], validation_share: float, test_share: float, seed: int) -> dict[str, list[Clip]]:
    """Split clips into train, validation and test: stratified by label, no group on two sides.

    First each label, the rarest first, gets a group for training, then one for each of the other parts as far as its
    groups reach. Then the other groups, the largest first, each go where the parts' label counts come closest
    to their shares (least chi-square). A group that bears several labels stays whole. The order of the clips given
    does not matter; equal choices are drawn by the seed.

    Raises:
        DataError: there is one label alone, or there are too few groups to fill each part.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)  # group -> label -> clips
    for clip in clips:
        counts[clip.group][clip.label] += 1
    totals = Counter(clip.label for clip in clips)
    if not totals:
        raise DataError("no clips to split")
    if len(totals) < 2:
        raise DataError(f"one label alone ({next(iter(totals))}): a classifier needs two or more")
    shares = {"train": 1.0 - validation_share - test_share, "validation": validation_share, "test": test_share}
    assigned = _assign(counts, totals, shares, seed)
    parts: dict[str, list[Clip]] = {part: [] for part in PARTS}
    for clip in sorted(clips, key=lambda clip: (clip.label, str(clip.path))):
        parts[assigned[clip.group]].append(clip)
    empty = [part for part in PARTS if not parts[part]]
    if empty:
        raise DataError(
            f"{len(counts)} groups are too few to fill {' and '.join(empty)}: each part needs groups of its own "
            f"(data.group_by decides what a group is)"
        )
    return parts


def _assign(
    counts: Mapping[str, Counter[str]], totals: Counter[str], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Group to part; see `split`."""
    order = sorted(counts)
    random.Random(seed).shuffle(order)
    filled: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    assigned: dict[str, str] = {}

    def cost(group: str, part: str) -> float:
        """The growth of the chi-square distance between the part's label counts and its share of each label."""
        growth = 0.0
        for label, clips in counts[group].items():
            target = shares[part] * totals[label]
            growth += ((filled[part][label] + clips - target) ** 2 - (filled[part][label] - target) ** 2) / target
        return growth

    def assign(group: str, part: str) -> None:
        assigned[group] = part
        filled[part].update(counts[group])

    groups_of = {label: [group for group in order if label in counts[group]] for label in sorted(totals)}

    def free_groups(label: str) -> list[str]:
        return [group for group in groups_of[label] if group not in assigned]

    rarest_first = sorted(totals, key=lambda label: (len(groups_of[label]), label))
    # Training is served whole before the rest: a group with several labels may be the only one left to another label.
    for label in rarest_first:
        if not filled["train"][label]:
            lacking = {label for label in totals if not filled["train"][label]}
            # First a group that serves most of the labels still lacking, then one with most clips of this label.
            served = {
                group: (len(lacking & counts[group].keys()), counts[group][label]) for group in free_groups(label)
            }
            assign(max(served, key=lambda group: served[group]), "train")
    for label in rarest_first:
        # With two groups the second serves the emptier part, so that neither stays empty.
        for part in sorted(("test", "validation"), key=lambda part: sum(filled[part].values())):
            free = free_groups(label)
            if free and not filled[part][label]:
                assign(min(free, key=lambda group: cost(group, part)), part)
    rest = sorted((group for group in order if group not in assigned), key=lambda group: -sum(counts[group].values()))
    for group in rest:
        assign(group, min(PARTS, key=lambda part: cost(group, part)))
    return assigned


def _warn_of_groups(found: list[Found], rule: str) -> list[str]:
    """Warn where the rule for groups leaves recordings to themselves; refuse one that was asked for and never fits."""
    alone = sum(1 for item in found if not item.told)
    if rule == "file" or not alone:
        return []
    if alone < len(found):
        return [f"{alone} of {len(found)} recordings do not fit data.group_by: {rule}, and are a group each"]
    if rule != "auto":
        raise DataError(
            f"data.group_by: {rule} fits no recording, such as {found[0].relative}: correct it, or use auto"
        )
    return [
        "no baby or source can be told from the file names, so each recording is a group by itself, and one baby "
        "may be on both sides of the split: say with data.group_by what belongs together"
    ]


def _warn_of_labels(parts: Mapping[str, list[Clip]]) -> list[str]:
    warnings = []
    groups: dict[str, set[str]] = defaultdict(set)
    for clip in (clip for part in parts.values() for clip in part):
        groups[clip.label].add(clip.group)
    for label in sorted(groups):
        missing = [part for part in PARTS if not any(clip.label == label for clip in parts[part])]
        if missing:
            count = len(groups[label])
            warnings.append(
                f"label {label} is missing from {' and '.join(missing)}: its clips come from {count} "
                f"group{'s' if count > 1 else ''}"
            )
    return warnings


def _write(result: PrepareResult, roots: Sequence[Path], output: Path, config: Config) -> None:
    for part in PARTS:
        write_manifest(output / f"{part}.csv", result.parts[part])
    rejected = [
        # A name that is no UTF-8 is written with its odd bytes escaped.
        {"path": stored_path(path, output).encode("utf-8", "backslashreplace").decode(), "reason": reason}
        for path, reason in sorted(result.rejected.items())
    ]
    write_rows(output / "rejected.csv", ("path", "reason"), rejected)
    settings = {key: value for key, value in flatten(config).items() if key.startswith("data.")}
    write_json(
        output / "prepare.json",
        {
            "crycli_version": __version__,
            "roots": [str(root) for root in roots],
            "settings": settings,
            "parts": {part: summarise(result.parts[part]) for part in PARTS},
            "rejected": len(rejected),
            "warnings": result.warnings,
        },
    )


def summarise(clips: Iterable[Clip]) -> dict[str, Any]:
    """Clips, groups and minutes, in all and by label."""
    clips = list(clips)
    by_label = {
        label: [clip for clip in clips if clip.label == label] for label in sorted({clip.label for clip in clips})
    }
    return {**_totals(clips), "labels": {label: _totals(some) for label, some in by_label.items()}}


def _totals(clips: list[Clip]) -> dict[str, Any]:
    return {
        "clips": len(clips),
        "groups": len({clip.group for clip in clips}),
        "minutes": round(sum(clip.duration or 0.0 for clip in clips) / 60, 3),
    }
