"""Acoustic fingerprints, and the pairs of recordings that are copies or overlapping excerpts of one another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from crycli.audio import Samples, resample

Spectrogram = npt.NDArray[np.float32]
"""(frames, bins) power between `LOWEST_HERTZ` and `HIGHEST_HERTZ`."""
Integers = npt.NDArray[np.int64]

RATE = 8_000  # Hz
AVERAGED_RATE = 32_000  # Hz: from here on pairs of samples are averaged first, which saves a fifth of the resampling
FRAME = 512  # samples: 64 ms
HOP = 256  # samples: 32 ms, a whole number of which makes a block of 60 s; 20 ms are 1.6 times the work
CHUNK = 50  # frames at a time: arrays below 128 KB, which malloc does not map, and fault in, anew each time
SHORTEST = RATE // 2  # samples: 0.5 s
LOWEST_HERTZ, HIGHEST_HERTZ = 300, 3_000  # phone uploads have nothing above 3.4 kHz
FIRST_BIN, END_BIN = -(-LOWEST_HERTZ * FRAME // RATE), HIGHEST_HERTZ * FRAME // RATE
BANDS = 17  # one more than the bits of a word
WORD_LAG = 3  # frames: 96 ms
QUIET = 1e-5  # -50 dB of the loudest frame or bin; below it codecs leave nothing as it was
SILENT = 2e-7  # power of a bin, -111 dB of a full-scale tone: ten times the rounding noise of 16-bit files
LARGEST_MEAN = 1e-3  # what leaks of it into the first bin is below `SILENT`

PEAK_FRAMES = 5  # a peak is the largest within 160 ms
PEAK_BINS = 8  # and within 125 Hz on either side: 15 of them a second
PARTS = 4  # of a frame, that a peak's time is told to: with whole frames 1.6 times as many pairs are verified
FAN_OUT = 5  # peaks after the first of a landmark that the others are chosen from; 4 miss 3 more of 115 AMR-NB excerpts
LONGEST_LANDMARK = 160  # parts: 1.28 s
TIME_STEP = 7  # parts: 56 ms
BIN_BITS = 8
LANDMARK_BITS = 32

LARGEST_BUCKET = 1_000  # of one hash, each landmark is paired with so many later ones
LEAST_VOTES = 2
OFFSETS = 3  # of a pair, verified: the ones with the most votes
SLICE = 1_000_000  # collisions or words in memory at a time, about 50 bytes each

# Shares of wrong bits, measured on 457 DonateACry and 400 ESC-10 clips:
#   copies, 95th percentile: MP3 at 32 kbit/s 0.05 and 0.14, Opus at 24 kbit/s 0.11 and 0.23, AMR-NB at 12.2 kbit/s
#   0.21 and 0.30, half a clip 0.20 and 0.23, 3 s and then AMR-NB 0.26 and 0.31;
#   different recordings, the best of every offset, of 183,996 pairs: 0.288 over 38 frames, 0.340 over 74, 0.394 over
#   165; away from 0.5 by at most 1.38 divided by the root of the frames.
MOST_ERRORS = 0.35
LEAST_MARGIN = 1.5  # 0.5 less the share, times the root of the frames: nine standard deviations, which are 0.160
PROBES = 8, 24  # frames, looked at before all are; with the few first 1.1 us a candidate, without them 1.6
MOST_PROBE_ERRORS = 0.43  # the standard deviation for unrelated sound is 0.057 over 8 frames, 0.033 over 24
LEAST_FRAMES = 31  # audible in both recordings: 1 s, of which then at most 23% are wrong


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a recording to find its copies: about 120 bytes a second.

    Attributes:
        words: (frames,) uint16, bit b: whether the step from band b to band b + 1 has grown since `WORD_LAG` frames
            ago; 0 where the frame is silent.
        peaks: (peaks,) uint32, the time in `PARTS` of a frame times 256 plus the bin, ascending.
    """

    words: bytes = b""
    peaks: bytes = b""

    def to_bytes(self) -> bytes:
        """As one string of bytes."""
        return len(self.words).to_bytes(4, "little") + self.words + self.peaks

    @classmethod
    def from_bytes(cls, content: bytes) -> Fingerprint:
        """The inverse of `to_bytes`."""
        end = 4 + int.from_bytes(content[:4], "little")
        return cls(content[4:end], content[end:])


@dataclass(frozen=True)
class Match:
    """Two recordings that share a stretch of sound.

    Attributes:
        first: index of the one.
        second: index of the other, above `first`.
        offset: seconds: where the second begins on the clock of the first.
        seconds: how long they overlap.
        agreement: share of equal bits over the overlap; 0.5 for unrelated sound.
    """

    first: int
    second: int
    offset: float
    seconds: float
    agreement: float


def fingerprint(samples: Samples, sample_rate: int) -> Fingerprint:
    """Fingerprint a recording, or a block of one.

    Spectral peaks (A. Wang, "An industrial-strength audio search algorithm", ISMIR 2003) to find where two recordings
    may overlap, and the signs of the changes of band energy differences (J. Haitsma and T. Kalker, "A highly robust
    audio fingerprinting system", ISMIR 2002) to verify that they do.

    Args:
        samples: (samples,) float32, mono.
        sample_rate: Hz.

    Returns:
        One that is empty, and matches nothing, where the recording is shorter than 0.5 s or silent.
    """
    samples = _at_rate(samples, sample_rate)
    if len(samples) < SHORTEST:
        return Fingerprint()
    power = _spectrogram(samples)
    loudest = float(power.max())
    if loudest <= SILENT:
        return Fingerprint()
    return Fingerprint(_words(power).tobytes(), _peaks(power, max(QUIET * loudest, SILENT)).tobytes())


def _at_rate(samples: Samples, sample_rate: int) -> Samples:
    """(samples,) at `RATE` and without a mean that would leak into the bands, or click at the ends."""
    if len(samples) < 2:
        return samples
    if sample_rate >= AVERAGED_RATE:
        samples = (samples[: len(samples) // 2 * 2 : 2] + samples[1::2]) / np.float32(2)
        sample_rate //= 2
    mean = samples.mean()
    if abs(mean) > LARGEST_MEAN:
        samples = samples - mean
    return resample(samples, sample_rate, RATE, "LQ")


def _spectrogram(samples: Samples) -> Spectrogram:
    from scipy.fft import rfft  # unlike numpy's, in float32

    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    power = np.empty((len(frames), END_BIN - FIRST_BIN), np.float32)
    for first in range(0, len(frames), CHUNK):
        chunk = slice(first, first + CHUNK)
        spectrum = rfft(frames[chunk] * _window(), axis=1)[:, FIRST_BIN:END_BIN]
        np.add(spectrum.real**2, spectrum.imag**2, out=power[chunk])
    return power


@cache
def _window() -> Samples:
    """The sine window: wider than Hann's, so that less depends on where in the sound a frame begins.

    With Hann's, 6 more of 115 excerpts of 2 s are missed, and 8 more of 3 s that had been through MP3.
    """
    return np.sin(np.pi * (np.arange(FRAME) + 0.5) / FRAME).astype(np.float32)


@cache
def _filters() -> Spectrogram:
    """(bins, bands) overlapping triangles, evenly spaced in mel."""
    lowest, highest = 2595 * np.log10(1 + np.array([LOWEST_HERTZ, HIGHEST_HERTZ]) / 700)
    edges = 700 * (10 ** (np.linspace(lowest, highest, BANDS + 2) / 2595) - 1)
    hertz = np.arange(FIRST_BIN, END_BIN)[:, None] * RATE / FRAME
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.asarray(np.minimum(rising, falling).clip(0), dtype=np.float32)


def _words(power: Spectrogram) -> npt.NDArray[np.uint16]:
    bands = power @ _filters()
    total = bands.sum(axis=1)
    audible = total > max(QUIET * float(total.max()), SILENT)
    steps = np.diff(np.log(bands + SILENT), axis=1)
    bits = steps[WORD_LAG:] > steps[:-WORD_LAG]
    words = np.zeros(len(power), np.uint16)
    words[WORD_LAG:] = np.packbits(bits, axis=1, bitorder="little").view("<u2")[:, 0]
    words[WORD_LAG:] *= audible[WORD_LAG:] & audible[:-WORD_LAG]
    return words


def _peaks(power: Spectrogram, floor: float) -> npt.NDArray[np.uint32]:
    keys = _keys(power)
    audible = keys > _keys(np.array([floor], np.float32))
    peaks = np.flatnonzero((keys == _neighbourhood_maximum(keys)) & audible)
    frames, bins = np.divmod(peaks, power.shape[1])
    times = frames * PARTS + _shift(power, frames, bins)
    return np.sort((np.maximum(times, 0) << BIN_BITS | bins).astype(np.uint32))


def _keys(power: Spectrogram) -> npt.NDArray[np.uint16]:
    """The upper bits of each power below its sign, to 0.02 dB: half the memory, in the same order."""
    return (power.view(np.uint32) >> np.uint32(15)).astype(np.uint16)


def _shift(power: Spectrogram, frames: Integers, bins: Integers) -> Integers:
    """In `PARTS` of a frame: from each frame to the top of the parabola through its log power and its neighbours'."""
    around = np.stack([np.maximum(frames - 1, 0), frames, np.minimum(frames + 1, len(power) - 1)])
    before, here, after = np.log(power[around, bins] + SILENT)
    curvature = np.maximum(2 * here - before - after, 1e-6)
    shift = ((after - before) / curvature).clip(-1, 1) / 2
    return np.asarray(np.rint(PARTS * shift), dtype=np.int64)


def _neighbourhood_maximum(keys: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """The largest within `PEAK_FRAMES` and `PEAK_BINS` on either side, by doubling.

    In one line, row after row with zeros between, so that either shift is one of the line: 0.05 ms where
    scipy.ndimage.maximum_filter takes 0.7.
    """
    frames, bins = keys.shape
    width = bins + PEAK_BINS
    line = np.zeros((frames + 2 * PEAK_FRAMES) * width + 2 * PEAK_BINS, np.uint16)
    line[PEAK_BINS:-PEAK_BINS].reshape(-1, width)[PEAK_FRAMES:-PEAK_FRAMES, :bins] = keys
    for step in [*_doublings(PEAK_BINS), *(width * step for step in _doublings(PEAK_FRAMES))]:
        line = np.maximum(line[:-step], line[step:])
    return line.reshape(frames, width)[:, :bins]


def _doublings(reach: int) -> Iterator[int]:
    """How far to shift a maximum each time so that it comes to cover `reach` on either side."""
    width = 1
    while width < 2 * reach + 1:
        step = min(width, 2 * reach + 1 - width)
        yield step
        width += step


def join(blocks: Iterable[tuple[float, Fingerprint]]) -> Fingerprint:
    """The fingerprint of a long recording from those of its blocks.

    Args:
        blocks: (start in seconds, fingerprint of the block), in order.
    """
    placed = [(round(start * RATE / HOP), block) for start, block in blocks]
    words = np.zeros(max((start + len(block.words) // 2 for start, block in placed), default=0), np.uint16)
    peaks = []
    for start, block in placed:
        part = np.frombuffer(block.words, np.uint16)
        words[start : start + len(part)] = part
        peaks.append(np.frombuffer(block.peaks, np.uint32) + np.uint32(start * PARTS << BIN_BITS))
    return Fingerprint(words.tobytes(), np.sort(np.concatenate(peaks)).tobytes() if peaks else b"")


@dataclass(frozen=True)
class _Collection:
    """All fingerprints end to end.

    Attributes:
        words: (all frames,) uint16.
        starts: (recordings + 1,) where the words of each begin.
        bins: (all peaks,) of each peak.
        times: (all peaks,) within the recording, in `PARTS` of a frame.
        owners: (all peaks,) the recording.
    """

    words: npt.NDArray[np.uint16]
    starts: Integers
    bins: npt.NDArray[np.uint8]
    times: npt.NDArray[np.int32]
    owners: npt.NDArray[np.int32]

    @classmethod
    def of(cls, fingerprints: Sequence[Fingerprint]) -> _Collection:
        peaks = np.frombuffer(b"".join(entry.peaks for entry in fingerprints), np.uint32)
        counts = [len(entry.peaks) // peaks.itemsize for entry in fingerprints]
        words = np.frombuffer(b"".join(entry.words for entry in fingerprints), np.uint16)
        lengths = [len(entry.words) // words.itemsize for entry in fingerprints]
        return cls(
            words,
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            peaks.astype(np.uint8),
            (peaks >> BIN_BITS).astype(np.int32),
            np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        )


@dataclass(frozen=True)
class _Candidates:
    """(candidates,) each: pairs of recordings, where the second begins on the first in frames."""

    first: Integers
    second: Integers
    offset: Integers

    def part(self, chosen: Any) -> _Candidates:
        return _Candidates(self.first[chosen], self.second[chosen], self.offset[chosen])


def find_matches(fingerprints: Sequence[Fingerprint]) -> list[Match]:
    """The pairs of recordings of which one is a copy or an overlapping excerpt of the other.

    Different recordings of one source do not match. Of more than `LARGEST_BUCKET` recordings that share a landmark,
    only near neighbours in the sequence are compared, which still links many copies of one recording together.

    Returns:
        Each pair once, sorted.
    """
    collection = _Collection.of(fingerprints)
    matches: list[Match] = []
    for candidates in _candidates(collection):
        matches += _verify(collection, candidates)
    return sorted(matches, key=lambda match: (match.first, match.second))


def _landmarks(collection: _Collection) -> npt.NDArray[np.uint64]:
    """Sorted; each the hash of three peaks in the upper half, the index of the first of them in the lower.

    Three, not two as in the paper: in 457 cries a pair of clips then shares 0.04 landmarks by chance and not 0.5.
    """
    bins, times, owners = collection.bins, collection.times, collection.owners
    choices = list(combinations(range(1, FAN_OUT + 1), 2))
    landmarks = np.empty(len(choices) * len(bins), np.uint64)
    filled = 0
    for near, far in choices:
        count = max(0, len(bins) - far)
        first, second, third = slice(0, count), slice(near, near + count), slice(far, far + count)
        spans = times[third] - times[first]
        anchors = np.flatnonzero((owners[third] == owners[first]) & (spans <= LONGEST_LANDMARK))
        hashes = bins[first][anchors].astype(np.uint64)
        for values in (bins[second], bins[third], (times[second] - times[first]) // TIME_STEP, spans // TIME_STEP):
            hashes = hashes << np.uint64(BIN_BITS) | values[anchors].astype(np.uint64)
        # Fibonacci hashing (Knuth, volume 3, section 6.4): 40 bits to 32.
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes &= np.uint64(0xFFFFFFFF00000000)
        landmarks[filled : filled + len(anchors)] = hashes | anchors.astype(np.uint64)
        filled += len(anchors)
    landmarks = landmarks[:filled]
    landmarks.sort()
    return landmarks


def _candidates(collection: _Collection) -> Iterator[_Candidates]:
    """The pairs whose landmarks agree on an offset, those of a range of first recordings at a time."""
    anchors, later = _buckets(_landmarks(collection))
    owners = collection.owners
    recordings = len(collection.starts) - 1
    totals = np.zeros(recordings, np.int64)
    for begin in range(0, len(anchors), SLICE):
        part = slice(begin, begin + SLICE)
        totals += np.bincount(owners[anchors[part]], later[part], recordings).astype(np.int64)
    for begin, end in _slices(totals):
        low, high = np.searchsorted(owners, np.array([begin, end], owners.dtype))
        chosen = np.flatnonzero((anchors >= int(low)) & (anchors < int(high)) & (later > 0))
        one = np.repeat(chosen, later[chosen])
        other = one + 1 + _ramps(later[chosen])
        yield _vote(collection, anchors[one], anchors[other])


def _buckets(landmarks: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int16]]:
    """Of the landmarks that are not alone with their hash: (landmarks,) first peaks, how many of the bucket follow."""
    half = np.uint64(LANDMARK_BITS)
    equal = np.zeros(len(landmarks) + 1, bool)  # to the one before
    equal[1:-1] = (landmarks[1:] ^ landmarks[:-1]) >> half == 0
    shared = equal[1:] | equal[:-1]
    starts = np.flatnonzero(~equal[:-1][shared])
    anchors = landmarks[shared].astype(np.uint32)
    sizes = np.diff(starts, append=len(anchors))
    ends = np.repeat((starts + sizes).astype(np.int32), sizes)
    later = ends - np.arange(1, len(anchors) + 1, dtype=np.int32)
    return anchors, later.clip(max=LARGEST_BUCKET).astype(np.int16)


def _slices(sizes: Integers) -> list[tuple[int, int]]:
    """Ranges of consecutive items, of about `SLICE` in all each."""
    bounds = np.flatnonzero(np.diff(np.cumsum(sizes) // SLICE, prepend=-1, append=np.iinfo(np.int64).max)).tolist()
    return list(pairwise(bounds))


def _ramps(lengths: npt.NDArray[Any]) -> Integers:
    """0, 1, 2 and so on up to each length, end to end."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.asarray(np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths), dtype=np.int64)


def _vote(collection: _Collection, one: npt.NDArray[np.uint32], other: npt.NDArray[np.uint32]) -> _Candidates:
    """The pairs and offsets that at least `LEAST_VOTES` landmarks agree on, give or take a frame."""
    recordings = len(collection.starts) - 1
    first, second = collection.owners[one], collection.owners[other]
    bias = 1 << (LANDMARK_BITS - BIN_BITS)
    shift = LANDMARK_BITS - BIN_BITS + 1
    offsets = (collection.times[one] - collection.times[other]) // PARTS + bias
    pairs = first.astype(np.int64) * recordings + second
    keys = (pairs << shift | offsets)[first != second]
    keys, counts = np.unique(keys, return_counts=True)
    # Shifted by half a hop, half of the landmarks fall one frame further.
    votes = counts.copy()
    votes[:-1] += np.where(keys[1:] - keys[:-1] == 1, counts[1:], 0)
    enough = np.flatnonzero(votes >= LEAST_VOTES)
    pairs = keys[enough] >> shift
    order = np.lexsort((-votes[enough], pairs))
    pairs = pairs[order]
    firsts = np.flatnonzero(np.diff(pairs, prepend=-1))
    ranks = _ramps(np.diff(firsts, append=len(pairs)))
    kept = order[ranks < OFFSETS]
    offset = (keys[enough[kept]] & ((1 << shift) - 1)) - bias
    pairs = pairs[ranks < OFFSETS]
    return _Candidates(pairs // recordings, pairs % recordings, offset)


def _verify(collection: _Collection, candidates: _Candidates) -> list[Match]:
    """The candidates whose words agree: of each pair the offset at which they do best."""
    best: dict[tuple[int, int], Match] = {}
    for shift in (0, 1):  # the two offsets that were counted together
        shifted = _Candidates(candidates.first, candidates.second, candidates.offset + shift)
        for probes in PROBES:
            shifted = _promising(collection, shifted, probes)
        begin, end = _overlaps(collection, shifted)
        for low, high in _slices(end - begin):
            part = slice(low, high)
            for match in _compare(collection, shifted.part(part), begin[part], end[part]):
                pair = match.first, match.second
                if pair not in best or match.agreement > best[pair].agreement:
                    best[pair] = match
    return list(best.values())


def _overlaps(collection: _Collection, candidates: _Candidates) -> tuple[Integers, Integers]:
    """(candidates,) twice: the frames of the first where the overlap begins and ends."""
    lengths = np.diff(collection.starts)
    begin = np.maximum(candidates.offset, 0)
    end = np.minimum(lengths[candidates.first], lengths[candidates.second] + candidates.offset)
    return begin, np.maximum(begin, end)


def _promising(collection: _Collection, candidates: _Candidates, probes: int) -> _Candidates:
    """Those that `probes` frames, spread over the overlap, do not rule out: ten times faster than to compare all."""
    begin, end = _overlaps(collection, candidates)
    long = np.flatnonzero(end - begin >= LEAST_FRAMES)
    kept = []
    for low, high in _slices(np.full(len(long), probes)):
        part = long[low:high]
        first, second, offset = candidates.first[part], candidates.second[part], candidates.offset[part]
        frames = begin[part, None] + (end - begin)[part, None] * np.arange(probes) // probes
        ones = collection.words[frames + collection.starts[first, None]]
        others = collection.words[frames + (collection.starts[second] - offset)[:, None]]
        audible = (ones != 0) & (others != 0)
        wrong = (np.bitwise_count(ones ^ others) * audible).sum(axis=1)
        heard = audible.sum(axis=1)
        kept.append(part[(heard < probes // 3) | (wrong <= MOST_PROBE_ERRORS * (BANDS - 1) * heard)])
    return candidates.part(np.concatenate(kept) if kept else long)


def _compare(collection: _Collection, candidates: _Candidates, begin: Integers, end: Integers) -> Iterator[Match]:
    lengths = end - begin
    frames = np.repeat(collection.starts[candidates.first] + begin, lengths) + _ramps(lengths)
    ones = collection.words[frames]
    frames -= np.repeat(
        collection.starts[candidates.first] - collection.starts[candidates.second] + candidates.offset, lengths
    )
    others = collection.words[frames]
    audible = (ones != 0) & (others != 0)
    wrong = np.where(audible, np.bitwise_count(ones ^ others), 0)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    heard = np.diff(np.concatenate([[0], np.cumsum(audible)])[edges])
    errors = np.diff(np.concatenate([[0], np.cumsum(wrong)])[edges]) / np.maximum(heard, 1) / (BANDS - 1)
    limits = np.minimum(MOST_ERRORS, 0.5 - LEAST_MARGIN / np.sqrt(np.maximum(heard, 1)))
    for index in np.flatnonzero((heard >= LEAST_FRAMES) & (errors <= limits)):
        yield Match(
            int(candidates.first[index]),
            int(candidates.second[index]),
            float(candidates.offset[index] * HOP / RATE),
            float(lengths[index] * HOP / RATE),
            float(1 - errors[index]),
        )
