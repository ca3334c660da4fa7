"""Recordings cut into windows while they are decoded, so that a night of sound never stands in memory.

One rule: windows start at 0, one hop, two hops, ... while a whole window fits; if the last of them ends before the
recording does, one more window ends where the recording ends. What is no longer than a window is one window of its
own length. All that is known without the length of the recording, so a stream and a file are cut alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crycli.audio import Digest, Excerpt, Reader, Samples, refuse_tiny, warn_of_damage
from crycli.limits import Limits


@dataclass(frozen=True)
class Window:
    """A part of a recording.

    Attributes:
        start: its first sample, counted from where the recording or excerpt begins.
        samples: (samples,) float32, of its own memory.
    """

    start: int
    samples: Samples


def window_bounds(length: int, window: int, hop: int) -> list[tuple[int, int]]:
    """The first sample of each window of a recording of `length` samples, and the one after its last; none of nothing.

    Args:
        length: of the recording, in samples.
        window: samples in a window.
        hop: samples from the start of a window to the next one's; `window` where none overlap.
    """
    if length <= window:
        return [(0, length)] if length else []
    starts = list(range(0, length - window + 1, hop))
    if starts[-1] + window < length:
        starts.append(length - window)
    return [(start, start + window) for start in starts]


class WindowCutter:
    """Cuts blocks into the windows of `window_bounds` as they come; holds no more than a window and a block.

    Args:
        window: samples in a window.
        hop: samples from the start of a window to the next one's.
    """

    def __init__(self, window: int, hop: int) -> None:
        self.window = window
        self.hop = hop
        self.length = 0
        self._next = 0  # where the next window starts
        self._held = np.zeros(0, np.float32)  # the newest samples, up to `length`

    def push(self, samples: Samples) -> Iterator[Window]:
        """Take a block, (samples,), and give the windows that it fills; to be exhausted before the next block."""
        self._held = np.concatenate((self._held, samples))
        self.length += len(samples)
        while self._next + self.window <= self.length:
            yield self._cut(self._next)
            self._next += self.hop
        # The next window is wanted, and the last one, which would begin here if the recording ended now.
        self._held = self._held[max(0, min(self._next, self.length - self.window) - self._first) :]

    def close(self) -> Iterator[Window]:
        """Give the window that ends where the recording does, unless it has been given."""
        if self._next == 0:
            if self.length:
                yield Window(0, self._held)
        elif self._next - self.hop + self.window < self.length:
            yield self._cut(self.length - self.window)

    @property
    def _first(self) -> int:
        """The sample of the recording that `_held` begins with."""
        return self.length - len(self._held)

    def _cut(self, start: int) -> Window:
        first = start - self._first
        return Window(start, self._held[first : first + self.window].copy())


class WindowStream:
    """The windows of a recording, decoded and resampled while they are iterated, which can be done once.

    Attributes:
        digest: what `audio.digest` gives for the whole, where it was asked for; known after the last window.

    Raises:
        AudioError: while iterating; see `audio.load`.
    """

    def __init__(self, reader: Reader, rate: int, cutter: WindowCutter, *, digest: bool = False) -> None:
        self.digest = ""
        self._reader = reader
        self._rate = rate
        self._cutter = cutter
        self._wants_digest = digest

    @property
    def seconds(self) -> float:
        """The duration of what was decoded so far; after the last window that of the recording or excerpt."""
        return self._cutter.length / self._rate

    @property
    def cut_short(self) -> bool:
        """Whether the file is damaged and ends early; known after the last window."""
        return self._reader.cut_short

    def __iter__(self) -> Iterator[Window]:
        for block in self._blocks():
            yield from self._cutter.push(block)
        refuse_tiny(self._cutter.length, self._rate)
        if self.cut_short:
            warn_of_damage(self._reader.path, self._reader.start + self.seconds)
        yield from self._cutter.close()

    def _blocks(self) -> Iterator[Samples]:
        blocks = self._reader.blocks_at(self._rate)
        if not self._wants_digest:
            yield from blocks
            return
        digest = Digest()
        for block in blocks:
            digest.add(block)
            yield block
        self.digest = digest.text()


def stream_windows(
    excerpt: Excerpt, rate: int, window: int, hop: int, limits: Limits | None = None, *, digest: bool = False
) -> WindowStream:
    """The windows of a recording or an excerpt at `rate` Hz, in bounded memory however long it is.

    Args:
        excerpt: the recording.
        rate: Hz of the samples that are given.
        window: samples of `rate` in a window.
        hop: samples of `rate` from the start of a window to the next one's.
        limits: what decoding accepts.
        digest: whether to compute the digest of the whole, too.
    """
    reader = Reader(excerpt.path, excerpt.start, excerpt.end, limits)
    return WindowStream(reader, rate, WindowCutter(window, hop), digest=digest)
