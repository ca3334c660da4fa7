"""Cross-validation: one run a fold, and for every clip the answer of the run that has not learnt from its group."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crycli import __version__, metrics, recipe
from crycli.audio import Excerpt
from crycli.checkpoint import PLAN_FILE, read_json
from crycli.config import Config, to_yaml
from crycli.errors import ConfigError, CrycliError, DataError
from crycli.inference import load_predictor
from crycli.manifest import PARTS, Clip, read_manifest, write_manifest, write_rows
from crycli.metrics import Report
from crycli.outputs import (
    claim_folder,
    json_text,
    make_folder,
    refuse_existing,
    settle,
    write_json,
    write_together,
)
from crycli.predictions import columns, to_row
from crycli.progress import OnStep, Step, silent
from crycli.resuming import refuse_other_backbone, refuse_other_settings, training_files
from crycli.splitting import assign_folds, split_off

BY_COLUMN, BY_LABEL = "the column fold", "dealt by label, groups whole"
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")
"""Of `Report`, for each fold, with mean and standard deviation."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fold:
    """The scores of one fold's run on the clips of that fold.

    Attributes:
        fold: its number, from 1.
        clips: scored clips.
        groups: distinct groups among them.
        accuracy: as in `Report`, like the following ones.
        balanced_accuracy: mean recall over the labels.
        macro_f1: mean F1 over the labels.
        macro_auc: None where the fold's clips bear one label alone.
        best_epoch: the epoch whose weights the run kept, chosen on its validation part.
    """

    fold: int
    clips: int
    groups: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    macro_auc: float | None
    best_epoch: int


@dataclass(frozen=True)
class CrossValidation:
    """What `cross_validate` found.

    Attributes:
        folds: the scores of each fold.
        mean: of each of `SCORES`, over the folds where it is defined; None where it is nowhere.
        standard_deviation: likewise, with n - 1 in the denominator; None for fewer than two folds.
        report: the scores over all clips at once, each answered by the run of its fold.
        remark: a plain sentence on what they are worth.
        unreadable: clips left out because they could not be read.
    """

    folds: tuple[Fold, ...]
    mean: dict[str, float | None]
    standard_deviation: dict[str, float | None]
    report: Report
    remark: str
    unreadable: int


@dataclass(frozen=True)
class _Plan:
    """Which clips each fold's run learns from and is tested on.

    Attributes:
        clips: those of all manifests, in their order, each with its fold.
        parts: of each fold, from 1.
        rule: how the folds came about.
        manifests: file name to SHA-256.
    """

    clips: list[Clip]
    parts: dict[int, dict[str, list[Clip]]]
    rule: str
    manifests: dict[str, str]

    def content(self, seed: int) -> dict[str, Any]:
        """What folds.json holds."""
        return {
            "crycli_version": __version__,
            "folds": len(self.parts),
            "rule": self.rule,
            "seed": seed,
            "manifests": self.manifests,
            "clips": [{part: len(clips) for part, clips in parts.items()} for parts in self.parts.values()],
        }


def cross_validate(
    data: Path,
    output: Path,
    config: Config,
    folds: int,
    *,
    resume: bool = False,
    force: bool = False,
    on_step: OnStep = silent,
) -> CrossValidation:
    """Train a classifier for each fold and score it on the clips of that fold.

    The clips of train.csv, validation.csv and test.csv together are shared out: by their column `fold` where they have
    one, as ESC's official folds or `crycli prepare --folds` give it, otherwise stratified by label with groups whole.
    Of what is not in a fold, a share `data.validation_share` of all clips chooses the best epoch of its run.

    Writes into `output`: folds.json (the plan), for each fold the run fold-K/ with fold-K/data/ (its manifests) and
    fold-K/predictions.csv, and in the end predictions.csv (all clips, in the order of the manifests), metrics.json and
    config.yaml.

    Args:
        data: a folder that `prepare_dataset_csv` wrote; one of the three CSVs is enough.
        output: the folder for the runs.
        config: of each run; in `model.backbone` "{fold}" becomes the number of the fold, for a start of its own that
            has not heard it.
        folds: how many.
        resume: go on where an earlier call was interrupted; the result is that of an uninterrupted one.
        force: replace an earlier run or cross-validation.
        on_step: told of the progress.

    Raises:
        ConfigError: there are other folds in the manifests, several processes were started, or what is resumed was
            begun with other settings.
        DataError: the clips cannot be shared out so that each label is learnt in each fold, or what is resumed was
            begun with other clips.
        CrycliError: the run of a fold failed as `training.train` does; the message names the fold.
        OutputError: the output exists and neither `resume` nor `force` is given, or it cannot be written.
    """
    _refuse_several_processes()
    if not resume:
        refuse_existing(output, force=force)
    plan = _make_plan(data, config, folds)
    if resume:
        _refuse_changes(output, plan, config)
        make_folder(output)
    else:
        claim_folder(output, force=force, owned=training_files(output))
    write_together(output, {PLAN_FILE: json_text(plan.content(config.data.seed)), "config.yaml": to_yaml(config)})
    for fold in plan.parts:
        try:
            _run_fold(plan, fold, output, config, partial(_show, on_step, f"{fold}/{folds}"))
        except CrycliError as error:
            raise type(error)(f"fold {fold} of {folds}: {error}") from error
    return _summarise(plan, output)


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("cross-validation trains its folds in one process: start it without torchrun or accelerate")


def _show(on_step: OnStep, which: str, step: Step) -> None:
    row = None if step.row is None else {"fold": which, **step.row}
    on_step(replace(step, name=f"fold {which}: {step.name}", row=row))


def _make_plan(data: Path, config: Config, folds: int) -> _Plan:
    """Share out the clips.

    Raises:
        ConfigError: the folds asked for are not those of the manifests, or leave nothing to train on.
        DataError: there are no clips, or they cannot be shared out.
    """
    if folds < 2:
        raise ConfigError(f"cross-validation needs two folds or more, not {folds}")
    if data.is_dir():
        settle(data)
    files = [data / f"{part}.csv" for part in PARTS if (data / f"{part}.csv").is_file()]
    clips = [clip for file in files for clip in read_manifest(file)]
    if not clips:
        raise DataError(f"no clips in {data}: make its CSVs with `crycli prepare RECORDINGS -o {data}`")
    rule = BY_LABEL if all(clip.fold is None for clip in clips) else BY_COLUMN
    if rule == BY_COLUMN:
        _refuse_other_folds(clips, data, folds)
    else:
        clips = assign_folds(clips, folds, config.data.seed)
    _refuse_torn(clips, data)
    _warn_of_rare_labels(clips, folds)
    parts = {fold: _split(clips, fold, config) for fold in range(1, folds + 1)}
    return _Plan(clips, parts, rule, {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})


def _refuse_other_folds(clips: Sequence[Clip], data: Path, folds: int) -> None:
    """Raise where the column fold is not filled, or holds other folds than 1 to `folds`."""
    advice = "make it anew with `crycli prepare --folds N`, or take it out"
    lacking = sum(clip.fold is None for clip in clips)
    if lacking:
        raise DataError(f"the column fold is empty for {lacking} of the {len(clips)} clips of {data}: {advice}")
    found = sorted({clip.fold for clip in clips if clip.fold is not None})
    if found != list(range(1, folds + 1)):
        held = ", ".join(map(str, found))
        raise ConfigError(
            f"{folds} folds are asked for, and the column fold of {data} holds {held}: ask for those, or {advice}"
        )


def _refuse_torn(clips: Sequence[Clip], data: Path) -> None:
    """Raise where a group, or a recording whose windows bear different groups, is in two folds."""
    for kind in ("group", "path"):
        fold_of: dict[object, int | None] = {}
        for clip in clips:
            name = getattr(clip, kind)
            other = fold_of.setdefault(name, clip.fold)
            if other != clip.fold:
                what = "group" if kind == "group" else "recording"
                raise DataError(
                    f"{data}: the {what} {name} is in fold {other} and in fold {clip.fold}, so a fold would be tested "
                    f"on what it has learnt: make the folds with `crycli prepare --folds N`, which keeps groups whole"
                )


def _groups_of(clips: Sequence[Clip]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        groups[clip.label].add(clip.group)
    return groups


def _warn_of_rare_labels(clips: Sequence[Clip], folds: int) -> None:
    rare = {label: len(groups) for label, groups in sorted(_groups_of(clips).items()) if len(groups) < folds}
    if rare:
        counts = ", ".join(f"{label} ({count})" for label, count in rare.items())
        logger.warning("labels with fewer groups than the %d folds are not tested in each of them: %s", folds, counts)


def _split(clips: Sequence[Clip], fold: int, config: Config) -> dict[str, list[Clip]]:
    """The parts of a fold's run, each in the order of the clips."""
    rest = [clip for clip in clips if clip.fold != fold]
    share = config.data.validation_share * len(clips) / len(rest)
    if share >= 1.0:
        raise ConfigError(
            f"data.validation_share of {config.data.validation_share:g} leaves nothing to train on beside fold {fold}"
        )
    part_of = split_off(rest, share, config.data.seed)
    parts: dict[str, list[Clip]] = {part: [] for part in PARTS}
    for clip in clips:
        parts["test" if clip.fold == fold else part_of[clip.group]].append(clip)
    _refuse_unlearnt(clips, parts, fold)
    return parts


def _refuse_unlearnt(clips: Sequence[Clip], parts: Mapping[str, Sequence[Clip]], fold: int) -> None:
    groups = _groups_of(clips)
    learnt = {clip.label for clip in parts["train"]}
    for label in sorted(groups.keys() - learnt):
        count = len(groups[label])
        raise DataError(
            f"fold {fold} has nothing to learn {label} from ({count} {'group' if count == 1 else 'groups'} in all): "
            f"drop or merge that label with data.label_map, or get more of it"
        )
    if not parts["validation"]:
        raise DataError(f"fold {fold} has too few groups left for validation: ask for more folds, or get more groups")


def _refuse_changes(output: Path, plan: _Plan, config: Config) -> None:
    """Raise where what is to be resumed was begun with other folds, clips or settings, or is no cross-validation."""
    file = output / PLAN_FILE
    if not file.is_file():
        if output.is_dir() and any(output.iterdir()):
            raise DataError(f"{output} is not a cross-validation of `crycli train --folds`: nothing to resume there")
        return
    begun, now = read_json(file), plan.content(config.data.seed)
    if begun.get("folds") != now["folds"]:
        raise ConfigError(f"cannot resume {output}: folds was {begun.get('folds')} and is now {now['folds']}")
    refuse_other_settings(output, config)
    before = begun.get("manifests", {})
    changed = sorted(name for name in {*before, *plan.manifests} if before.get(name) != plan.manifests.get(name))
    if changed:
        raise DataError(
            f"cannot resume {output}: {' and '.join(changed)} {'is' if len(changed) == 1 else 'are'} not what it was "
            f"begun with: put the old one back, or start anew"
        )
    if begun.get("clips") != now["clips"]:
        version = begun.get("crycli_version")
        raise DataError(f"cannot resume {output}: crycli {version} shared out the clips in another way: start anew")


def _run_fold(plan: _Plan, fold: int, output: Path, config: Config, on_step: OnStep) -> None:
    """Train and test one fold; does nothing where that is done already."""
    folder = output / f"fold-{fold}"
    if (folder / "predictions.csv").is_file():
        return
    from crycli import training

    own = recipe.of_fold(config, fold)
    if own == config:
        for other in sorted(output.glob("fold-*/checkpoints"))[:1]:  # all folds start from the same weights
            refuse_other_backbone(other, config)
    make_folder(folder / "data")
    for part, clips in plan.parts[fold].items():
        write_manifest(folder / "data" / f"{part}.csv", clips)
    begun = (folder / "config.yaml").is_file()
    training.train(folder / "data", folder, own, resume=begun, force=not begun, on_step=on_step)
    _predict(plan.parts[fold]["test"], fold, folder, own, on_step)


def _predict(clips: Sequence[Clip], fold: int, folder: Path, config: Config, on_step: OnStep) -> None:
    """Write a fold's predictions.csv: the columns of `crycli eval`, and `fold`."""
    predictor = load_predictor(str(folder), config)
    labels = predictor.labels
    rows = []
    for clip, answer in zip(
        clips, predictor.predict(Excerpt(clip.path, clip.start, clip.end) for clip in clips), strict=True
    ):
        if answer.error:
            logger.warning("left out %s: %s", answer.path, answer.error)
        own = {"true_label": clip.label, "group": clip.group, "fold": str(fold)}
        # Scores are made from this file. With six decimals a log loss would be made of zeros, and AUCs of ties.
        exact = {f"p_{label}": f"{value:.9g}" for label, value in zip(labels, answer.probabilities, strict=False)}
        rows.append({**to_row(answer, labels), **own, **exact})
        on_step(Step("test", len(rows), len(clips)))
    errors = [row["error"] for row in rows if row["error"]]
    if len(errors) == len(rows):
        raise DataError(f"none of its {len(rows)} clips can be read: {errors[0]}")
    fixed = columns(())
    names = [*fixed, "true_label", "group", "fold", *columns(labels)[len(fixed) :]]
    write_rows(folder / "predictions.csv", names, rows)


def _summarise(plan: _Plan, output: Path) -> CrossValidation:
    """Write predictions.csv and metrics.json from what the folds left behind."""
    answers = {fold: _read_rows(output / f"fold-{fold}" / "predictions.csv") for fold in plan.parts}
    for fold, rows in answers.items():
        if len(rows) != len(plan.parts[fold]["test"]):
            raise DataError(f"{output}/fold-{fold}/predictions.csv is not of this cross-validation: start anew")
    folds = [_score_fold(fold, rows, output) for fold, rows in answers.items()]
    waiting = {fold: iter(rows) for fold, rows in answers.items()}
    pooled = [next(waiting[clip.fold]) for clip in plan.clips if clip.fold is not None]
    write_rows(output / "predictions.csv", pooled[0], pooled)
    report = _score(pooled)
    values = {name: [getattr(fold, name) for fold in folds if getattr(fold, name) is not None] for name in SCORES}
    result = CrossValidation(
        folds=tuple(folds),
        mean={name: float(np.mean(some)) if some else None for name, some in values.items()},
        standard_deviation={
            name: float(np.std(some, ddof=1)) if len(some) > 1 else None for name, some in values.items()
        },
        report=report,
        remark=metrics.remark(report),
        unreadable=len(pooled) - report.clips,
    )
    _write_metrics(result, output)
    return result


def _read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _score_fold(fold: int, rows: Sequence[Mapping[str, str]], output: Path) -> Fold:
    report = _score(rows)
    return Fold(
        fold=fold,
        clips=report.clips,
        groups=report.groups,
        accuracy=report.accuracy,
        balanced_accuracy=report.balanced_accuracy,
        macro_f1=report.macro_f1,
        macro_auc=report.macro_auc,
        best_epoch=read_json(output / f"fold-{fold}" / "metrics.json")["best_epoch"],
    )


def _score(rows: Sequence[Mapping[str, str]]) -> Report:
    """The scores of answers as predictions.csv holds them, without the clips that could not be read."""
    labels = [name.removeprefix("p_") for name in rows[0] if name.startswith("p_")]
    scored = [row for row in rows if not row["error"]]
    return metrics.score(
        labels,
        np.array([labels.index(row["true_label"]) for row in scored]),
        np.array([[float(row[f"p_{label}"]) for label in labels] for row in scored]),
        [row["group"] for row in scored],
    )


def _write_metrics(result: CrossValidation, output: Path) -> None:
    write_json(
        output / "metrics.json",
        {
            "crycli_version": __version__,
            "folds": [asdict(fold) for fold in result.folds],
            "mean": result.mean,
            "standard_deviation": {"ddof": 1, **result.standard_deviation},
            "remark": result.remark,
            "unreadable": result.unreadable,
            "pooled": asdict(result.report),
        },
    )
