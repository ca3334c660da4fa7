"""Events cut out of their recordings as wav files, in a folder for each label."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePath

import numpy as np

from crycli import remote
from crycli.audio import Excerpt, Location, Reader, Recording, Samples, as_excerpt, refuse_large
from crycli.errors import AudioError
from crycli.events import Event
from crycli.limits import Limits
from crycli.outputs import claim_folder, make_folder, write_bytes
from crycli.predictions import path_text

LONGEST_NAME = 160  # bytes; with two digests and the times 202, and most file systems take 255
ODD_CHARACTERS = re.compile(r"[^\w .+-]|^[ .]+|[ .]+$")
DIGITS = 8

logger = logging.getLogger(__name__)


class SegmentWriter:
    """Writes LABEL/STEM_START-END.wav: 16 bits, the recording's own rate, the mean of its channels.

    The same events give the same files, so that a run that is resumed or done again leaves no others.

    Args:
        folder: for the folders of the labels.
        recordings: all that may come. Of those with the same stem each is told by a digest of its path.
        limits: of decoding.
        force: write into a folder that holds something; files of the same names are replaced, others left.

    Raises:
        OutputError: the folder holds something and `force` is false, or it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        recordings: Iterable[Location | Excerpt],
        limits: Limits | None = None,
        *,
        force: bool = False,
    ) -> None:
        self._folder = claim_folder(folder, force=force)
        self._limits = limits
        self._names = SafeNames(recordings, lambda path: path.stem)

    def write(self, path: Location, events: Sequence[Event]) -> list[Path]:
        """Cut out the events of a recording; returns the files. What cannot be decoded any more is left out."""
        if not events:
            return []
        files: list[Path] = []
        try:
            with remote.local_copy(path) as local:
                for event, recording in _cut_out(local, events, self._limits):
                    files.append(self._write(recording, path_text(path), event))
        except AudioError as error:
            logger.warning("%s: its events are not cut out: %s", path_text(path), error)
        return files

    def _write(self, recording: Recording, path: str, event: Event) -> Path:
        import soundfile

        name = f"{self._names.of(path)}_{event.start:.3f}-{event.end:.3f}.wav"
        file = self._folder / safe_name(event.label) / name
        make_folder(file.parent)
        content = io.BytesIO()  # libsndfile itself would report a full disk as no OSError
        soundfile.write(content, recording.samples, recording.sample_rate, "PCM_16", format="WAV")
        write_bytes(file, content.getvalue())
        return file


def _cut_out(path: Path, events: Sequence[Event], limits: Limits | None) -> Iterator[tuple[Event, Recording]]:
    """Events, by their starts, and what is heard in each, in one pass over the file.

    Each by itself would be decoded from the beginning of the file where seeking is not exact: 94 events in 39 minutes
    of Ogg Vorbis took 72 s. Only what lies between the beginning of an event and its end is held in memory.
    """
    reader = Reader(path, events[0].start, max(event.end for event in events), limits)
    blocks = iter(reader)
    blocks = chain([next(blocks)], blocks)  # the rate is known with the first
    rate = reader.sample_rate
    there = round(reader.start * rate)  # the sample of the file that the next block begins with
    held: deque[tuple[int, Samples]] = deque()  # blocks, with the samples that they begin with
    for event in events:
        first, last = round(event.start * rate), round(event.end * rate)
        refuse_large(last - first, reader.limits)
        while held and held[0][0] + len(held[0][1]) <= first:
            held.popleft()
        while there < last and (block := next(blocks, None)) is not None:
            if there + len(block) > first:
                held.append((there, block))
            there += len(block)
        parts = [block[max(0, first - begin) : last - begin] for begin, block in held if begin < last]
        if not parts:
            raise AudioError("it has become shorter")
        yield event, Recording(np.concatenate(parts), rate)


class SafeNames:
    """Names for what is made of recordings, the same in whatever order they come.

    Args:
        recordings: all that may come. Of those with the same name each is told by a digest of its path.
        name: of a path, without its folder.
    """

    def __init__(self, recordings: Iterable[Location | Excerpt], name: Callable[[PurePath], str]) -> None:
        self._name = name
        paths = {path_text(as_excerpt(recording).path) for recording in recordings}
        self._recordings = Counter(name(PurePath(path)).casefold() for path in paths)

    def of(self, path: str) -> str:
        """The name for a recording, whose path is given as by `path_text`; see `safe_name`."""
        name = self._name(PurePath(path))
        if self._recordings[name.casefold()] <= 1:
            return safe_name(name)
        return f"{safe_name(name)}-{_digest(path)}"


def safe_name(text: str) -> str:
    """A name of one part for a file or folder: letters, digits, spaces, and ".+-_", without dots at its ends.

    What has to be changed for that is told from others by a digest.
    """
    name = ODD_CHARACTERS.sub("_", text).encode()[:LONGEST_NAME].decode(errors="ignore")
    return name if name and name == text else f"{name}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
