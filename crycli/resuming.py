"""What a broken-off run goes on from: whole checkpoints, and the settings and clips that it was begun with."""

from __future__ import annotations

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from crycli.checkpoint import PLAN_FILE, hash_weights, locate_backbone, read_json
from crycli.config import Config, flatten, load_config
from crycli.dataset import PreparedData
from crycli.errors import CheckpointError, ConfigError, DataError
from crycli.manifest import read_table, write_rows
from crycli.outputs import write_json

RESUMABLE_CHANGES = frozenset({"train.keep_checkpoints", "train.checkpoint_minutes"})
"""Settings of the sections below that do not change what is learnt."""

LEARNT_FROM = frozenset({"data", "model", "augment", "train"})

CLIPS_FILE = "clips.csv"
CLIP_COLUMNS = ("part", "path", "start", "end", "label", "digest")

BACKBONE_FILE = "backbone.json"
"""The SHA-256 of the weights that a run started from: those of mini may be others in another version of crycli."""

STUDY_FILE = "search.db"
"""Of a search."""

RUN_FILES = ("model", "checkpoints", "logs", "config.yaml", "metrics.json", "history.csv", "curves.png")

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")

logger = logging.getLogger(__name__)


def training_files(output: Path) -> list[str]:
    """The names of all that `crycli train` may have left in a folder: a run, a cross-validation or a search.

    What tells the two latter goes first, but for the predictions of a cross-validation, which nothing else tells from
    other people's: what is left of an interrupted replacement is then nothing to resume.
    """
    runs = [path.name for pattern in ("fold-*", "trial-*") for path in output.glob(pattern)]
    names = [PLAN_FILE, STUDY_FILE, f"{STUDY_FILE}-journal", *RUN_FILES, *runs]
    return ["predictions.csv", *names] if (output / PLAN_FILE).is_file() else names


def refuse_other_kind(output: Path) -> None:
    """Raise `DataError` where a single run is to be resumed and the folder holds a cross-validation or a search."""
    for file, kind, flag in ((PLAN_FILE, "a cross-validation", "--folds"), (STUDY_FILE, "a search", "--search")):
        if (output / file).is_file():
            raise DataError(f"{output} is {kind}: give {flag} with its number, too, to resume it")


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; None where there is none. Damaged ones, as a kill leaves them, are removed.

    Raises:
        CheckpointError: the best epoch so far, which the checkpoint refers to, is not there any more.
    """
    named = [(CHECKPOINT_NAME.fullmatch(path.name), path) for path in folder.glob("checkpoint-*")]
    by_step = sorted(((int(name[1]), path) for name, path in named if name), reverse=True)
    for _, checkpoint in by_step:
        if _is_whole(checkpoint):
            _point_to_best(checkpoint)
            return checkpoint
        logger.warning("%s is damaged or was not written to its end: taking the one before", checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether all that a resumed run needs is there and not cut short."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # written last
        with safe_open(checkpoint / "model.safetensors", framework="pt"):  # checks the length
            pass
    except (OSError, ValueError, SafetensorError):
        return False
    # torch.save writes zip archives, whose directory stands at their end. Each process has its random state.
    random_states = list(checkpoint.glob("rng_state*.pth")) or [checkpoint / "rng_state.pth"]
    zipped = [checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *random_states]
    return "global_step" in state and all(map(zipfile.is_zipfile, zipped))


def _point_to_best(checkpoint: Path) -> None:
    """Let a checkpoint's state name the best epoch where it lies now: the Trainer keeps the path as once typed.

    Where that path does not exist, as after a move, the Trainer would keep the last epoch's weights instead.
    """
    file = checkpoint / "trainer_state.json"
    state = read_json(file)
    if state["best_global_step"] is None:  # written within the first epoch
        return
    best = checkpoint.with_name(f"checkpoint-{state['best_global_step']}")
    if not best.is_dir():
        raise CheckpointError(f"{best}, the best epoch so far, is gone: start anew with --force")
    write_json(file, {**state, "best_model_checkpoint": str(best)})


def refuse_other_settings(output: Path, config: Config) -> None:
    """Raise where a run that is to be resumed was begun with other settings, or is no run.

    Raises:
        ConfigError: the settings differ; the message shows how.
        DataError: there is something else in the folder.
    """
    file = output / "config.yaml"
    if not file.is_file():
        if output.is_dir() and any(output.iterdir()):
            raise DataError(f"{output} is not a run of `crycli train`: nothing to resume there")
        return
    before, now = flatten(load_config(file)), flatten(config)
    changed = [
        f"{key} was {before[key]} and is now {now[key]}"
        for key in now
        if before[key] != now[key] and key not in RESUMABLE_CHANGES and key.partition(".")[0] in LEARNT_FROM
    ]
    if changed:
        raise ConfigError(f"cannot resume {output}: {'; '.join(changed)}: resume with the same settings, or start anew")


def write_backbone(folder: Path, backbone: Path | None) -> None:
    """Write down which weights, those of `checkpoint.locate_backbone`, a run starts from."""
    write_json(folder / BACKBONE_FILE, hash_weights(backbone))


def refuse_other_backbone(folder: Path, config: Config) -> None:
    """Raise `ConfigError` where a run was begun with other weights than those that its backbone has now."""
    file = folder / BACKBONE_FILE
    if file.is_file() and read_json(file) != hash_weights(locate_backbone(config)):
        raise ConfigError(
            f"cannot resume {folder.parent}: the weights of {config.model.backbone} (model.backbone) are not those "
            f"that it was begun with: put them back, or start anew"
        )


def write_clips(folder: Path, prepared: PreparedData) -> None:
    """Write down which clips, in which order and with which sound, a run learns from."""
    write_rows(folder / CLIPS_FILE, CLIP_COLUMNS, _clips(prepared))


def refuse_other_clips(folder: Path, prepared: PreparedData) -> None:
    """Raise where a run was begun with other clips than those that are there now.

    Raises:
        DataError: they differ; the message shows how.
    """
    file = folder / CLIPS_FILE
    if not file.is_file():
        return
    begun = [{str(name): str(cell) for name, cell in row.items()} for row in read_table(file).to_dict("records")]
    now = list(_clips(prepared))
    if begun == now:
        return
    differences = _differences({_name(row): row for row in begun}, {_name(row): row for row in now})
    raise DataError(
        f"cannot resume {folder.parent}: the clips are not those that it was begun with "
        f"({'; '.join(differences) or 'they stand in another order'}): put them back, or start anew"
    )


def _clips(prepared: PreparedData) -> Iterator[dict[str, str]]:
    for part, dataset in prepared.parts.items():
        columns = [dataset[name][:] for name in ("path", "start", "end", "labels", "digest")]
        for path, start, end, label, digest in zip(*columns, strict=True):
            times = {"start": _time(start), "end": _time(end)}
            names = {"part": part, "path": str(path), "label": prepared.labels[int(label)], "digest": str(digest)}
            yield {name: (names | times)[name] for name in CLIP_COLUMNS}


def _time(seconds: float | None) -> str:
    return "" if seconds is None or seconds != seconds else f"{seconds:.6f}"


def _name(row: dict[str, str]) -> tuple[str, ...]:
    return row["part"], row["path"], row["start"], row["end"]


def _differences(begun: dict[tuple[str, ...], dict[str, str]], now: dict[tuple[str, ...], dict[str, str]]) -> list[str]:
    found = {
        "new": [name for name in now if name not in begun],
        "gone": [name for name in begun if name not in now],
        "with another label": [name for name in now if name in begun and now[name]["label"] != begun[name]["label"]],
        "with another sound": [name for name in now if name in begun and now[name]["digest"] != begun[name]["digest"]],
    }
    return [
        f"{len(names):,} {what}, such as {names[0][1]} of {names[0][0]}.csv" for what, names in found.items() if names
    ]
