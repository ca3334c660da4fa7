"""The model card: the README.md of a model folder, as model hubs show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from crycli import __version__, metrics, pages, recipe
from crycli.bootstrap import Interval
from crycli.builtin import MINI, MINI_RANDOM
from crycli.checkpoint import backbone_name, folder_name, hub_name
from crycli.config import Config, changed_settings
from crycli.manifest import Clip
from crycli.outputs import write_text

PARTS = ("train", "validation")
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_auc": "macro AUC",
}
"""Attributes of `metrics.Report`, and what the card calls them."""
SHOWN_SECTIONS = ("data.", "model.", "augment.", "train.")  # the others do not change the model
SHOWN_AS = {"model.backbone": backbone_name, "augment.background": folder_name}
"""Settings that may be a folder of this machine to what the card says of them."""
ORIGINS = {MINI: ", with the weights of crycli's own cry detector", MINI_RANDOM: ", not pretrained"}
"""What the card adds to the names of crycli's own backbones."""


@dataclass(frozen=True)
class Count:
    """How much there is of something.

    Attributes:
        clips: their number.
        groups: distinct groups among them.
        minutes: their length; None where the manifest lacks that of one.
    """

    clips: int
    groups: int
    minutes: float | None


@dataclass(frozen=True)
class CardFacts:
    """What the card tells.

    Attributes:
        config: of the training.
        labels: in the order of the logits.
        base_model: the hub name of the backbone; None where it is from elsewhere.
        weights: of the whole network.
        weights_trained: those of them that were trained.
        best_epoch: the one whose weights were kept, from 1.
        counts: part to label to what there is of it.
        totals: part to what there is of all labels together.
        corpora: the collections that the clips come from; empty where the manifest names none.
        sample_rates: Hz, of the recordings as stored; empty where the manifest does not say.
        shared_groups: groups with clips in both parts.
        shared_clips: clips of the validation part that are of such groups.
        all_alone: whether each clip is a group by itself.
        report: the scores on the validation part.
        intervals: score to its 95% interval; those that cannot be had are missing.
        changed: the settings of the training that differ from their defaults.
    """

    config: Config
    labels: tuple[str, ...]
    base_model: str | None
    weights: int
    weights_trained: int
    best_epoch: int
    counts: Mapping[str, Mapping[str, Count]]
    totals: Mapping[str, Count]
    corpora: tuple[str, ...]
    sample_rates: tuple[int, ...]
    shared_groups: int
    shared_clips: int
    all_alone: bool
    report: metrics.Report
    intervals: Mapping[str, Interval]
    changed: Mapping[str, Any]


class Score(NamedTuple):
    """A row of the table of scores; None where a number is not defined or has no simple formula.

    Attributes:
        title: what the card calls it.
        value: the model's.
        interval: lower and upper bound.
        chance: of answers drawn evenly from the labels that occur.
        always: of always answering the commonest label.
    """

    title: str
    value: float | None
    interval: tuple[float, float] | None
    chance: float | None
    always: float | None


def gather(
    config: Config,
    prepared_clips: Mapping[str, Sequence[Clip]],
    labels: Sequence[str],
    report: metrics.Report,
    intervals: Mapping[str, Interval],
    weights: int,
    weights_trained: int,
    best_epoch: int,
) -> CardFacts:
    """What a finished training knows, as the card tells it.

    Args:
        config: of the training, whose backbone has been located.
        prepared_clips: the clips of "train" and "validation".
        labels: in the order of the logits.
        report: the scores on the validation part.
        intervals: from `bootstrap.intervals`, on the same answers.
        weights: of the whole network.
        weights_trained: those of them that were trained.
        best_epoch: the one whose weights were kept, from 1.
    """
    train, validation = (prepared_clips[part] for part in PARTS)
    shared = {clip.group for clip in train} & {clip.group for clip in validation}
    clips = [*train, *validation]
    return CardFacts(
        config=config,
        labels=tuple(labels),
        base_model=hub_name(config.model.backbone),
        weights=weights,
        weights_trained=weights_trained,
        best_epoch=best_epoch,
        counts={
            part: {label: _count(clip for clip in prepared_clips[part] if clip.label == label) for label in labels}
            for part in PARTS
        },
        totals={part: _count(prepared_clips[part]) for part in PARTS},
        corpora=tuple(sorted({clip.corpus for clip in clips if clip.corpus})),
        sample_rates=tuple(sorted({clip.sample_rate for clip in clips if clip.sample_rate is not None})),
        shared_groups=len(shared),
        shared_clips=sum(clip.group in shared for clip in validation),
        all_alone=len({clip.group for clip in clips}) == len(clips),
        report=report,
        intervals=dict(intervals),
        changed=_changed(config),
    )


def write_card(file: Path, facts: CardFacts) -> None:
    """Write the card, with the front matter of Hugging Face's model cards; the same facts give the same bytes.

    It names no group: that may be a baby's name.
    """
    context = {
        "facts": facts,
        "config": facts.config,
        "backbone": backbone_name(facts.config.model.backbone),
        "origin": ORIGINS.get(facts.config.model.backbone, ""),
        "version": __version__,
        "pooling": recipe.pooling(facts.config),
        "epochs": recipe.epochs(facts.config),
        "commonest_label": facts.report.commonest_label,
        "scores": _scores(facts),
        "select_by": SCORES[facts.config.train.select_by],
        "remark": metrics.remark(facts.report),
    }
    write_text(file, pages.render("model_card.md", context) + "\n")


def _count(clips: Iterable[Clip]) -> Count:
    clips = list(clips)
    seconds = [clip.seconds for clip in clips]
    known = [length for length in seconds if length is not None]
    minutes = sum(known) / 60 if len(known) == len(seconds) else None
    return Count(len(clips), len({clip.group for clip in clips}), minutes)


def _changed(config: Config) -> dict[str, Any]:
    return {
        key: SHOWN_AS[key](value) if key in SHOWN_AS else value
        for key, value in changed_settings(config, SHOWN_SECTIONS).items()
    }


def _scores(facts: CardFacts) -> list[Score]:
    report = facts.report
    chance = report.chance_balanced_accuracy
    ranked = None if report.macro_auc is None else 0.5
    # Of the commonest label the precision is its share and the recall 1; of the others the F1 is 0.
    share = report.commonest_accuracy
    by_chance = {"accuracy": chance, "balanced_accuracy": chance, "macro_auc": ranked}
    always = {
        "accuracy": share,
        "balanced_accuracy": chance,
        "macro_f1": 2 * share / (1 + share) * chance,
        "macro_auc": ranked,
    }
    bounds = {name: (interval.low, interval.high) for name, interval in facts.intervals.items()}
    return [
        Score(title, getattr(report, name), bounds.get(name), by_chance.get(name), always[name])
        for name, title in SCORES.items()
    ]
