"""The dataset checks on CSVs from elsewhere: whose babies, sources and sounds are on both sides of a split?"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crycli import audio, checks
from crycli.checks import Leak
from crycli.config import Config
from crycli.datareport import build_report, leak_entries, render_report, reproduce
from crycli.duplicates import join_groups
from crycli.errors import DataError
from crycli.manifest import PART_OF, PATH_COLUMNS, Clip, path_column, read_table, read_times, resolve_path
from crycli.naming import naming_rule, normal
from crycli.outputs import claim_folder, json_text, refuse_existing, settle, write_together
from crycli.progress import OnStep, silent
from crycli.scan import Found, column_of
from crycli.survey import NO_LABEL, Rejected, Survey, survey

PART_COLUMNS = ("split", "part", "subset", "set")


@dataclass(frozen=True)
class CheckResult:
    """What `check_dataset` found.

    Attributes:
        parts: the clips of each part, in groups that name and sound tell.
        sizes: how many clips each part, and each fold where there are folds, has.
        leaks: the parts that share groups; empty for a clean split.
        leaked: for each part that is held out, how many of its clips leak: in all, by name, and by sound.
        unreadable: recordings that could not be heard, and are judged by their names alone.
        warnings: what else a careful reader should know, a line each.
        report: all of it, as in check.json.
    """

    parts: dict[str, list[Clip]]
    sizes: dict[str, int]
    leaks: list[Leak]
    leaked: dict[str, tuple[int, int, int]]
    unreadable: list[Rejected]
    warnings: list[str]
    report: dict[str, Any]


@dataclass(frozen=True)
class _Row:
    part: str
    fold: str  # empty where there is none, as often for the clips of a test part
    found: Found
    named_group: str  # what the recording's path tells, whatever the CSV says


def check_dataset(
    data: Sequence[Path],
    config: Config | None = None,
    *,
    output: Path | None = None,
    force: bool = False,
    on_step: OnStep = silent,
) -> CheckResult:
    """Check a split that somebody has made. Groups are those of the CSVs, of the paths, and of the sound, all together.

    Args:
        data: folders with CSVs such as train.csv and test.csv, or CSVs; one CSV alone needs a column split or fold.
        config: `data.label_by`, `data.group_by`, `checks`, `workers` and `cache` are used; the defaults where None.
        output: a folder for check.json and check.html; None for none.
        force: replace the files of an earlier check.
        on_step: told of the progress.

    Raises:
        DataError: there are no such CSVs, a column is missing, or all is one part.
        OutputError: the output exists and `force` is false, or it cannot be written.
    """
    config = config or Config()
    if output is not None:
        refuse_existing(output, force=force)
    rows = _read_rows(data, config)
    settings = config.model_copy(
        update={
            "checks": config.checks.model_copy(update={"reject": []}),
            "data": config.data.model_copy(update={"window": None, "hop": None, "min_seconds": audio.ROUNDING_SECONDS}),
        }
    )
    found = survey([row.found for row in rows], settings, together=_named_alike(rows), on_step=on_step)
    clips = _clips(found, found.groups)
    parts = _parts(rows, clips)
    part_of = [row.part for row in rows]
    report = build_report(found, parts, [str(path) for path in data], settings, output or Path.cwd(), part_of)
    unreadable = len(found.rejected)
    if unreadable:
        report["warnings"].insert(0, f"{unreadable} recordings could not be read: they are judged by their names alone")
    report |= {"check": True, "command": reproduce([str(path) for path in data], config, check=True)}
    leaks, leaked = checks.leakage(parts), _leaked(rows, found)
    sizes = {part: len(some) for part, some in parts.items()}
    if len({row.fold for row in rows if row.fold}) > 1:
        by_fold = [replace(row, part=f"fold {row.fold}" if row.fold else "") for row in rows]
        leaks += checks.leakage(_parts(by_fold, clips))
        leaked |= {part: counts for part, counts in _leaked(by_fold, found).items() if counts[0]}
        sizes |= Counter(row.part for row in by_fold if row.part)
        report["leakage"] = leak_entries(leaks)
    result = CheckResult(parts, sizes, leaks, leaked, found.rejected, report["warnings"], report)
    if output is not None:
        claim_folder(output, force=force)
        page = render_report(result.report, found, parts, settings)
        write_together(output, {"check.json": json_text(result.report), "check.html": page})
    return result


def _read_rows(data: Sequence[Path], config: Config) -> list[_Row]:
    """The rows of all CSVs: the parts are those of their names, or else of a column."""
    tables = [file for path in data for file in _find_tables(path)]
    # Where all are called metadata.csv, their folders are called like the parts.
    alike = len(tables) > 1 and len({file.stem for file in tables}) == 1
    names = [file.parent.name if alike else file.stem for file in tables]
    known = [PART_OF.get(name.lower(), name) for name in names]
    by_column = len(set(known)) < 2
    rows = [
        row
        for file, part in zip(tables, known, strict=True)
        for row in _read_table(file, "" if by_column else part, config)
    ]
    parts = {row.part for row in rows}
    if len(parts) < 2:
        raise DataError(
            f"{', '.join(map(str, data))}: all in one part ({', '.join(parts) or 'without a name'}): give CSVs of two "
            f"parts or more, or one with a column {', '.join(PART_COLUMNS)} or fold"
        )
    return rows


def _find_tables(path: Path) -> list[Path]:
    """The CSVs that are meant: in a folder those named like parts, otherwise all that list recordings."""
    if not path.exists():
        raise DataError(f"no such file or folder: {path}")
    if not path.is_dir():
        return [path]
    settle(path)
    files = sorted(path.glob("[!.]*.csv")) or sorted(path.glob("*/[!.]*.csv"))
    named = [file for file in files if file.stem.lower() in PART_OF]
    chosen = named or [file for file in files if set(PATH_COLUMNS) & set(read_table(file).columns)]
    if not chosen:
        raise DataError(f"no CSV in {path} lists recordings")
    return chosen


def _read_table(file: Path, part: str, config: Config) -> Iterable[_Row]:
    """The rows of a CSV; where its part is not known, a column tells it. Labels may be missing: leaks need none."""
    frame = read_table(file)
    label_rule, rule = config.data.label_by, config.data.group_by
    label_column = column_of(label_rule, "label")
    group_column = column_of(rule, "group")
    wanted = [column for column, default in ((label_column, "label"), (group_column, "group")) if column != default]
    paths = path_column(file, frame, wanted)
    column = None if part else next((name for name in (*PART_COLUMNS, "fold") if name in frame.columns), None)
    grouping = naming_rule(rule)
    for line, record in enumerate(frame.to_dict("records"), start=2):
        row = {str(name): str(cell).strip() for name, cell in record.items()}
        where = f"{file}, row {line}"
        for name in (paths, *([column] if column else [])):
            if not row[name]:
                raise DataError(f"{where}: the {name} is empty")
        start, end, _ = read_times({**row, "fold": ""}, where)  # a fold of theirs may be any name
        path = Path(os.path.abspath(_locate(row[paths], file.parent)))
        # An expression may be anchored to what the CSV says; a folder is told apart by its whole path.
        named_group = normal(grouping(path.as_posix() if rule in ("file", "folder") else row[paths]).group)
        found = Found(
            path=path,
            relative=row[paths],
            label=normal(row.get(label_column) or NO_LABEL),
            group=normal(row.get(group_column, "")) or named_group or path.as_posix(),
            corpus=row.get("corpus", ""),
            start=start,
            end=end,
        )
        told = row[column] if column else part
        name = f"fold {told}" if column == "fold" else PART_OF.get(told.lower(), told)
        yield _Row(name, "" if column == "fold" else row.get("fold", ""), found, named_group)


def _locate(stored: str, folder: Path) -> Path:
    """A recording that a CSV names: relative to the CSV, or to the folder in which the command runs."""
    path = resolve_path(stored, folder)
    return path if path.exists() or not Path(stored).exists() else Path(stored)


def _named_alike(rows: Sequence[_Row]) -> list[tuple[int, int]]:
    """Pairs of rows whose paths tell the same group."""
    first_of: dict[str, int] = {}
    return [
        (first_of.setdefault(row.named_group, number), number) for number, row in enumerate(rows) if row.named_group
    ]


def _clips(found: Survey, groups: Sequence[str]) -> list[Clip]:
    """A clip for each row, also where the recording could not be read."""
    measured = dict(zip(found.numbers, found.clips, strict=True))
    clips = []
    for number, item in enumerate(found.recordings):
        bare = Clip(item.path, item.label, groups[number], item.corpus, item.start, item.end)
        clips.append(replace(measured.get(number, bare), group=groups[number]))
    return clips


def _parts(rows: Sequence[_Row], clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """The clips by part; train, validation and test come in this order. Rows may have no fold, which is no part."""
    parts: dict[str, list[Clip]] = defaultdict(list)
    for row, clip in zip(rows, clips, strict=True):
        if row.part:
            parts[row.part].append(clip)
    order = list(dict.fromkeys(PART_OF.values()))
    return dict(sorted(parts.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 9, item[0])))


def _leaked(rows: Sequence[_Row], found: Survey) -> dict[str, tuple[int, int, int]]:
    """How many clips of each part leak: by all that is known, by name alone, and by sound alone."""
    alone = [str(number) for number in range(len(rows))]
    by_sound = join_groups(alone, [(pair.first, pair.second) for pair in found.duplicates])
    counts = [
        checks.leaked_clips(_parts(rows, _clips(found, groups)))
        for groups in (found.groups, found.named_groups, by_sound)
    ]
    return {part: (counts[0][part], counts[1].get(part, 0), counts[2].get(part, 0)) for part in counts[0]}
