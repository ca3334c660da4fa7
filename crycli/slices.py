"""Scores by slice: who recorded a clip, how, how long and how loud it is, and what else the manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from crycli.bootstrap import Interval, intervals
from crycli.manifest import Clip
from crycli.metrics import Labels, Probabilities, Report, score

MOST_VALUES = 12  # of a column of the manifest; one with more names recordings or measures them
NOT_STATED = "not stated"  # of the clips for which the manifest does not say


@dataclass(frozen=True)
class Slice:
    """The scores of the clips that have something in common.

    Attributes:
        attribute: what it is, such as "corpus" or a column of the manifest.
        value: which of its values they share; "not stated" where the manifest does not say.
        report: their scores. Where they all bear the same label, the balanced accuracy is its recall.
        intervals: by the names of `bootstrap.intervals`; empty where they are of fewer than two groups.
    """

    attribute: str
    value: str
    report: Report
    intervals: dict[str, Interval]


def slices(
    clips: Sequence[Clip],
    names: Sequence[str],
    truth: Labels,
    probabilities: Probabilities | None,
    predicted: Labels,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> list[Slice]:
    """Scores by corpus, sample rate, codec, thirds of the duration and of the loudness, and columns of the manifest.

    A column counts where it has 2 to 12 values; an attribute that is the same for all clips that state it is left out.

    Args:
        clips: what was scored.
        names: label names.
        truth: (clips,) true labels.
        probabilities: (clips, labels); None where only the answers are known.
        predicted: (clips,) answers.
        draws: bootstrap samples.
        seed: another one gives other draws.

    Returns:
        Attribute by attribute, in each the slice with the least balanced accuracy first.
    """
    found: list[Slice] = []
    for attribute, values in _attributes(clips).items():
        of_attribute = []
        for value in dict.fromkeys(values):
            rows = np.array([row for row, other in enumerate(values) if other == value])
            groups = [clip.group for clip, other in zip(clips, values, strict=True) if other == value]
            chosen = None if probabilities is None else probabilities[rows]
            of_attribute.append(
                Slice(
                    attribute,
                    value or NOT_STATED,
                    score(names, truth[rows], chosen, groups, predicted[rows]),
                    intervals(names, truth[rows], chosen, predicted[rows], groups, draws=draws, seed=seed),
                )
            )
        found += sorted(of_attribute, key=lambda one: (one.report.balanced_accuracy, one.value))
    return found


def _attributes(clips: Sequence[Clip]) -> Mapping[str, list[str]]:
    """Attribute to the clips' values, "" where one is not stated, of the attributes that set clips apart."""
    known = {
        "corpus": [clip.corpus for clip in clips],
        "sample rate": ["" if clip.sample_rate is None else f"{clip.sample_rate} Hz" for clip in clips],
        "codec": [clip.codec for clip in clips],
        "duration": _thirds([clip.seconds for clip in clips], "s", 2),
        "loudness": _thirds([clip.loudness_db for clip in clips], "dB", 1),
    }
    columns = dict.fromkeys(name for clip in clips for name in clip.extra)
    of_columns = {name: [clip.extra.get(name, "").strip() for clip in clips] for name in columns}
    few = {name: values for name, values in of_columns.items() if len(set(values) - {""}) <= MOST_VALUES}
    few = {f"{name} (column)" if name in known else name: values for name, values in few.items()}
    return {name: values for name, values in (known | few).items() if len(set(values) - {""}) > 1}


def _thirds(numbers: Sequence[float | None], unit: str, places: int) -> list[str]:
    """The third that each number lies in, cut at numbers of so many places; fewer where many are the same."""
    stated = np.array([number for number in numbers if number is not None])
    smaller = stated[stated < stated.max(initial=-np.inf)]
    if not smaller.size:
        return ["" if number is None else "all" for number in numbers]
    scale = 10.0**places
    thirds = np.minimum(np.quantile(stated, [1 / 3, 2 / 3]), smaller.max())  # where most are the greatest too
    edges = np.unique(np.ceil(np.round(thirds * scale, 6)) / scale + 0.0)
    edges = edges[edges < stated.max()]
    texts = [f"{edge:.{places}f} {unit}" for edge in edges]
    if not texts:
        return ["" if number is None else "all" for number in numbers]
    between = [f"over {low} to {high}" for low, high in pairwise(texts)]
    names = [f"up to {texts[0]}", *between, f"over {texts[-1]}"]
    return ["" if number is None else names[int(np.searchsorted(edges, number))] for number in numbers]
