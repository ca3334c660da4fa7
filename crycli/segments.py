"""Events cut out of their recordings as wav files, in a folder for each label."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath

from crycli import audio, remote
from crycli.audio import Excerpt, Location, as_excerpt
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
                files.extend(self._cut(local, path_text(path), event) for event in events)
        except AudioError as error:
            logger.warning("%s: its events are not cut out: %s", path_text(path), error)
        return files

    def _cut(self, local: Path, path: str, event: Event) -> Path:
        import soundfile

        recording = audio.decode(local, event.start, event.end, self._limits)
        name = f"{self._names.of(path)}_{event.start:.3f}-{event.end:.3f}.wav"
        file = self._folder / safe_name(event.label) / name
        make_folder(file.parent)
        content = io.BytesIO()  # libsndfile itself would report a full disk as no OSError
        soundfile.write(content, recording.samples, recording.sample_rate, "PCM_16", format="WAV")
        write_bytes(file, content.getvalue())
        return file


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
