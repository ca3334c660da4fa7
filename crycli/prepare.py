"""Recordings to train, validation and test CSVs, with a report on what could fool whoever trains on them."""

from __future__ import annotations

import logging
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crycli.config import Config
from crycli.datareport import build_report, counted, readable, render_report
from crycli.errors import DataError, OutputError
from crycli.keeping import Place, read_places
from crycli.manifest import PARTS, Clip, manifest_text, rows_text
from crycli.outputs import claim_folder, json_text, refuse_existing, write_together
from crycli.progress import OnStep, silent
from crycli.scan import Found, identity, parse_root, scan
from crycli.splitting import assign_folds, split
from crycli.survey import Rejected, Survey, survey

OUR_FILES = (*(f"{part}.csv" for part in PARTS), "rejected.csv", "report.html")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare_dataset_csv` made.

    Attributes:
        parts: the clips of each part.
        rejected: recordings left out, with the reason.
        warnings: what a careful reader should know about the data, a line each.
        report: what prepare.json holds.
    """

    parts: dict[str, list[Clip]]
    rejected: list[Rejected]
    warnings: list[str]
    report: dict[str, Any] = field(default_factory=dict)


def prepare_dataset_csv(
    roots: Sequence[str | Path],
    output: Path,
    config: Config | None = None,
    *,
    keep: Path | None = None,
    force: bool = False,
    on_step: OnStep = silent,
) -> PrepareResult:
    """Scan recordings and write train.csv, validation.csv, test.csv, rejected.csv, prepare.json and report.html.

    The split is stratified by label and disjoint by group. The same recordings and seed give the same bytes. An
    interruption leaves the old files or the new ones, never some of each.

    Args:
        roots: folders with recordings, "LABEL=FOLDER", or CSVs with the columns path and label.
        output: the folder for the files.
        config: `data`, `checks`, `workers` and `cache` are used; the defaults where None.
        keep: the folder of an earlier split; its recordings stay in their parts and folds.
        force: replace the files of an earlier run.
        on_step: told of the progress.

    Raises:
        DataError: a root is missing or empty, labels are missing, or there is too little to split.
        OutputError: the output exists and `force` is false, or it cannot be written.
    """
    config = config or Config()
    refuse_existing(output, force=force)
    _refuse_foreign(output)
    kept = read_places(keep) if keep is not None else {}
    scanned = scan([parse_root(root) for root in roots], config.data, on_step)
    gone = len(set(kept) - {identity(item.path) for item in scanned.found})
    if kept and gone == len(kept):
        raise DataError(f"none of the recordings of {keep} is among these: there is no split to keep")
    warnings = [*scanned.warnings, *_warn_of_groups(scanned.found, config.data.group_by)]
    claim_folder(output, force=force)
    found = survey(scanned.found, config, kept=kept, on_step=on_step)
    if not found.clips:
        reasons = Counter(item.reason for item in found.rejected)
        reason = reasons.most_common(1)[0][0]
        example = next(item.path for item in found.rejected if item.reason == reason)
        raise DataError(f"none of the {len(scanned.found)} recordings can be used: {reason}, such as {example}")
    clips, fold_warnings = _with_folds(found, config, kept.values())
    parts = _split(found, clips, config)
    report = build_report(found, parts, [str(root) for root in roots], config, output)
    if gone:
        warnings.append(f"{counted(gone, 'recording')} in the split to keep, {keep}, and no longer among these")
    if keep is not None:
        report["command"] += f" --keep {shlex.quote(readable(keep))}"
    warnings += [*fold_warnings, *_warn_of_length(clips, config.data.max_seconds)]
    report["warnings"] = warnings = [*warnings, *report["warnings"]]
    report["dropped"] = scanned.dropped
    for warning in warnings:
        logger.warning("%s", warning)
    _write(output, parts, report, render_report(report, found, parts, config))
    return PrepareResult(parts, found.rejected, warnings, report)


def _refuse_foreign(output: Path) -> None:
    """Raise where the output holds CSVs that are not ours: --force replaces the files of an earlier run alone."""
    foreign = [name for name in OUR_FILES if (output / name).exists()]
    if foreign and not (output / "prepare.json").is_file():
        raise OutputError(f"{output / foreign[0]} was not written by `crycli prepare`: name another output")


def _split(found: Survey, clips: Sequence[Clip], config: Config) -> dict[str, list[Clip]]:
    """The clips by part, around those of an earlier split."""
    kept = {group: part for group, (part, _) in found.places.items()}
    try:
        return split(clips, config.data.validation_share, config.data.test_share, config.data.seed, kept)
    except DataError as error:
        if not found.duplicates:
            raise
        pair = found.duplicates[0]
        raise DataError(
            f"{error}. {counted(len(found.duplicates), 'pair')} of the same sound and in one group, such as "
            f"{found.recordings[pair.first].path} and {found.recordings[pair.second].path}: "
            f"data.join_overlaps=false joins copies alone"
        ) from None


def _warn_of_length(clips: Sequence[Clip], max_seconds: float) -> list[str]:
    long = sum(1 for clip in clips if (clip.duration or 0.0) > max_seconds)
    if not long:
        return []
    return [
        f"{counted(long, 'clip')} longer than data.max_seconds ({max_seconds:g} s): training takes a part of each, "
        f"another one in each epoch; --window cuts recordings into clips"
    ]


def _with_folds(found: Survey, config: Config, kept: Iterable[Place]) -> tuple[list[Clip], list[str]]:
    """The clips with their folds, where folds are wanted: those of an earlier split, official ones, and new ones."""
    folds = config.data.folds
    fixed = {group: fold for group, (_, fold) in found.places.items() if fold is not None}
    kept_folds = max((fold for _, fold in kept if fold is not None), default=folds)
    if kept_folds != folds:
        raise DataError(f"the split to keep has {kept_folds} folds: give --folds {kept_folds}")
    if folds is None:
        return found.clips, []
    warnings = []
    official: dict[str, Counter[int]] = defaultdict(Counter)
    for clip in found.clips:
        if clip.fold is not None:
            official[clip.group][clip.fold] += 1
    highest = max((fold for counts in official.values() for fold in counts), default=folds)
    if highest != folds:
        warnings.append(f"the {highest} official folds are not honoured: that takes --folds {highest}")
        official = {}
    torn = [group for group, counts in official.items() if len(counts) > 1]
    if torn:
        warnings.append(
            f"{counted(len(torn), 'group')} in several official folds, such as {torn[0]}: put where most of it is"
        )
    honoured = {group: min(counts, key=lambda fold: (-counts[fold], fold)) for group, counts in official.items()}
    bare = [replace(clip, fold=None) for clip in found.clips]
    return assign_folds(bare, folds, config.data.seed, honoured | fixed), warnings


def _warn_of_groups(found: Sequence[Found], rule: str) -> list[str]:
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


def _write(output: Path, parts: Mapping[str, Sequence[Clip]], report: dict[str, Any], page: str) -> None:
    files = {f"{part}.csv": manifest_text(clips, output) for part, clips in parts.items()}
    rejected = [{**row, "start": "" if row["start"] is None else f"{row['start']:.3f}"} for row in report["rejected"]]
    files["rejected.csv"] = rows_text(("path", "start", "reason"), rejected)
    files["prepare.json"] = json_text(report)
    files["report.html"] = page
    write_together(output, files)
