"""Recordings on disk to mono samples at the rate of the network. No torch here."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crycli.errors import AudioError, DataError

Samples = npt.NDArray[np.float32]
"""(samples,) float32, mono, full scale at 1.0."""

SAMPLE_RATE = 16_000  # Hz, of every published wav2vec2 checkpoint
SHORTEST_SAMPLES = 400  # 25 ms: the receptive field of the wav2vec2 convolutions
BLOCK_SECONDS = 60
SILENT_PEAK = 1e-4  # -80 dB of full scale

SUFFIXES = frozenset(
    ".wav .wave .flac .mp3 .ogg .oga .opus .m4a .aac .mp4 .3gp .3gpp .3g2 .amr .caf .webm .mka .aif .aiff "
    ".aifc .au .snd .wma .w64 .rf64 .mp2".split()
)

SOUNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b".snd", b"dns.", b"caff")
"""First bytes of the files that libsndfile is given. MPEG is not among them, because its decoder prints to standard
error about damaged files; nor is what libsndfile would take for raw samples by its suffix."""
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz; what a damaged header says beyond them would fill the memory
PLAYLISTS = frozenset({"concat", "hls", "dash", "imf"})  # FFmpeg formats that point to other files

logger = logging.getLogger(__name__)

# PyAV passes the interpreter's lock on at every packet: two threads took 3.9 s for what one did in 2.5 s.
_av_lock = threading.Lock()


@dataclass(frozen=True)
class Recording:
    """A decoded file.

    Attributes:
        samples: (samples,) float32, the mean of the channels.
        sample_rate: Hz, as stored in the file.
        cut_short: the file is damaged and only its beginning could be decoded.
    """

    samples: Samples
    sample_rate: int
    cut_short: bool = False

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return len(self.samples) / self.sample_rate


def find_recordings(root: Path) -> Iterator[Path]:
    """The files below a folder that have an audio suffix, in upper or lower case, sorted.

    Hidden ones are skipped, links to folders followed, each folder once.
    """

    def report(error: OSError) -> None:
        logger.warning("skipped the folder %s: %s", error.filename, error.strerror)

    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=report, followlinks=True):
        visited.add(os.path.realpath(folder))
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) not in visited
        )
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(folder, name)


def no_recordings(folder: Path) -> DataError:
    """The error for a folder in which `find_recordings` finds nothing."""
    return DataError(f"no recordings in {folder}: looked for {', '.join(sorted(SUFFIXES))}")


def refuse_short(seconds: float, min_seconds: float) -> None:
    """Raise `AudioError` where a recording is shorter than `data.min_seconds`."""
    if seconds < min_seconds:
        raise AudioError(f"too short: {seconds:.3f} s, and data.min_seconds is {min_seconds}")


def decode(path: Path) -> Recording:
    """Decode a file: with soundfile, and with PyAV (FFmpeg) what soundfile cannot read.

    Raises:
        AudioError: it is missing, unreadable, no audio, empty, or holds NaN or infinite samples.
    """
    if not path.is_file():
        raise AudioError("no such file" if not path.exists() else "not a file")
    if not os.access(path, os.R_OK):
        raise AudioError("permission denied")
    if path.stat().st_size == 0:
        raise AudioError("empty file")
    with path.open("rb") as file:
        magic = file.read(4)
    recording = _decode_with_soundfile(path) if magic in SOUNDFILE_MAGIC else None
    decoder = "soundfile"
    if recording is None:
        decoder = "PyAV"
        with _av_lock:
            recording = _decode_with_av(path)
    logger.debug("%s: %.3f s at %d Hz, by %s", path, recording.seconds, recording.sample_rate, decoder)
    if len(recording.samples) == 0:
        raise AudioError("no samples in it")
    if not np.isfinite(recording.samples).all():
        raise AudioError("holds samples that are NaN or infinite")
    return recording


def _decode_with_soundfile(path: Path) -> Recording | None:
    """None where soundfile cannot read the whole file or finds no frames in it: PyAV salvages more of a damaged one."""
    import soundfile

    try:
        with soundfile.SoundFile(os.fspath(path)) as file:
            rate = int(file.samplerate)
            _check_rate(rate)
            # In blocks: many channels of a long recording never stand in memory together.
            pieces = file.blocks(BLOCK_SECONDS * rate, dtype="float32", always_2d=True)  # each (frames, channels)
            blocks = [piece.mean(axis=1) for piece in pieces]
    except (soundfile.LibsndfileError, OSError, ValueError):
        return None
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return Recording(samples, rate) if len(samples) else None


def _decode_with_av(path: Path) -> Recording:
    import av

    blocks: list[npt.NDArray[Any]] = []
    cut_short = False
    rate = 0
    # "file" alone: a text file that FFmpeg takes for a playlist must not send it to a network or another format.
    options = {"protocol_whitelist": "file"}
    try:
        with av.open(os.path.abspath(path), metadata_errors="ignore", options=options) as container:
            if PLAYLISTS & set(container.format.name.split(",")):
                raise AudioError("a playlist, not a recording")
            if not container.streams.audio:
                raise AudioError("no audio in it")
            # Without a layout the channels stay apart: FFmpeg's own mono is sqrt(2) louder than their mean.
            # Frames of 65,536 samples: some codecs have packets of 64, and each array costs 10 us.
            resampler = av.AudioResampler(format="fltp", frame_size=65_536)
            try:
                for frame in container.decode(container.streams.audio[0]):
                    if not rate:
                        rate = frame.sample_rate
                        _check_rate(rate)
                    blocks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
            except (av.FFmpegError, ValueError):
                cut_short = True
            if rate:
                blocks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(None)]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioError(f"not a readable recording ({_reason(error)})") from None
    if not blocks:
        raise AudioError("damaged: nothing in it can be decoded" if cut_short else "no samples in it")
    return Recording(np.concatenate(blocks).astype(np.float32), rate, cut_short)


def _check_rate(rate: int) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"damaged: its header gives a sample rate of {rate:,} Hz")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0].lower()


def resample(samples: Samples, rate: int, target: int) -> Samples:
    """(samples,) at another rate, by soxr at its high quality.

    FFmpeg's own resampler lets aliases through at -15 dB near the band's edge.
    """
    if rate == target:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, target, quality="HQ"), dtype=np.float32)


def load(path: Path, sample_rate: int = SAMPLE_RATE) -> Samples:
    """A recording at `sample_rate`: (samples,).

    Raises:
        AudioError: see `decode`; also where too little is left for the network.
    """
    recording = decode(path)
    if recording.cut_short:
        logger.warning("%s is damaged: only its first %.1f s are used", path, recording.seconds)
    samples = resample(recording.samples, recording.sample_rate, sample_rate)
    if len(samples) < SHORTEST_SAMPLES:
        raise AudioError(f"too short: {len(samples) / sample_rate:.3f} s")
    return samples


def normalise(samples: Samples) -> Samples:
    """Zero mean and unit variance, as `Wav2Vec2FeatureExtractor` does for one clip: (samples,).

    Each clip is normalised by itself, before any padding.
    """
    centred = samples.astype(np.float64)  # in float32 the squares of loud float recordings overflow
    centred -= centred.mean()
    return np.asarray(centred / np.sqrt(centred.var() + 1e-7), dtype=np.float32)


def window_bounds(length: int, window: int) -> list[tuple[int, int]]:
    """Cover `length` samples with the fewest windows of `window` samples, evenly placed, the last one at the end.

    What is no longer than a window is one window of its own length.
    """
    if length <= window:
        return [(0, length)]
    count = -(-length // window)
    starts = [round(index * (length - window) / (count - 1)) for index in range(count)]
    return [(start, start + window) for start in starts]
