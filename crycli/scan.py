"""Folders and lists of recordings to labelled, grouped recordings, before any of them is decoded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from crycli import audio
from crycli.config import COLUMN_RULE, DataConfig
from crycli.errors import DataError
from crycli.manifest import COLUMNS, path_column, read_table, read_times, resolve_path
from crycli.naming import Named, by_known_name, naming_rule
from crycli.progress import OnStep, Step, silent

PART_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"})
OTHERS = "*"  # in data.label_map: every label that it does not name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Root:
    """A folder of recordings, or a CSV that lists them; with a label where all of it bears that one."""

    path: Path
    label: str = ""

    @property
    def is_table(self) -> bool:
        """Whether it is a CSV."""
        return self.path.suffix.lower() == ".csv" and not self.path.is_dir()


@dataclass(frozen=True, slots=True)
class Found:
    """A recording as the scan finds it.

    Attributes:
        path: where it is.
        relative: its path below its root, with "/".
        label: empty where there is none.
        group: what must stay on one side of the split.
        corpus: the collection it comes from.
        problem: why there is no label.
        told: whether a rule found the group, so that the recording is not one by itself.
        start: seconds into the recording, where a CSV gives them.
        end: seconds into the recording.
        fold: the official one of the corpus.
        extra: what else is known of it.
    """

    path: Path
    relative: str
    label: str
    group: str
    corpus: str
    problem: str = ""
    told: bool = True
    start: float | None = None
    end: float | None = None
    fold: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Scan:
    """All that the scan found.

    Attributes:
        found: the recordings, sorted by path within each root.
        dropped: recordings whose label `data.label_map` drops.
        warnings: what does not fit, a line each.
    """

    found: list[Found]
    dropped: int = 0
    warnings: list[str] = field(default_factory=list)


def parse_root(text: str | Path) -> Root:
    """A folder, a CSV, or LABEL=FOLDER; its path becomes absolute.

    Raises:
        DataError: it does not exist, or is another kind of file.
    """
    root = Root(Path(text))
    if isinstance(text, str) and "=" in text and not root.path.exists():
        label, _, folder = text.partition("=")
        root = Root(Path(folder), label)
        if not label:
            raise DataError(f"{text} has no label before the '=': write it as LABEL=FOLDER")
    if not root.path.exists():
        raise DataError(f"no folder {root.path}")
    if not root.path.is_dir() and not root.is_table:
        raise DataError(f"{root.path} is not a folder, and no CSV (.csv) that lists recordings")
    return replace(root, path=Path(os.path.abspath(root.path)))


def scan(roots: Sequence[Root], data: DataConfig, on_step: OnStep = silent) -> Scan:
    """The recordings below the roots with their labels and groups.

    Raises:
        DataError: a root holds no recordings, a rule fits nothing, or nothing bears a label.
    """
    for name, rule in (("label_by", data.label_by), ("group_by", data.group_by)):
        if rule.startswith(COLUMN_RULE) and not any(root.is_table for root in roots):
            raise DataError(f"data.{name}: {rule} needs a CSV as ROOT, and there are only folders")
    found: list[Found] = []
    seen: set[tuple[str, float | None, float | None]] = set()
    corpora = _corpus_names(roots)
    for root, corpus in zip(roots, corpora, strict=True):
        read = _read_table if root.is_table else _read_folder
        fresh = []
        below = 0
        for below, item in enumerate(read(root, corpus, data, several_roots=len(roots) > 1), start=1):
            key = (_identity(item.path), item.start, item.end)
            if key not in seen:
                seen.add(key)
                fresh.append(item)
            on_step(Step("scan", len(found) + below, None, "recordings"))
        if not below:
            raise audio.no_recordings(root.path)
        if not fresh:
            logger.warning("every recording below %s was found below another root already", root.path)
        found += fresh
    _refuse_labels(found, roots)
    return _map_labels(found, data.label_map)


def _identity(path: Path) -> str:
    """One name for a recording that is reached by several roots or links."""
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(folder), name)


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _corpus_names(roots: Sequence[Root]) -> list[str]:
    """A name for each root's corpus: its folder's, or the folder's around it where the root itself is a label."""
    folders = []
    for root in roots:
        path = Path(os.path.realpath(root.path))
        folders.append(path.parent if root.is_table or root.label or _is_label(path, len(roots)) else path)
    names = {folder: folder.name for folder in folders}
    for folder, name in list(names.items()):
        if list(names.values()).count(name) > 1:
            names[folder] = "/".join(folder.parts[-2:])
    return [names[folder] for folder in folders]


def _is_label(root: Path, count: int) -> bool:
    """Whether a root of several has no subfolders, so that it is a label by itself."""
    return count > 1 and not any(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(root))


def _read_folder(root: Root, corpus: str, data: DataConfig, *, several_roots: bool) -> Iterator[Found]:
    paths = list(audio.find_recordings(root.path))
    if not paths:
        return
    relatives = [path.relative_to(root.path) for path in paths]
    depth = _label_depth([relative.parts[:-1] for relative in relatives])
    labelling = naming_rule(data.label_by)
    grouping = naming_rule(data.group_by)
    for path, relative in zip(paths, relatives, strict=True):
        posix = relative.as_posix()
        if root.label:
            named = Named(root.label)
        elif data.label_by in ("auto", "folder") or data.label_by.startswith(COLUMN_RULE):
            named = _by_folders(root.path, relative, depth, data.label_by, several_roots=several_roots)
        else:
            named = labelling(posix)
        prefix = root.path.name if several_roots else ""
        yield _describe(path, posix, named, grouping(posix), data.group_by, corpus, prefix)


def _describe(
    path: Path,
    relative: str,
    named: Named,
    grouped: Named,
    group_by: str,
    corpus: str,
    prefix: str,
    cells: Mapping[str, str] | None = None,
) -> Found:
    """Put together what the rules for labels and for groups tell, and the other cells of a CSV."""
    known = by_known_name(relative)
    # A group named by the expression for labels counts where no rule of its own is asked for.
    group = (named.group if group_by == "auto" else "") or grouped.group
    told = bool(group) and group != relative
    group = group or relative
    if prefix and (not told or group_by == "folder"):
        group = f"{prefix}/{group}"  # the same path below two roots is two recordings
    problem = named.problem
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        problem = "its name is not valid UTF-8: rename it"
    return Found(
        path,
        relative,
        named.label,
        group,
        named.corpus or corpus,
        problem,
        told,
        fold=named.fold or known.fold,
        extra={
            name: text
            for name, text in {**known.extra, **named.extra, **grouped.extra, **(cells or {})}.items()
            if name not in COLUMNS
        },
    )


def _label_depth(folders: list[tuple[str, ...]]) -> int:
    """The level of the folders that are labels: the first where the recordings part, below folders all share."""
    shared = 0
    shortest = min(len(folder) for folder in folders)
    while shared < shortest and len({folder[shared] for folder in folders}) == 1:
        shared += 1
    if shared == shortest and all(len(folder) == shared for folder in folders):
        return shared - 1  # one folder alone: it is the label; -1 where the recordings lie in the root itself
    return shared


def _by_folders(root: Path, relative: Path, depth: int, label_by: str, *, several_roots: bool) -> Named:
    """The label by the folders around a recording; by its name where it lies in a flat folder and has one."""
    folders = relative.parts[:-1]
    if not folders and label_by != "folder":
        known = by_known_name(relative.name)
        if known.label or (known.group and "reason" in known.problem):
            return known
    if 0 <= depth < len(folders):
        return Named(folders[depth])
    if not folders and depth < 0 and several_roots:
        return Named(root.resolve().name)
    return Named(problem="no label: it lies beside the label folders")


def _read_table(root: Root, corpus: str, data: DataConfig, *, several_roots: bool) -> Iterator[Found]:
    """The rows of a CSV; its other columns are kept, but for what is measured anew."""
    frame = read_table(root.path)
    label_column = _column(data.label_by, "label")
    group_column = _column(data.group_by, "group")
    by_path = data.label_by != "auto" and not data.label_by.startswith(COLUMN_RULE)
    wanted = [*([] if by_path or root.label else [label_column]), *([] if group_column == "group" else [group_column])]
    paths = path_column(root.path, frame, wanted)
    labelling, grouping = naming_rule(data.label_by), naming_rule(data.group_by)
    listed = data.group_by == "auto" or data.group_by.startswith(COLUMN_RULE)
    for line, row in enumerate(frame.to_dict("records"), start=2):
        cells = {str(name): str(cell) for name, cell in row.items()}
        where = f"{root.path}, row {line}"
        relative = cells[paths]
        if not relative:
            raise DataError(f"{where}: the {paths} is empty")
        if root.label:
            named = Named(root.label)
        elif by_path:
            named = labelling(relative)
        else:
            label = cells[label_column]
            named = Named(label, problem="" if label else "no label: its cell is empty")
        group = cells.get(group_column, "") if listed else ""
        grouped = Named(group=group) if group else grouping(relative)
        path = Path(os.path.abspath(resolve_path(relative, root.path.parent)))
        prefix = root.path.parent.name if several_roots else ""
        start, end, fold = read_times(cells, where)
        extra = {name: cell for name, cell in cells.items() if name not in (paths, label_column, group_column)}
        found = _describe(path, relative, named, grouped, data.group_by, corpus, prefix, extra)
        yield replace(found, start=start, end=end, fold=fold or found.fold)


def _column(rule: str, default: str) -> str:
    return rule.removeprefix(COLUMN_RULE) if rule.startswith(COLUMN_RULE) else default


def _refuse_labels(found: Sequence[Found], roots: Sequence[Root]) -> None:
    """Raise where nothing bears a label, or the labels are the names of parts."""
    names = ", ".join(str(root.path) for root in roots)
    labels = {item.label for item in found} - {""}
    if not labels:
        raise DataError(
            f"no labels in {names}: put the recordings of each label in a subfolder of that name (or see data.label_by)"
        )
    if labels <= PART_NAMES:
        raise DataError(
            f"the subfolders are called {', '.join(sorted(labels))}, which are parts and not labels: give each as a "
            f"root of its own, such as {roots[0].path}/{min(labels)}"
        )


def _map_labels(found: list[Found], label_map: Mapping[str, str | None]) -> Scan:
    """Rename, merge and drop labels."""
    unknown = sorted(set(label_map) - {item.label for item in found} - {OTHERS})
    warnings = [f"data.label_map names what no recording is labelled: {', '.join(unknown)}"] if unknown else []
    kept = []
    for item in found:
        label = label_map.get(item.label, label_map.get(OTHERS, item.label)) if item.label else ""
        if label is not None:
            kept.append(replace(item, label=label))
    if not kept:
        raise DataError("data.label_map drops every recording")
    return Scan(kept, len(found) - len(kept), warnings)
