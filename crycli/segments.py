"""Events cut out of their recordings as wav files, in a folder for each label."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from crycli import audio, remote
from crycli.audio import Excerpt, Location, as_excerpt
from crycli.errors import AudioError
from crycli.events import Event
from crycli.journal import replacing
from crycli.limits import Limits
from crycli.outputs import claim_folder, make_folder
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
        paths = {path_text(as_excerpt(recording).path) for recording in recordings}
        self._stems = Counter(_stem(path).casefold() for path in paths)

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
        file = self._folder / safe_name(event.label) / f"{self._name(path)}_{event.start:.3f}-{event.end:.3f}.wav"
        make_folder(file.parent)
        with replacing(file) as temporary:
            soundfile.write(temporary, recording.samples, recording.sample_rate, "PCM_16", format="WAV")
        return file

    def _name(self, path: str) -> str:
        stem = _stem(path)
        if self._stems[stem.casefold()] <= 1:
            return safe_name(stem)
        return f"{safe_name(stem)}-{_digest(path)}"


def _stem(path: str) -> str:
    return PurePath(path).stem


def safe_name(text: str) -> str:
    """A name of one part for a file or folder: letters, digits, spaces, and ".+-_", without dots at its ends.

    What has to be changed for that is told from others by a digest.
    """
    name = ODD_CHARACTERS.sub("_", text).encode()[:LONGEST_NAME].decode(errors="ignore")
    return name if name and name == text else f"{name}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
