"""Folders and lists of recordings to labelled, grouped recordings, before any of them is decoded."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from crycli import audio
from crycli.config import COLUMN_RULE, DataConfig
from crycli.errors import DataError
from crycli.manifest import COLUMNS, PART_OF, path_column, read_table, read_times, resolve_path
from crycli.naming import Named, by_known_name, naming_rule, normal
from crycli.outputs import settle
from crycli.progress import OnStep, Step, silent

BLANKS = " \t"
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
        found: the recordings, root by root.
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
    label, equals, folder = str(text).partition("=")
    labelled = isinstance(text, str) and bool(equals) and not Path(text).exists()
    root = Root(Path(folder), label) if labelled else Root(Path(text))
    if labelled and not (label and folder):
        raise DataError(f"{text!r} lacks the {'folder' if label else 'label'}: write it as LABEL=FOLDER")
    if not str(text) or not root.path.exists():
        raise DataError(f"no such file or folder: {str(root.path) if str(text) else repr(text)}")
    if not root.path.is_dir() and not root.is_table:
        raise DataError(f"{root.path} is not a folder, and no CSV (.csv) that lists recordings")
    return replace(root, path=Path(os.path.abspath(root.path)))


def scan(roots: Sequence[Root], data: DataConfig, on_step: OnStep = silent) -> Scan:
    """The recordings below the roots with their labels and groups.

    One that is reached twice, by several roots, links or rows, is taken once: as it is labelled first.

    Raises:
        DataError: a root holds no recordings, a rule fits nothing, or nothing bears a label.
    """
    for name, rule in (("label_by", data.label_by), ("group_by", data.group_by)):
        if rule.startswith(COLUMN_RULE) and not any(root.is_table for root in roots):
            raise DataError(f"data.{name}: {rule} needs a CSV as ROOT, and there are only folders")
    found: dict[tuple[str, float | None, float | None], Found] = {}
    contradictions: list[tuple[Found, Found]] = []
    steps = 0
    for source in _sources(roots):
        before, fresh = steps, 0
        for item in (_read_table if source.root.is_table else _read_folder)(source, data):
            key = (identity(item.path), item.start, item.end)
            first = found.get(key)
            if first is None or (first.problem and not item.problem):
                found[key] = item
                fresh += 1
            elif first.label != item.label and not item.problem:
                contradictions.append((first, item))
                if os.path.islink(first.path) and not os.path.islink(item.path):
                    found[key] = item  # a recording belongs where it lies
            steps += 1
            on_step(Step("scan", steps, None, "recordings"))
        if steps == before:
            raise audio.no_recordings(source.root.path)
        if not fresh:
            logger.warning("every recording below %s was found below another root already", source.root.path)
    items = list(found.values())
    _refuse_labels(items, roots)
    warnings = []
    if contradictions:
        first, second = contradictions[0]
        warnings.append(
            f"recordings that are reached twice, with another label each time: {len(contradictions)}, such as "
            f"{first.path} ({first.label}, then {second.label}): each is used once"
        )
    alike = Counter(label.casefold().strip() for label in {item.label for item in items})
    for folded in sorted(folded for folded, count in alike.items() if count > 1):
        names = sorted({item.label for item in items if item.label.casefold().strip() == folded})
        warnings.append(
            f"labels that differ in case or blanks alone: {', '.join(map(repr, names))} (see data.label_map)"
        )
    return _map_labels(items, data.label_map, warnings)


def identity(path: Path) -> str:
    """One name for a recording, however it is reached."""
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(folder), name)


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


@dataclass(frozen=True)
class _Source:
    """A root among others.

    Attributes:
        root: what is read.
        corpus: the name of its corpus.
        prefix: a name that no other root has, for groups that are paths; empty where there is one root alone.
    """

    root: Root
    corpus: str
    prefix: str


def _sources(roots: Sequence[Root]) -> list[_Source]:
    """The corpus of a root is its folder, or the folder around it where the root itself is a list or a label."""
    several = len(roots) > 1
    around = [root.is_table or bool(root.label) or (several and _is_flat(root.path)) for root in roots]
    corpora = _unique_names([root.path.parent if up else root.path for root, up in zip(roots, around, strict=True)])
    prefixes = _unique_names([root.path for root in roots]) if several else [""]
    return [_Source(*source) for source in zip(roots, corpora, prefixes, strict=True)]


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as tell it from the other paths."""
    names = []
    for path in paths:
        others = set(paths) - {path}
        count = 1
        while count < len(path.parts) and any(other.parts[-count:] == path.parts[-count:] for other in others):
            count += 1
        names.append("/".join(path.parts[-count:]))
    return names


def _is_flat(folder: Path) -> bool:
    """Whether a folder has no subfolders, nor names that tell labels, so that it is a label itself."""
    visible = [entry for entry in os.scandir(folder) if not entry.name.startswith((".", "__"))]
    return not any(entry.is_dir() or by_known_name(entry.name).group for entry in visible)


def _read_folder(source: _Source, data: DataConfig) -> Iterator[Found]:
    root = source.root
    paths = list(audio.find_recordings(root.path))
    above = os.path.join(root.path, "")
    relatives = [str(path)[len(above) :].replace(os.sep, "/") for path in paths]
    folders = [relative.split("/")[:-1] for relative in relatives]
    depth = _label_depth(folders)
    # A corpus that was downloaded as one folder, below a root that is one level too high, is flat as well.
    flat = {tuple(folder) for folder in folders} if data.label_by != "folder" else set()
    labelling, grouping = naming_rule(data.label_by), naming_rule(data.group_by)
    by_folders = data.label_by in ("auto", "folder") or data.label_by.startswith(COLUMN_RULE)
    for path, relative, folder in zip(paths, relatives, folders, strict=True):
        if root.label:
            named = Named(root.label)
        elif by_folders:
            names_too = data.label_by != "folder" and (not folder or len(flat) == 1)
            named = _by_folders(relative, folder, depth, root.path.name if source.prefix else "", names_too=names_too)
        else:
            named = labelling(relative)
        yield _describe(path, relative, named, grouping(relative), data.group_by, source)


def _label_depth(folders: list[list[str]]) -> int:
    """The level of the folders that are labels: the first where the recordings part, below folders all share.

    -1 where the recordings lie in the root itself; what lies beside folders does not count.
    """
    inside = [folder for folder in folders if folder]
    if not inside:
        return -1
    shared = 0
    shortest = min(len(folder) for folder in inside)
    while shared < shortest and len({folder[shared] for folder in inside}) == 1:
        shared += 1
    if shared == shortest and all(len(folder) == shared for folder in inside):
        return shared - 1  # one folder alone: it is the label
    return shared


def _by_folders(relative: str, folders: Sequence[str], depth: int, flat_label: str, *, names_too: bool) -> Named:
    """The label by the folders around a recording; in a flat folder by its name, or `flat_label` for all."""
    if names_too:
        known = by_known_name(relative)
        if known.label or (known.group and "reason" in known.problem):
            return known
    if 0 <= depth < len(folders):
        return Named(folders[depth])
    if depth < 0 and flat_label:
        return Named(flat_label)
    return Named(problem="no label: it lies beside the label folders")


def _read_table(source: _Source, data: DataConfig) -> Iterator[Found]:
    """The rows of a CSV; its other columns are kept, but for what is measured anew."""
    root = source.root
    settle(root.path.parent)
    frame = read_table(root.path)
    label_column, group_column = column_of(data.label_by, "label"), column_of(data.group_by, "group")
    by_path = data.label_by != "auto" and not data.label_by.startswith(COLUMN_RULE)
    wanted = [*([] if by_path or root.label else [label_column]), *([] if group_column == "group" else [group_column])]
    paths = path_column(root.path, frame, wanted)
    if not len(frame):
        raise DataError(f"{root.path} lists no recordings")
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
        elif data.label_by == "folder":
            folder = relative.rpartition("/")[0].rpartition("/")[2]
            named = Named(folder, problem="" if folder else "no label: the list has no folder for it")
        elif by_path:
            named = labelling(relative)
        else:
            label = cells[label_column].strip(BLANKS)
            named = Named(label, problem="" if label else "no label: its cell is empty")
        group = cells.get(group_column, "").strip(BLANKS) if listed else ""
        grouped = Named(group=group) if group else grouping(relative)
        path = Path(os.path.abspath(resolve_path(relative, root.path.parent)))
        start, end, fold = read_times(cells, where)
        spent = (paths, label_column, group_column)
        extra = {
            # pandas writes its row numbers under an empty name, and reads it as Unnamed.
            name: cell
            for name, cell in cells.items()
            if cell and name not in spent and not name.startswith("Unnamed:")
        }
        found = _describe(path, relative, named, grouped, data.group_by, source, extra)
        corpus = cells.get("corpus") or found.corpus
        yield replace(found, start=start, end=end, fold=fold or found.fold, corpus=corpus)


def column_of(rule: str, default: str) -> str:
    """The column that a rule such as column:NAME means; the default where it means none."""
    return rule.removeprefix(COLUMN_RULE) if rule.startswith(COLUMN_RULE) else default


def _describe(
    path: Path,
    relative: str,
    named: Named,
    grouped: Named,
    group_by: str,
    source: _Source,
    cells: Mapping[str, str] | None = None,
) -> Found:
    """Put together what the rules for labels and for groups tell, and the other cells of a CSV."""
    known = by_known_name(relative)
    # A group named by the expression for labels counts where no rule of its own is asked for.
    group = (named.group if group_by == "auto" else "") or grouped.group
    told = bool(group) and group != relative
    group = group or relative
    if source.prefix and (not told or group_by == "folder"):
        group = f"{source.prefix}/{group}"  # the same path below two roots is two recordings
    problem = named.problem
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        problem = "its name is not valid UTF-8: rename it"
    extra = {**known.extra, **named.extra, **grouped.extra, **(cells or {})}
    return Found(
        path,
        relative,
        normal(named.label),
        normal(group),
        named.corpus or grouped.corpus or source.corpus,
        problem,
        told,
        fold=named.fold or grouped.fold or known.fold,
        extra={name: text for name, text in extra.items() if name not in COLUMNS},
    )


def _refuse_labels(found: Sequence[Found], roots: Sequence[Root]) -> None:
    """Raise where nothing bears a label, or the labels are the names of parts."""
    labels = {item.label for item in found} - {""}
    if not labels:
        names = ", ".join(str(root.path) for root in roots)
        raise DataError(
            f"no labels in {names}: put the recordings of each label in a subfolder of that name (or see data.label_by)"
        )
    if {label.casefold() for label in labels} <= PART_OF.keys():
        examples = [path for root in roots for label in sorted(labels) if (path := root.path / label).is_dir()]
        way_out = (
            f"give each as a root of its own, such as {examples[0]}"
            if examples
            else "give folders with a subfolder for each label, or see data.label_by"
        )
        raise DataError(f"the folders {', '.join(sorted(labels))} are parts and not labels: {way_out}")


def _map_labels(found: Sequence[Found], label_map: Mapping[str, str | None], warnings: list[str]) -> Scan:
    """Rename, merge and drop labels."""
    unknown = sorted(set(label_map) - {item.label for item in found} - {OTHERS})
    if unknown:
        warnings = [*warnings, f"data.label_map names what no recording is labelled: {', '.join(unknown)}"]
    kept = []
    for item in found:
        label = label_map.get(item.label, label_map.get(OTHERS, item.label)) if item.label else ""
        if label is not None:
            kept.append(replace(item, label=label))
    if not any(item.label for item in kept):
        raise DataError("data.label_map drops every recording that has a label")
    return Scan(kept, len(found) - len(kept), warnings)
