"""The order of the clips in an epoch: a pure function of the seed and the epoch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

BATCHES_AT_ONCE = 50
"""Those of like length are put together among the clips of so many batches: the more, the less padding and chance."""

LEAST_CHUNKS = 4
"""Few clips are cut into so many chunks all the same, so that batches differ between epochs."""

ALIKE = 1.05  # times as long: padding by 5% costs less than batches that are always the same

Order = npt.NDArray[np.int64]
"""(clips,) indices."""


class ClipSampler:
    """The clips of an epoch in their order.

    A loader that cuts the order into pieces of `batch_size` gets the batches that are meant here; the last one alone
    may be smaller. What comes depends on the seed and the epoch and on nothing else, so a resumed run and each of
    several processes see the same.

    Args:
        labels: (clips,) numbers.
        lengths: (clips,) samples that the network is given.
        batch_size: clips that are padded together.
        seed: another one gives other orders.
        balanced: as many clips as there are, every label as likely, in place of each clip once. A clip comes again only
            after all others of its label.
        group_by_length: batch clips of like length, as `LengthGroupedSampler` of transformers does; the batch with
            the longest clip comes first, so that a lack of memory shows at once.

    Raises:
        ValueError: there are no clips, or not as many labels as lengths.
    """

    def __init__(
        self,
        labels: Sequence[int],
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        balanced: bool,
        group_by_length: bool,
    ) -> None:
        if not len(labels) or len(labels) != len(lengths):
            raise ValueError(f"{len(labels)} labels and {len(lengths)} lengths: there must be as many, and at least 1")
        self._labels: Order = np.asarray(labels, dtype=np.int64)
        self._lengths: Order = np.asarray(lengths, dtype=np.int64)
        self._batch_size = batch_size
        self._seed = seed
        self._balanced = balanced
        self._group_by_length = group_by_length
        self._epoch = 0

    def __len__(self) -> int:
        """The number of clips."""
        return len(self._labels)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order comes next."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """(epoch, index, draw) for each clip: draw counts how often it came before in this epoch."""
        epoch = self._epoch
        generator = np.random.default_rng([self._seed, epoch])
        order = _draw_balanced(self._labels, generator) if self._balanced else generator.permutation(len(self))
        if self._group_by_length:
            order = _group_by_length(order, self._lengths, self._batch_size, generator)
        drawn: Counter[int] = Counter()
        for index in order.tolist():
            yield epoch, index, drawn[index]
            drawn[index] += 1


class ProcessBatches:
    """The batches of one process, for `torch.utils.data.DataLoader(batch_sampler=...)`.

    Each step takes the next `batch_size` clips of each process. What is left for the last one is dealt out evenly: the
    loader of accelerate would fill it up with clips that have been trained on already, and several processes would
    not learn what one does. Where fewer clips than processes are left, the step before takes them on.

    Args:
        sampler: the order of the clips.
        batch_size: clips of a process in a step; one more where the last step takes on what is left.
        process: the number of this process, from 0.
        processes: how many there are.

    Raises:
        ValueError: there are fewer clips than processes.
    """

    def __init__(self, sampler: ClipSampler, batch_size: int, process: int = 0, processes: int = 1) -> None:
        if len(sampler) < processes:
            raise ValueError(f"{len(sampler)} clips cannot be dealt out to {processes} processes")
        self._sampler = sampler
        self._process = process
        self._processes = processes
        step = batch_size * processes
        self._bounds = [*range(0, len(sampler) - processes + 1, step), len(sampler)]

    def __len__(self) -> int:
        """The steps of an epoch."""
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        """The keys of each batch."""
        order = list(self._sampler)
        for first, last in itertools.pairwise(self._bounds):
            dealt = np.linspace(first, last, self._processes + 1).astype(int)
            yield order[dealt[self._process] : dealt[self._process + 1]]


def _draw_balanced(labels: Order, generator: np.random.Generator) -> Order:
    """As many indices as there are labels, as many of each label as possible without a remainder, shuffled."""
    borne = np.unique(labels)
    shares = np.full(len(borne), len(labels) // len(borne))
    shares[generator.permutation(len(borne))[: len(labels) % len(borne)]] += 1
    drawn = []
    for label, share in zip(borne, shares, strict=True):
        clips = np.flatnonzero(labels == label)
        rounds = -(-share // len(clips))
        drawn.append(np.concatenate([generator.permutation(clips) for _ in range(rounds)])[:share])
    return generator.permutation(np.concatenate(drawn))


def _group_by_length(order: Order, lengths: Order, batch_size: int, generator: np.random.Generator) -> Order:
    """The same indices, in batches of like length; all batches but the last are full."""
    order = order.copy()
    longest = int(lengths[order].argmax())
    # At the front, it cannot end in the smaller batch, which has to stay the last.
    order[[0, longest]] = order[[longest, 0]]
    full = len(order) // batch_size
    chunks = max(1, min(LEAST_CHUNKS, full), -(-full // BATCHES_AT_ONCE))
    starts = [batch_size * (full * number // chunks) for number in range(1, chunks)]
    # Clips of nearly one length stay in their random order: sorted further, they would meet the same others for ever.
    alike = (np.log(np.maximum(lengths, 1)) / np.log(ALIKE)).astype(np.int64)
    grouped = np.concatenate([some[np.argsort(-alike[some], kind="stable")] for some in np.split(order, starts)])
    batches = grouped[: full * batch_size].reshape(full, batch_size)
    others = 1 + generator.permutation(max(full - 1, 0))
    return np.concatenate([batches[:1].ravel(), batches[others].ravel(), grouped[full * batch_size :]])
