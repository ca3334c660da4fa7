"""A classifier and a part of the data to a report: scores, predictions, a confusion matrix."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from crycli import __version__, metrics
from crycli.audio import Excerpt
from crycli.config import Config
from crycli.errors import DataError
from crycli.figures import draw_confusion
from crycli.inference import load_predictor
from crycli.manifest import Clip, read_manifest, write_rows
from crycli.metrics import Report
from crycli.outputs import claim_folder, refuse_existing, write_bytes, write_json, write_text
from crycli.predictions import Prediction, columns, to_row
from crycli.progress import OnStep, Step, silent

SUMMARY_HEADER = ("score", "value", "against")
LABEL_HEADER = ("label", "clips", "precision", "recall", "F1", "AUC")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        split: the part that was scored.
        report: the scores over the clips that could be read.
        remark: a plain sentence on what they are worth.
        unreadable: clips left out because they could not be read.
    """

    split: str
    report: Report
    remark: str
    unreadable: int


def evaluate(
    model: str, data: Path, output: Path, config: Config | None = None, *, force: bool = False, on_step: OnStep = silent
) -> Evaluation:
    """Score a classifier on a part of the data; write metrics.json, predictions.csv, confusion_matrix.png, report.md.

    Args:
        model: a run, its model folder, an exported bundle or a hub name.
        data: a folder that `prepare_dataset_csv` wrote.
        output: the folder for the report.
        config: `eval.split` names the part; the defaults where None.
        force: replace an earlier report.
        on_step: told of the progress.

    Raises:
        CheckpointError: there is no such model.
        DataError: the manifest is missing or malformed, has labels that the model lacks, or none of its recordings
            can be read.
        OutputError: the output exists and `force` is false, or it cannot be written.
    """
    config = config or Config()
    part = config.eval.split
    refuse_existing(output, force=force)
    clips = read_manifest(data / f"{part}.csv")
    if not clips:
        raise DataError(f"{data}/{part}.csv is empty: there is nothing to score")
    predictor = load_predictor(model, config)
    unknown = sorted({clip.label for clip in clips} - set(predictor.labels))
    if unknown:
        raise DataError(
            f"{data}/{part}.csv has labels that the model does not know: {', '.join(unknown)}; "
            f"it knows {', '.join(predictor.labels)}"
        )
    claim_folder(output, force=force)
    predictions = []
    for prediction in predictor.predict(Excerpt(clip.path, clip.start, clip.end) for clip in clips):
        predictions.append(prediction)
        on_step(Step("evaluate", len(predictions), len(clips)))
    scored = [(clip, answer) for clip, answer in zip(clips, predictions, strict=True) if not answer.error]
    for answer in predictions:
        if answer.error:
            logger.warning("left out %s: %s", answer.path, answer.error)
    if not scored:
        raise DataError(f"none of the {len(clips)} recordings of {data}/{part}.csv can be read: {predictions[0].error}")
    report = metrics.score(
        predictor.labels,
        np.array([predictor.labels.index(clip.label) for clip, _ in scored]),
        np.array([answer.probabilities for _, answer in scored]),
        [clip.group for clip, _ in scored],
    )
    evaluation = Evaluation(part, report, metrics.remark(report), len(clips) - len(scored))
    _write(evaluation, list(zip(clips, predictions, strict=True)), predictor.labels, output, model)
    return evaluation


def _write(
    evaluation: Evaluation,
    answers: list[tuple[Clip, Prediction]],
    labels: tuple[str, ...],
    output: Path,
    model: str,
) -> None:
    rows = [
        {**to_row(prediction, labels), "true_label": clip.label, "group": clip.group} for clip, prediction in answers
    ]
    fixed = columns(())
    write_rows(output / "predictions.csv", [*fixed, "true_label", "group", *columns(labels)[len(fixed) :]], rows)
    write_json(
        output / "metrics.json",
        {
            "crycli_version": __version__,
            "model": model,
            "split": evaluation.split,
            "unreadable": evaluation.unreadable,
            "remark": evaluation.remark,
            **asdict(evaluation.report),
        },
    )
    write_text(output / "report.md", to_markdown(evaluation, model))
    write_bytes(output / "confusion_matrix.png", draw_confusion(evaluation.report))


def summary_rows(report: Report) -> list[tuple[str, ...]]:
    """The overall scores, under `SUMMARY_HEADER`; against: what a score is to be held against."""
    return [
        (
            "accuracy",
            number(report.accuracy),
            f"{number(report.commonest_accuracy)}: always {report.commonest_label!r}",
        ),
        ("balanced accuracy", number(report.balanced_accuracy), f"{number(report.chance_balanced_accuracy)}: chance"),
        ("macro F1", number(report.macro_f1), ""),
        ("weighted F1", number(report.weighted_f1), ""),
        ("macro AUC", number(report.macro_auc), "0.500: chance"),
        ("log loss", number(report.log_loss), ""),
    ]


def label_rows(report: Report) -> list[tuple[str, ...]]:
    """The scores of each label, under `LABEL_HEADER`."""
    return [
        (name, str(entry.support), *map(number, (entry.precision, entry.recall, entry.f1, entry.auc)))
        for name, entry in report.labels.items()
    ]


def number(value: float | None) -> str:
    """A score to three places, "-" where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def to_markdown(evaluation: Evaluation, model: str) -> str:
    """The report as Markdown."""
    report = evaluation.report
    lines = [
        f"# {model} on the {evaluation.split} part",
        "",
        evaluation.remark,
        "",
        f"{report.clips} clips of {report.groups} groups"
        + (f"; {evaluation.unreadable} more could not be read and are not scored." if evaluation.unreadable else "."),
        "",
        *_markdown_table(SUMMARY_HEADER, summary_rows(report)),
        "",
        *_markdown_table(LABEL_HEADER, label_rows(report)),
        "",
        "Confusion matrix (rows true, columns answered):",
        "",
        *_markdown_table(
            ("", *report.labels),
            [(name, *map(str, row)) for name, row in zip(report.labels, report.confusion, strict=True)],
        ),
        "",
        "![confusion matrix](confusion_matrix.png)",
        "",
        "Scores with '-' are not defined on this part. Labels that no clip bears do not enter the means.",
    ]
    return "\n".join(lines) + "\n"


def _markdown_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    return [
        f"| {' | '.join(escaped[0])} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in escaped[1:]),
    ]
