"""Sound that comes through a pipe, such as standard input: raw 16-bit samples, or a wav stream.

What is there is handed on at once: a baby monitor must not wait for a buffer to fill.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from crycli.audio import MPEG_STARTS, SOUND_STARTS, STREAMED_SIZE, Samples, refuse_wild
from crycli.errors import DataError
from crycli.limits import HIGHEST_RATE, LOWEST_RATE, MAX_CHANNELS

BLOCK_SECONDS = 0.1
HEAD_BYTES = 12  # tell a wav from what else there is
LONGEST_FORMAT = 1024  # bytes; 40 are in use
MPEG_FRAME = 24, 1_500  # bytes: the shortest, and what few are longer than
MPEG_RATE = 0b1100  # of a frame's third byte: the sample rate, the same in all
INTEGER, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # format tags of wav
AFTER_SOUND = frozenset((b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"smpl", b"afsp", b"_PMX", b"PEAK"))
"""Chunks that programs write behind the sound."""


@dataclass(frozen=True)
class _Format:
    """How samples are stored: Hz, channels, the tag of wav and the bits of a sample."""

    rate: int
    channels: int
    tag: int = INTEGER
    bits: int = 16

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.bits // 8


def _from_24_bits(content: bytes) -> Samples:
    wide = np.zeros((len(content) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
    return wide.view("<i4")[:, 0].astype(np.float32) * np.float32(2**-31)


_DECODERS: dict[tuple[int, int], Callable[[bytes], Samples]] = {
    (INTEGER, 8): lambda content: (np.frombuffer(content, np.uint8).astype(np.float32) - 128) * np.float32(2**-7),
    (INTEGER, 16): lambda content: np.frombuffer(content, "<i2").astype(np.float32) * np.float32(2**-15),
    (INTEGER, 24): _from_24_bits,
    (INTEGER, 32): lambda content: np.frombuffer(content, "<i4").astype(np.float32) * np.float32(2**-31),
    (FLOAT, 32): lambda content: np.frombuffer(content, "<f4").astype(np.float32),
}
"""From bytes to (values,) by the tag and the bits of a sample."""


class _Source:
    """A stream of bytes of which some can be looked at before they are taken."""

    def __init__(self, stream: BinaryIO) -> None:
        # A buffered stream's `read` waits until all that is asked for is there.
        self._read: Callable[[int], bytes | None] = getattr(stream, "read1", stream.read)
        self._held = b""

    def take(self, most: int) -> bytes:
        """What is there, at most so many bytes; none at the end of the stream."""
        content = self._held[:most] if self._held else self._read(most) or b""
        self._held = self._held[most:]
        return content

    def look(self, count: int) -> bytes:
        """The next bytes, which stay; fewer at the end of the stream."""
        while len(self._held) < count and (more := self._read(count - len(self._held))):
            self._held += more
        return self._held[:count]

    def take_all(self, count: int) -> bytes:
        """The next bytes; fewer at the end of the stream."""
        self.look(count)
        return self.take(count)

    def skip(self, count: int) -> None:
        """Pass over so many bytes."""
        while count > 0 and (passed := self.take(min(count, 65_536))):
            count -= len(passed)


def open_stream(stream: BinaryIO, rate: int, channels: int) -> tuple[int, Iterator[Samples]]:
    """The rate in Hz of what comes through a stream, and its blocks as they come: (samples,), the mean of the channels.

    A wav stream says itself what it is: integers of 8, 16, 24 or 32 bits, or 32-bit floats. It is read to the end
    of the stream, because who writes a wav into a pipe cannot know its size. All else is taken for 16-bit integers,
    least byte first. An incomplete last sample is dropped.

    Args:
        stream: of bytes, open for reading.
        rate: Hz of raw samples.
        channels: of raw samples, interleaved.

    Raises:
        DataError: it is empty, another container, or a wav of another kind.
        AudioError: while iterating: samples that are no numbers.
    """
    source = _Source(stream)
    head = source.look(HEAD_BYTES)
    if not head:
        raise DataError("nothing came on standard input")
    size = 0
    form = _Format(rate, channels)
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        form, size = _wav_header(source)
    elif _is_container(head) or _is_mpeg(source):
        raise DataError("standard input takes 16-bit PCM or wav: pipe it through `ffmpeg -i FILE -f wav -`")
    return form.rate, _blocks(source, form, size)


def _is_container(head: bytes) -> bool:
    return head.startswith((*SOUND_STARTS, b"RIFF", b"RF64", b"RIFX", b"FORM")) or head[4:8] == b"ftyp"


def _is_mpeg(source: _Source) -> bool:
    """Whether two frames begin alike, for raw samples may begin like one, too.

    The third byte holds the bit rate, and both 0 and 255 are none; in quiet raw samples it is one of them.
    """
    head = source.look(3)
    if not head.startswith(MPEG_STARTS) or head[2:] in (b"\0", b"\xff"):
        return False
    shortest, longest = MPEG_FRAME
    content = source.look(longest)
    starts = re.finditer(re.escape(head[:2]) + rb"([^\0\xff])", content[shortest:])
    return any((found[1][0] ^ head[2]) & MPEG_RATE == 0 for found in starts)


def _wav_header(source: _Source) -> tuple[_Format, int]:
    """The format of a wav stream and how many bytes of sound it announces; `source` is then at its sound."""
    form: _Format | None = None
    source.skip(HEAD_BYTES)
    while len(head := source.take_all(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            if form is None:
                break
            return form, size
        if name == b"fmt " and size <= LONGEST_FORMAT:
            form = _wav_format(source.take_all(size))
            size = 0
        source.skip(size + size % 2)
    raise DataError("the wav stream on standard input has no sound")


def _wav_format(content: bytes) -> _Format:
    if len(content) < 16:
        raise DataError("the wav stream on standard input has a damaged header")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", content)
    if tag == EXTENSIBLE and len(content) >= 26:
        (tag,) = struct.unpack_from("<H", content, 24)
    if (tag, bits) not in _DECODERS:
        raise DataError(
            f"the wav stream on standard input holds {bits}-bit samples of kind {tag}; "
            "integers of 8, 16, 24 or 32 bits and 32-bit floats are taken"
        )
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or not 1 <= channels <= MAX_CHANNELS:
        raise DataError(f"the wav stream on standard input says {rate:,} Hz and {channels:,} channels")
    return _Format(rate, channels, tag, bits)


def _blocks(source: _Source, form: _Format, size: int) -> Iterator[Samples]:
    decode = _DECODERS[form.tag, form.bits]
    most = max(1, round(BLOCK_SECONDS * form.rate)) * form.frame_bytes
    rest = b""  # of an incomplete frame
    for content in _sound(source, most, size):
        content = rest + content
        whole = len(content) // form.frame_bytes * form.frame_bytes
        rest = content[whole:]
        if whole:
            block = decode(content[:whole]).reshape(-1, form.channels).mean(axis=1)
            refuse_wild(block)
            yield block


def _sound(source: _Source, most: int, size: int) -> Iterator[bytes]:
    """The bytes of sound as they come; what follows the announced `size` is left out only if it is a known chunk."""
    if 0 < size < STREAMED_SIZE:
        left = size
        while left and (content := source.take(min(most, left))):
            left -= len(content)
            yield content
        padding = size % 2
        if source.look(padding + 4)[padding:] in AFTER_SOUND:
            return
    while content := source.take(most):
        yield content
