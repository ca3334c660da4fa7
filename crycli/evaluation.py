"""A classifier, several, a cross-validation, or a file of anyone's predictions, to a report."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from crycli import audio, leakage, pages
from crycli.answers import Answers, ask, from_predictions, read_answers
from crycli.appraisal import Appraisal, Rival, against, appraise, score
from crycli.audio import Excerpt
from crycli.checkpoint import PLAN_FILE, read_json
from crycli.config import Config, to_assignments
from crycli.errors import AudioError, DataError
from crycli.evalreport import PICTURES, About, Example, build_metrics, pictures, render_page, to_markdown
from crycli.explaining import Occlusion, occlude
from crycli.inference import Predictor, load_predictor
from crycli.manifest import PARTS, Clip, read_manifest, read_table, write_rows
from crycli.naming import by_known_name
from crycli.outputs import claim_folder, refuse_existing, write_bytes, write_json, write_text
from crycli.predictions import Prediction, columns, to_row
from crycli.progress import OnStep, Step, silent
from crycli.splitcheck import SplitComparison, compare_split

logger = logging.getLogger(__name__)

REPORT_FILES = (
    *("metrics.json", "predictions.csv", "report.md", "report.html"),
    *(f"{name}.{form}" for name in PICTURES for form in ("png", "svg")),
)
OUT_OF_FOLD = "out-of-fold"
SETTINGS = ("eval.", "predict.", "limits.", "data.seed")  # what the numbers of a report depend on


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        about: what was evaluated.
        appraisal: what the answers are worth.
        others: other classifiers on the same clips.
        split_comparison: how much a split by clip would have flattered; None where that was not asked for.
    """

    about: About
    appraisal: Appraisal
    others: tuple[Rival, ...] = ()
    split_comparison: SplitComparison | None = None


def evaluate(
    models: Sequence[str],
    data: Path,
    output: Path,
    config: Config | None = None,
    *,
    compare_splits: bool = False,
    force: bool = False,
    on_step: OnStep = silent,
) -> Evaluation:
    """Score a classifier on a part of the data, and others beside it on the same clips.

    Writes report.html, report.md, metrics.json, predictions.csv (of the first classifier) and the pictures.

    Args:
        models: each as in `inference.load_predictor`; the first one is what the report is on.
        data: a folder that `prepare_dataset_csv` wrote.
        output: the folder for the report.
        config: `eval.split` names the part; the defaults where None.
        compare_splits: train the MFCC baseline by clip and by group on all clips of `data`.
        force: replace an earlier report.
        on_step: told of the progress.

    Raises:
        CheckpointError: there is no such model.
        DataError: the manifest is missing or malformed, has labels that a model lacks, or none of its recordings can be
            read.
        OutputError: the output exists and `force` is false, or it cannot be written.
    """
    config = config or Config()
    part = config.eval.split
    refuse_existing(output, force=force)
    clips = read_manifest(data / f"{part}.csv")
    if not clips:
        raise DataError(f"{data}/{part}.csv is empty: there is nothing to score")
    predictors = [_load(model, clips, data / f"{part}.csv", config) for model in models]
    names = predictors[0].labels
    comparison = _compare_splits(data, config, on_step) if compare_splits else None
    claim_folder(output, force=force, owned=REPORT_FILES)
    asked = [ask(predictor, clips, on_step, model) for model, predictor in zip(models, predictors, strict=True)]
    readable = np.array([not any(answers[number].error for answers in asked) for number in range(len(clips))])
    if not readable.any():
        error = next(answer.error for answers in asked for answer in answers if answer.error)
        raise DataError(f"none of the {len(clips)} recordings of {data}/{part}.csv can be read: {error}")
    used = [clip for clip, read in zip(clips, readable, strict=True) if read]
    whole = whole_groups(clips)
    answered = [
        _in_order(names, predictor, [answer for answer, read in zip(answers, readable, strict=True) if read])
        for predictor, answers in zip(predictors, asked, strict=True)
    ]
    shared, *shared_by_others = (
        leakage.find_shared(predictor.classifier.folder, used, [prediction.digest for prediction in predictions])
        for predictor, predictions in zip(predictors, answered, strict=True)
    )
    used = [clip for clip, read in zip(whole, readable, strict=True) if read]
    answers, *others = (from_predictions(names, used, predictions) for predictions in answered)
    train = _training_clips(data, part) if config.eval.baselines else []
    appraisal = appraise(answers, config, train=train, shared=shared, on_step=on_step)
    about = About(
        title=models[0],
        split=part,
        data=str(data),
        command=_command([*models, str(data), *(["--compare-split"] if compare_splits else [])], config),
        unreadable=int((~readable).sum()),
        temperature=predictors[0].temperature,
        config=config,
    )
    rivals = tuple(
        Rival(model, score(other, config), against(answers, other, config), int(met.clips.sum()) if met.known else None)
        for model, other, met in zip(models[1:], others, shared_by_others, strict=True)
    )
    evaluation = Evaluation(about, appraisal, rivals, comparison)
    examples = _examples(answers, predictors[0], config.eval.examples, on_step)
    _write(evaluation, examples, list(zip(whole, asked[0], strict=True)), output)
    return evaluation


def evaluate_folds(
    run: Path, output: Path, config: Config | None = None, *, force: bool = False, on_step: OnStep = silent
) -> Evaluation:
    """Score the out-of-fold predictions of a cross-validation; the baselines learn from the same clips, fold by fold.

    Raises:
        DataError: `run` is no finished cross-validation.
        OutputError: as in `evaluate`.
    """
    config = config or Config()
    refuse_existing(output, force=force)
    if not (run / PLAN_FILE).is_file() or not (run / "predictions.csv").is_file():
        raise DataError(f"{run} is no finished cross-validation: make one with `crycli train DATA -o {run} --folds 5`")
    answers, unreadable = read_answers(run / "predictions.csv")
    answers = answers.with_clips(whole_groups(_clips_of_folds(run, answers)))
    claim_folder(output, force=force, owned=REPORT_FILES)
    train = answers.clips if config.eval.baselines else ()
    appraisal = appraise(answers, config, train=train, by_fold=True, on_step=on_step)
    about = About(
        str(run),
        OUT_OF_FOLD,
        str(run / "predictions.csv"),
        _command([str(run), "--folds"], config),
        unreadable,
        None,
        config,
    )
    return _finish(Evaluation(about, appraisal), config, output)


def evaluate_file(
    file: Path, output: Path, config: Config | None = None, *, force: bool = False, on_step: OnStep = silent
) -> Evaluation:
    """Score anyone's predictions; see `answers.read_answers` for the columns.

    Raises:
        DataError: the file cannot be used.
        OutputError: as in `evaluate`.
    """
    config = config or Config()
    refuse_existing(output, force=force)
    answers, unreadable = read_answers(file)
    answers = answers.with_clips(whole_groups(answers.clips))
    claim_folder(output, force=force, owned=REPORT_FILES)
    about = About(
        str(file),
        "predictions",
        str(file),
        _command(["--predictions", str(file)], config),
        unreadable,
        None,
        config,
    )
    return _finish(Evaluation(about, appraise(answers, config, on_step=on_step)), config, output)


def _clips_of_folds(run: Path, answers: Answers) -> list[Clip]:
    """The clips that were answered, as the manifests of the folds have them: in each fold both are in one order."""
    count = int(read_json(run / PLAN_FILE)["folds"])
    tested = {str(fold): read_manifest(run / f"fold-{fold}" / "data" / "test.csv") for fold in range(1, count + 1)}
    waiting = {fold: iter(clips) for fold, clips in tested.items()}
    table = read_table(run / "predictions.csv")
    clips = [
        replace(clip, label=clip.label.strip())
        for fold, error in zip(table["fold"], table["error"], strict=True)
        for clip in [next(waiting.get(fold, iter(())), None)]
        if clip is not None and not error
    ]
    # By their names: the run may have been told relative paths, and the manifests of its folds never are.
    if [(clip.path.name, clip.label) for clip in clips] != [(clip.path.name, clip.label) for clip in answers.clips]:
        raise DataError(f"{run}/predictions.csv does not fit the folds beside it: make the cross-validation anew")
    return clips


def _command(given: Sequence[str], config: Config) -> str:
    """What to type for the same report."""
    return shlex.join(["crycli", "eval", *given, "-o", "REPORT", *to_assignments(config, SETTINGS)])


def _finish(evaluation: Evaluation, config: Config, output: Path) -> Evaluation:
    """Write the report on answers that were given elsewhere; their sound is shown where it is at hand."""
    answers = evaluation.appraisal.answers
    examples = _examples(answers, None, config.eval.examples, silent)
    rows = [
        (clip, Prediction(clip.path, clip.start, clip.end, label, confidence, probabilities))
        for clip, label, confidence, probabilities in zip(
            answers.clips,
            (answers.names[number] for number in answers.predicted),
            [None] * len(answers.clips) if answers.confidence is None else answers.confidence.tolist(),
            [()] * len(answers.clips) if answers.probabilities is None else map(tuple, answers.probabilities.tolist()),
            strict=True,
        )
    ]
    _write(evaluation, examples, rows, output)
    return evaluation


def whole_groups(clips: Sequence[Clip]) -> list[Clip]:
    """The clips, those of one phone or source by their file names in one group, also where a manifest parts them."""
    told = [by_known_name(clip.path.name).group for clip in clips]
    groups_of: dict[str, set[str]] = {}
    for clip, name in zip(clips, told, strict=True):
        groups_of.setdefault(name, set()).add(clip.group)
    parted = {name for name, groups in groups_of.items() if name and len(groups) > 1}
    if not parted:
        return list(clips)
    logger.warning(
        "by their file names, clips of different groups come from the same %d phones or sources: they count as one "
        "group each (data.group_by)",
        len(parted),
    )
    return [replace(clip, group=name) if name in parted else clip for clip, name in zip(clips, told, strict=True)]


def _load(model: str, clips: Sequence[Clip], manifest: Path, config: Config) -> Predictor:
    predictor = load_predictor(model, config)
    unknown = sorted({clip.label for clip in clips} - set(predictor.labels))
    if unknown:
        raise DataError(
            f"{manifest} has labels that {model} does not know: {', '.join(unknown)}; "
            f"it knows {', '.join(predictor.labels)}"
        )
    return predictor


def _in_order(names: Sequence[str], predictor: Predictor, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Predictions with their probabilities in the order of the first classifier's labels."""
    if predictor.labels == tuple(names):
        return list(predictions)
    if set(predictor.labels) != set(names):
        raise DataError(
            f"{predictor.classifier.folder} knows other labels than the first model: {', '.join(predictor.labels)} "
            f"and not {', '.join(names)}"
        )
    order = [predictor.labels.index(name) for name in names]
    return [
        Prediction(
            answer.path,
            answer.start,
            answer.end,
            answer.label,
            answer.confidence,
            tuple(answer.probabilities[number] for number in order),
            answer.error,
            tuple(answer.uncalibrated[number] for number in order),
            answer.digest,
        )
        for answer in predictions
    ]


def _training_clips(data: Path, part: str) -> list[Clip]:
    file = data / "train.csv"
    return read_manifest(file) if file.is_file() and part != "train" else []


def _compare_splits(data: Path, config: Config, on_step: OnStep) -> SplitComparison:
    files = [data / f"{part}.csv" for part in PARTS if (data / f"{part}.csv").is_file()]
    return compare_split(whole_groups([clip for file in files for clip in read_manifest(file)]), config, on_step)


def _examples(answers: Answers, predictor: Predictor | None, count: int, on_step: OnStep) -> list[Example]:
    """The most confident mistakes and the least sure hits, with what moved each answer."""
    if answers.confidence is None or not count:
        return []
    right = answers.predicted == answers.truth
    order = answers.confidence.argsort(kind="stable")
    mistakes = [number for number in order[::-1].tolist() if not right[number]][:count]
    hits = [number for number in order.tolist() if right[number]][:count]
    found = []
    for number in [*mistakes, *hits]:
        found.append(_example(answers, number, predictor))
        on_step(Step("examples", len(found), len(mistakes) + len(hits)))
    return found


def _example(answers: Answers, number: int, predictor: Predictor | None) -> Example:
    clip = answers.clips[number]
    answered = answers.names[answers.predicted[number]]
    start = clip.start or 0.0
    end = min(start + pages.PLAYER_SECONDS, clip.end if clip.end is not None else math.inf)
    thumbnail = player = ""
    occlusion: Occlusion | None = None
    try:
        recording = audio.decode(clip.path, start, end)
        thumbnail = pages.thumbnail(recording.samples, recording.sample_rate)
        player = pages.player(recording.samples, recording.sample_rate)
        if predictor is not None:
            occlusion = occlude(predictor, Excerpt(clip.path, start, end), answered)
    except AudioError:
        pass  # as where a file of predictions names recordings of another machine
    confidence = float(answers.confidence[number]) if answers.confidence is not None else math.nan
    kind: Literal["mistake", "hit"] = "hit" if answers.predicted[number] == answers.truth[number] else "mistake"
    return Example(kind, clip, answered, confidence, thumbnail, player, occlusion)


def _write(
    evaluation: Evaluation, examples: Sequence[Example], rows: Sequence[tuple[Clip, Prediction]], output: Path
) -> None:
    appraisal, about, others = evaluation.appraisal, evaluation.about, evaluation.others
    names = appraisal.answers.names
    written = [{**to_row(answer, names), "true_label": clip.label, "group": clip.group} for clip, answer in rows]
    fixed = columns(())
    write_rows(output / "predictions.csv", [*fixed, "true_label", "group", *columns(names)[len(fixed) :]], written)
    split = evaluation.split_comparison
    write_json(output / "metrics.json", build_metrics(appraisal, about, others, split))
    write_text(output / "report.md", to_markdown(appraisal, about, others, split))
    drawn = pictures(appraisal)
    write_text(output / "report.html", render_page(appraisal, about, examples, drawn, others, split))
    for name, content in drawn.items():
        write_bytes(output / name, content)
