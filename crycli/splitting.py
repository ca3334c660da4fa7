"""Which part, or which fold, each group of clips belongs to."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crycli.errors import DataError
from crycli.manifest import PARTS, Clip

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DRAWS = 5
"""On 250 tables of 4 to 8 groups the plan built with care was the best there is in 70%, with 5 drawn in 97%."""
MOST_DRAWN = 2_000_000  # comparisons: with more groups the plan built with care is close, and a draw takes 0.2 s
MOST_COMPARISONS = 10_000_000
"""Of cells, when each group is compared with each other; beyond, the plan as built is close and groups only move."""
MOST_PASSES = 100
"""Two to four do. Rounding could lead round in circles where a share is as good as nothing."""
DECIMALS = 9
"""Of distances: equal ones must be so on any machine, or the seed would not decide between them."""


def split(
    clips: Sequence[Clip],
    validation_share: float,
    test_share: float,
    seed: int,
    kept: Mapping[str, str] | None = None,
) -> dict[str, list[Clip]]:
    """Split clips into train, validation and test: stratified by label, no group on two sides.

    Every label is trained on, and is in the other parts as far as its groups reach; beyond that the parts' counts of
    each label come close to their shares. A group that bears several labels stays whole. The order of the clips given
    does not matter; equal choices are drawn by the seed.

    Args:
        clips: what to split.
        validation_share: of the clips.
        test_share: of the clips.
        seed: of the draw.
        kept: group to part, of groups that stay where they are; the others are placed around them. A label all of
            whose groups are kept out of training stays out of it.

    Raises:
        DataError: there are no clips, there is one label alone, or there are too few groups to fill each part.
    """
    labels = sorted({clip.label for clip in clips})
    if not labels:
        raise DataError("no clips to split")
    if len(labels) < 2:
        raise DataError(f"one label alone ({labels[0]}): a classifier needs two or more")
    shares = (1.0 - validation_share - test_share, validation_share, test_share)
    given = {group: PARTS.index(part) for group, part in (kept or {}).items()}
    part_of = _assign(clips, shares, seed, given, first=PARTS.index("train"))
    parts: dict[str, list[Clip]] = {part: [] for part in PARTS}
    for clip in sorted(clips, key=lambda clip: (clip.label, str(clip.path), clip.start or 0.0, clip.end or 0.0)):
        parts[PARTS[part_of[clip.group]]].append(clip)
    empty = " and ".join(part for part in PARTS if not parts[part])
    if empty and part_of.keys() & given.keys():
        raise DataError(f"the split that is kept has no clips left for {empty}, and too few groups are new to fill it")
    if empty:
        raise DataError(
            f"{len(part_of)} groups are too few to fill {empty}: each part needs groups of its own "
            f"(data.group_by decides what a group is)"
        )
    return parts


def split_off(clips: Sequence[Clip], share: float, seed: int) -> dict[str, str]:
    """The part of each group where a share of the clips is set aside from training for validation, as in `split`.

    Args:
        clips: what to split; at least one.
        share: of the clips.
        seed: of the draw.

    Returns:
        Group to "train" or "validation"; too few groups leave validation empty.
    """
    placed = _assign(clips, (1.0 - share, share), seed, {}, first=0)
    return {group: PARTS[number] for group, number in placed.items()}


def assign_folds(clips: Sequence[Clip], folds: int, seed: int, kept: Mapping[str, int] | None = None) -> list[Clip]:
    """Give each clip the fold of its group, from 1: stratified by label, the folds of one size.

    Each label is in as many folds as its groups reach; beyond that the folds' counts of each label come close to
    each other. The order of the clips given does not matter and is that of the clips returned; equal choices are
    drawn by the seed.

    Args:
        clips: what to share out.
        folds: how many.
        seed: of the draw.
        kept: group to fold, of groups whose fold is given; the others are placed around them.

    Raises:
        DataError: there are fewer groups than folds, a fold that is given is none of them, or those that are given
            leave too few groups for the other folds.
    """
    groups = {clip.group for clip in clips}
    if len(groups) < folds:
        raise DataError(
            f"{len(groups)} groups are too few for {folds} folds: each fold needs groups of its own "
            f"(data.group_by decides what a group is)"
        )
    given = {group: fold for group, fold in (kept or {}).items() if group in groups}
    for group, fold in sorted(given.items()):
        if not 1 <= fold <= folds:
            raise DataError(f"group {group} is in fold {fold}, and there are {folds} folds: 1 to {folds}")
    fold_of = _assign(clips, [1.0 / folds] * folds, seed, {group: fold - 1 for group, fold in given.items()})
    empty = [str(fold + 1) for fold in range(folds) if fold not in fold_of.values()]
    if empty:
        raise DataError(
            f"the folds that are given leave no groups for fold {' and '.join(empty)}: "
            f"{len(groups) - len(given)} of {len(groups)} groups are free"
        )
    return [replace(clip, fold=fold_of[clip.group] + 1) for clip in clips]


def _assign(
    clips: Sequence[Clip], shares: Sequence[float], seed: int, kept: Mapping[str, int], first: int | None = None
) -> dict[str, int]:
    """Group to part, by number; `first` is the part that must not lack a label before any other."""
    chance = random.Random(seed)
    groups = sorted({clip.group for clip in clips})
    chance.shuffle(groups)
    counts = _count(clips, groups)
    part_of = {group: kept[group] for group in groups if group in kept}
    filled = np.zeros((len(shares), counts.shape[1]), np.int64)
    for group, row in zip(groups, counts, strict=True):
        if group in part_of:
            filled[part_of[group]] += row
    free = np.array([row for row, group in enumerate(groups) if group not in part_of], np.int64)
    free = free[np.argsort(-counts[free, 0], kind="stable")]
    plan = _Plan(counts[free], filled, np.outer(shares, counts.sum(axis=0)), _gap_weights(filled.shape, first))
    parts = plan.best_parts(chance)
    return part_of | {groups[row]: int(part) for row, part in zip(free, parts, strict=True)}


def _count(clips: Sequence[Clip], groups: Sequence[str]) -> Integers:
    """(groups, 1 + labels): the clips of each group, in all and of each label."""
    rows = {group: row for row, group in enumerate(groups)}
    columns = {label: column for column, label in enumerate(sorted({clip.label for clip in clips}), start=1)}
    counts = np.zeros((len(rows), 1 + len(columns)), np.int64)
    for clip in clips:
        counts[rows[clip.group], columns[clip.label]] += 1
    counts[:, 0] = counts.sum(axis=1)
    return counts


def _gap_weights(shape: tuple[int, ...], first: int | None) -> Integers:
    """(parts, 1 + labels): how bad it is that a part is empty, or lacks a label; `first` must not at all."""
    weights = np.ones(shape, np.int64)
    if first is not None:
        weights[first, 1:] = weights.size
    return weights


class _Plan:
    """Which part each group goes to, improved step by step.

    A plan is better if its gaps (empty parts, labels that a part lacks) weigh less or, at equal gaps, if the parts'
    counts are closer to their targets (chi-square). The columns of all tables are the clips in all and of each label.

    Attributes:
        counts: a row for each group, the largest first, then an empty row for each part: to change places with that
            one is to move to the part.
        parts: the part of each row.
        filled: the clips of each part.
        targets: how many clips each part should have.
        weights: of the gaps of each part.
    """

    def __init__(self, counts: Integers, kept: Integers, targets: Floats, weights: Integers) -> None:
        self.groups = np.arange(len(counts))
        self.places = np.arange(len(counts), len(counts) + len(kept))
        self.counts = np.vstack([counts, np.zeros_like(kept)])
        self.parts = np.concatenate([np.zeros_like(self.groups), np.arange(len(kept))])
        self.kept = kept
        self.filled = kept.copy()
        self.targets = targets
        self.weights = weights

    def best_parts(self, chance: random.Random) -> Integers:
        """The part of each group in the best of some plans: one that is built with care, the others drawn."""
        self._fill()
        self._improve()
        best, parts = self._badness(), self.parts.copy()
        for _ in range(min(DRAWS, MOST_DRAWN // max(1, self._comparisons(self.groups)))):
            self._draw(chance)
            self._improve()
            if self._badness() < best:
                best, parts = self._badness(), self.parts.copy()
        return parts[self.groups]

    def _fill(self) -> None:
        """Place each group where it brings the counts closest to the targets."""
        for group in self.groups:
            change = self.counts[group]
            part = _growth(self.filled, change, self.targets).round(DECIMALS).argmin()
            self.parts[group] = part
            self.filled[part] += change

    def _draw(self, chance: random.Random) -> None:
        """Place each group anywhere."""
        self.parts[self.groups] = chance.choices(range(len(self.kept)), k=len(self.groups))
        self.filled = self.kept.copy()
        np.add.at(self.filled, self.parts, self.counts)

    def _improve(self) -> None:
        """Move groups, and exchange them, until no such step makes the plan better.

        In the end a label is in as many parts as it has groups without other labels: if it lacked one, another part
        would have two of them, or need none, and to move one of these would close the gap.
        """
        for _ in range(MOST_PASSES):
            groups, partners = self._candidates()
            if not sum([self._exchange(group, partners) for group in groups]):
                break

    def _candidates(self) -> tuple[Integers, Integers]:
        """The groups to exchange and the rows to exchange them with: where there are too many, only to close gaps."""
        groups = self.groups
        if self._comparisons(groups) > MOST_COMPARISONS:
            gaps = (self.filled == 0).any(axis=0)
            groups = groups[self.counts[groups][:, gaps].any(axis=1)]
        if self._comparisons(groups) > MOST_COMPARISONS:
            return groups, self.places
        return groups, np.concatenate([groups, self.places])

    def _comparisons(self, groups: Integers) -> int:
        return len(groups) ** 2 * int(self.counts.shape[1])

    def _exchange(self, group: int, partners: Integers) -> bool:
        """Exchange the group with the partner that makes the plan best; False where none makes it better."""
        part = self.parts[group]
        partners = partners[self.parts[partners] != part]
        others = self.parts[partners]
        change = self.counts[partners] - self.counts[group]
        gaps = self._gaps(part, change) + self._gaps(others, -change)
        here = _growth(self.filled[part], change, self.targets[part])
        there = _growth(self.filled[others], -change, self.targets[others])
        distance = (here + there).round(DECIMALS)
        best = np.where(gaps == gaps.min(), distance, np.inf).argmin()
        if (gaps[best], distance[best]) >= (0, 0.0):
            return False
        self.filled[part] += change[best]
        self.filled[others[best]] -= change[best]
        self.parts[group] = others[best]
        if partners[best] < len(self.groups):
            self.parts[partners[best]] = part
        return True

    def _gaps(self, part: Integers, change: Integers) -> Integers:
        """How much more the gaps of the part weigh when its counts change."""
        filled = self.filled[part]
        more = (filled + change == 0).astype(np.int64) - (filled == 0)
        return np.asarray((self.weights[part] * more).sum(axis=-1))

    def _badness(self) -> tuple[int, float]:
        distance = ((self.filled - self.targets) ** 2 / self.targets).sum().round(DECIMALS)
        return int(self.weights[self.filled == 0].sum()), float(distance)


def _growth(filled: Integers, change: Integers, targets: Floats) -> Floats:
    """The growth of the chi-square distance of counts from their targets when the counts change."""
    return np.asarray(((2 * (filled - targets) + change) * change / targets).sum(axis=-1))
