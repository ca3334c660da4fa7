"""The order of the clips: what each epoch holds, in which batches, and always the same for the same seed."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, strategies

from crycli.sampling import ClipSampler, ProcessBatches

Key = tuple[int, int, int]


def keys(
    labels: list[int],
    lengths: list[int] | None = None,
    batch_size: int = 4,
    *,
    epoch: int = 0,
    seed: int = 0,
    balanced: bool = False,
    group_by_length: bool = False,
) -> list[Key]:
    """An epoch of a sampler made for it alone."""
    lengths = [1] * len(labels) if lengths is None else lengths
    sampler = ClipSampler(labels, lengths, batch_size, seed=seed, balanced=balanced, group_by_length=group_by_length)
    sampler.set_epoch(epoch)
    return list(sampler)


def batches(found: list[Key], batch_size: int) -> list[list[int]]:
    """The indices of each batch, as torch's BatchSampler cuts them."""
    indices = [index for _, index, _ in found]
    return [indices[first : first + batch_size] for first in range(0, len(indices), batch_size)]


@strategies.composite
def datasets(draw: strategies.DrawFn) -> dict[str, Any]:
    """The arguments of a sampler, for up to 60 clips of up to 4 labels."""
    clips = draw(strategies.integers(1, 60))
    return {
        "labels": draw(strategies.lists(strategies.integers(0, 3), min_size=clips, max_size=clips)),
        "lengths": draw(strategies.lists(strategies.integers(1, 50), min_size=clips, max_size=clips)),
        "batch_size": draw(strategies.integers(1, 12)),
        "seed": draw(strategies.integers(0, 2**32 - 1)),
        "epoch": draw(strategies.integers(0, 3)),
        "group_by_length": draw(strategies.booleans()),
    }


@given(arguments=datasets())
def test_shuffled_each_clip_comes_once(arguments: dict[str, Any]) -> None:
    found = keys(**arguments)
    assert sorted(index for _, index, _ in found) == list(range(len(arguments["labels"])))
    assert {(epoch, draw) for epoch, _, draw in found} == {(arguments["epoch"], 0)}


@given(arguments=datasets())
def test_balanced_every_label_comes_as_often_and_no_clip_again_before_all_others_of_its_label(
    arguments: dict[str, Any],
) -> None:
    found, labels = keys(**arguments, balanced=True), arguments["labels"]
    assert len(found) == len(labels)
    by_label = Counter(labels[index] for _, index, _ in found)
    shares = [by_label[label] for label in set(labels)]
    assert max(shares) - min(shares) <= 1
    by_clip = Counter(index for _, index, _ in found)
    for label in set(labels):
        times = [by_clip[index] for index in range(len(labels)) if labels[index] == label]
        assert max(times) - min(times) <= 1


@given(arguments=datasets(), balanced=strategies.booleans())
def test_draw_counts_how_often_the_clip_came_before(arguments: dict[str, Any], balanced: bool) -> None:
    before: Counter[int] = Counter()
    for _, index, draw in keys(**arguments, balanced=balanced):
        assert draw == before[index]
        before[index] += 1


@given(arguments=datasets(), balanced=strategies.booleans())
def test_the_order_depends_on_the_seed_and_the_epoch_alone(arguments: dict[str, Any], balanced: bool) -> None:
    epoch = arguments.pop("epoch")
    settings = {**arguments, "balanced": balanced}
    sampler = ClipSampler(settings.pop("labels"), settings.pop("lengths"), settings.pop("batch_size"), **settings)
    for earlier in range(epoch):
        sampler.set_epoch(earlier)
        next(iter(sampler))
    np.random.default_rng().random()
    sampler.set_epoch(epoch)
    assert list(sampler) == list(sampler) == keys(**arguments, balanced=balanced, epoch=epoch)


@given(arguments=datasets(), balanced=strategies.booleans())
def test_grouped_by_length_the_batch_with_the_longest_clip_comes_first(
    arguments: dict[str, Any], balanced: bool
) -> None:
    arguments["group_by_length"] = True
    lengths = arguments["lengths"]
    cut = batches(keys(**arguments, balanced=balanced), arguments["batch_size"])
    longest = max(lengths[index] for batch in cut for index in batch)
    assert longest in [lengths[index] for index in cut[0]]


@pytest.mark.parametrize("balanced", [False, True])
def test_grouping_holds_the_same_clips_as_not_grouping(balanced: bool) -> None:
    labels, lengths = [0] * 90 + [1] * 13, list(range(103))
    orders = [
        sorted(keys(labels, lengths, balanced=balanced, group_by_length=grouped, seed=3)) for grouped in (False, True)
    ]
    assert orders[0] == orders[1]


@pytest.mark.parametrize("clips", [400, 403])
def test_grouping_pads_far_less_and_every_batch_but_the_last_is_of_like_lengths(clips: int) -> None:
    lengths = np.random.default_rng(0).integers(16_000, 160_000, clips)

    def padded(group_by_length: bool) -> float:
        found = keys([0] * clips, lengths.tolist(), 8, group_by_length=group_by_length)
        parts = [lengths[batch] for batch in batches(found, 8)]
        return 1 - lengths.sum() / sum(part.max() * len(part) for part in parts)

    assert padded(True) < 0.15 < 0.35 < padded(False)
    found = keys([0] * clips, lengths.tolist(), 8, group_by_length=True)
    spreads = [np.ptp(lengths[batch]) for batch in batches(found, 8)]
    assert max(spreads) < 0.5 * np.ptp(lengths)


@pytest.mark.parametrize("clips", [16, 100, 1000])
def test_grouped_batches_differ_from_epoch_to_epoch(clips: int) -> None:
    lengths = list(range(clips))
    seen = [
        {frozenset(batch) for batch in batches(keys([0] * clips, lengths, group_by_length=True, epoch=epoch), 4)}
        for epoch in range(2)
    ]
    assert len(seen[0] & seen[1]) < len(seen[0]) / 2


@pytest.mark.parametrize(("balanced", "group_by_length"), itertools.product([False, True], repeat=2))
def test_another_seed_and_another_epoch_give_another_order(balanced: bool, group_by_length: bool) -> None:
    labels = [0, 1] * 50
    orders = [
        [
            index
            for _, index, _ in keys(labels, seed=seed, epoch=epoch, balanced=balanced, group_by_length=group_by_length)
        ]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_over_the_epochs_every_clip_of_a_label_is_drawn_as_often() -> None:
    labels = [0] * 90 + [1] * 10
    drawn = Counter(index for epoch in range(200) for _, index, _ in keys(labels, balanced=True, epoch=epoch))
    assert all(drawn[index] == 1000 for index in range(90, 100))
    assert all(60 < drawn[index] < 170 for index in range(90))


@pytest.mark.parametrize(("balanced", "group_by_length"), itertools.product([False, True], repeat=2))
def test_fewer_clips_than_a_batch_are_one_batch(balanced: bool, group_by_length: bool) -> None:
    found = keys([0, 1, 1], [5, 9, 7], 8, balanced=balanced, group_by_length=group_by_length)
    assert len(found) == 3


def test_a_loader_of_torch_gets_the_batches_that_are_meant() -> None:
    from torch.utils.data import DataLoader

    labels, lengths = [0] * 11, list(range(11))
    sampler = ClipSampler(labels, lengths, 4, seed=0, balanced=False, group_by_length=True)

    class Keys:
        def __len__(self) -> int:
            return 11

        def __getitem__(self, key: Key) -> Key:
            return key

    loader: Any = DataLoader(Keys(), batch_size=4, sampler=sampler, collate_fn=list)  # type: ignore[arg-type]
    assert [len(batch) for batch in loader] == [4, 4, 3]
    assert [key for batch in loader for key in batch] == list(sampler)
    assert 10 in [index for _, index, _ in next(iter(loader))]


@pytest.mark.parametrize(("labels", "lengths"), [([], []), ([0, 1], [5])])
def test_no_clips_and_uneven_numbers_are_refused(labels: list[int], lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="labels"):
        ClipSampler(labels, lengths, 4, seed=0, balanced=False, group_by_length=False)


@given(arguments=datasets(), processes=strategies.integers(1, 5))
def test_several_processes_share_each_step_without_a_clip_missing_or_twice(
    arguments: dict[str, Any], processes: int
) -> None:
    clips, batch_size = len(arguments["labels"]), arguments["batch_size"]
    assume(clips >= processes)
    epoch = arguments.pop("epoch")
    sampler = ClipSampler(**arguments, balanced=False)
    sampler.set_epoch(epoch)
    dealt = [ProcessBatches(sampler, batch_size, process, processes) for process in range(processes)]
    steps = list(zip(*dealt, strict=True))
    assert clips // (batch_size * processes) <= len(steps) <= -(-clips // (batch_size * processes))
    sizes = [len(batch) for step in steps for batch in step]
    assert 1 <= min(sizes) <= max(sizes) <= batch_size + (processes > 1)
    assert all(max(map(len, step)) - min(map(len, step)) <= 1 for step in steps)
    assert [key for step in steps for batch in step for key in batch] == list(sampler)


def test_fewer_clips_than_processes_are_refused() -> None:
    sampler = ClipSampler([0, 1], [1, 1], 4, seed=0, balanced=False, group_by_length=False)
    with pytest.raises(ValueError, match="2 clips cannot be dealt out to 3 processes"):
        ProcessBatches(sampler, 4, 0, 3)
