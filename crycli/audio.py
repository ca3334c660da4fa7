"""Recordings on disk to mono samples at the rate of the network. No torch here."""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import stat
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from crycli.errors import AudioError, DataError
from crycli.limits import HIGHEST_RATE, LOWEST_RATE, VALUES_PER_SECOND, Limits

if TYPE_CHECKING:
    import soundfile
    from av import AudioFrame
    from av.container import InputContainer

Samples = npt.NDArray[np.float32]
"""(samples,) float32, mono, full scale at 1.0."""
Location = Path | str
"""Where a recording is: a path, or a URL such as s3://bucket/cry.wav, which is fetched before it is decoded."""

SAMPLE_RATE = 16_000  # Hz, of every published wav2vec2 checkpoint
LOUDEST = 1e15  # full scale is 1; the squares of more overflow in float32
SHORTEST_SAMPLES = 400  # 25 ms: the receptive field of the wav2vec2 convolutions
BLOCK_SECONDS = 60
BLOCK_VALUES = 2**23  # samples times channels that are decoded together: 32 MiB
DENSEST = 6_000  # samples a byte: 65,535 of digital silence are 11 bytes of FLAC
ROUNDING_SECONDS = 0.001  # times in manifests are rounded to it

SUFFIXES = frozenset(
    ".wav .wave .flac .mp3 .ogg .oga .opus .m4a .aac .mp4 .3gp .3gpp .3g2 .amr .caf .webm .mka .aif .aiff "
    ".aifc .au .snd .wma .w64 .rf64 .mp2".split()
)
PICTURES = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1", b"avif", b"avis", b"crx ")  # brands of ISO files
SOUND_STARTS = (
    *(b"fLaC", b"OggS", b".snd", b"caff\0", b"#!AMR", b"ID3"),
    b"riff\x2e\x91\xcf\x11",  # Wave64
    b"\x1aE\xdf\xa3",  # Matroska
    b"0&\xb2u\x8ef\xcf",  # ASF
)
"""First bytes that tell a recording."""
MPEG_STARTS = (
    *(bytes((0xFF, second)) for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)),  # MPEG layer 3
    *(bytes((0xFF, second)) for second in (0xFD, 0xFC, 0xF5, 0xF4, 0xF1, 0xF9)),  # MPEG layer 2, AAC
)
"""First bytes of MPEG frames; raw samples may begin with them, too."""

SOUNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b".snd", b"dns.", b"caff")
"""First bytes of the files that libsndfile is given. MPEG is not among them, because its decoder prints to standard
error about damaged files; nor is what libsndfile would take for raw samples by its suffix."""
SOUNDFILE_CODECS = {
    "PCM_S8": "pcm_s8",
    "PCM_U8": "pcm_u8",
    "PCM_16": "pcm_s16",
    "PCM_24": "pcm_s24",
    "PCM_32": "pcm_s32",
    "FLOAT": "pcm_f32",
    "DOUBLE": "pcm_f64",
    "ULAW": "pcm_mulaw",
    "ALAW": "pcm_alaw",
    "ALAC_16": "alac",
    "ALAC_20": "alac",
    "ALAC_24": "alac",
    "ALAC_32": "alac",
    "IMA_ADPCM": "adpcm_ima_wav",
    "MS_ADPCM": "adpcm_ms",
}
"""soundfile's names to FFmpeg's, without the byte order."""
BYTE_ORDER = re.compile(r"(?<=^pcm_...)[lb]e$")
LONGEST_OGG_PAGE = 65_307  # bytes
HEAD_BYTES = 4_096
SIZE_BYTES = 28  # hold the size in each header that stores one
MPEG_IN_WAV = re.compile(rb"fmt .{4}(\x55\0|\0\x55)", re.DOTALL)
"""The format chunk of a wav that holds MPEG layer 3."""
STREAMED_SIZE = 0x7FFF_0000
AV_FORMATS = (
    "wav w64 aiff au caf flac mp3 ogg aac loas ac3 eac3 amr amrnb amrwb mov matroska asf avi mpeg mpegts wv nistsphere"
).split()
"""FFmpeg formats that are opened: what recorders, phones and cameras write. Playlists, which point to other files, are
not among them; nor is adx, where a damaged header ends the process (FFmpeg 8.1.2)."""
SEEKABLE = frozenset({"mov", "matroska", "caf", "mp3", "aac", "amr"})
"""FFmpeg formats in which seeking is exact (to a millisecond in matroska); others are decoded from the start."""
SEEK_MARGIN = 1.0  # s decoded before the start that is asked for: Opus needs 80 ms to settle
MISSING_SECONDS = 0.5  # encoders disagree with their containers by up to two frames of 64 ms

logger = logging.getLogger(__name__)

# PyAV passes the interpreter's lock on at every packet: two threads took 3.9 s for what one did in 2.5 s.
_av_lock = threading.Lock()


@dataclass(frozen=True)
class Recording:
    """A decoded file, or an excerpt of it.

    Attributes:
        samples: (samples,) float32, the mean of the channels.
        sample_rate: Hz, as stored in the file.
        channels: as stored in the file.
        codec: as FFmpeg calls it, without the byte order: pcm_s16, vorbis, amrnb.
        cut_short: the file is damaged and only its beginning could be decoded.
    """

    samples: Samples
    sample_rate: int
    channels: int = 1
    codec: str = ""
    cut_short: bool = False

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True)
class Excerpt:
    """A recording, or the part of it between two times in seconds."""

    path: Location
    start: float | None = None
    end: float | None = None


def as_excerpt(recording: Location | Excerpt) -> Excerpt:
    """A recording as an excerpt: the whole of it, where it is none."""
    return recording if isinstance(recording, Excerpt) else Excerpt(recording)


def find_recordings(root: Path) -> Iterator[Path]:
    """The recordings below a folder, by their suffix in upper or lower case or by their first bytes, sorted.

    Hidden ones are skipped, links to folders followed, each folder once.
    """

    def report(error: OSError) -> None:
        logger.warning("skipped the folder %s: %s", error.filename, error.strerror)

    visited: set[str] = set()
    inside = os.path.join(os.path.realpath(root), "")

    def follow(folder: str) -> bool:
        real = os.path.realpath(folder)
        # What a link within the root leads to is found in its own place, and belongs there.
        return real not in visited and not (os.path.islink(folder) and real.startswith(inside))

    for folder, subfolders, names in os.walk(root, onerror=report, followlinks=True):
        visited.add(os.path.realpath(folder))
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and follow(os.path.join(folder, name))
        )
        for name in sorted(names):
            known = os.path.splitext(name)[1].lower() in SUFFIXES
            if not name.startswith(".") and (known or _holds_sound(os.path.join(folder, name))):
                yield Path(folder, name)


def _holds_sound(path: str) -> bool:
    """Whether a file's first bytes are those of a recording or a film."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block
            return False
        with open(path, "rb") as file:
            first = file.read(12)
    except OSError:
        return False
    kind = first[8:12]
    return (
        (first[:4] in (b"RIFF", b"RIFX", b"RF64") and kind in (b"WAVE", b"AVI "))
        or (first[:4] == b"FORM" and kind in (b"AIFF", b"AIFC"))
        or (first[4:8] == b"ftyp" and kind not in PICTURES)
        or first.startswith(SOUND_STARTS + MPEG_STARTS)
    )


def no_recordings(folder: Path) -> DataError:
    """The error for a folder in which `find_recordings` finds nothing."""
    return DataError(f"no recordings in {folder}: looked for {', '.join(sorted(SUFFIXES))}")


def refuse_short(seconds: float, min_seconds: float) -> None:
    """Raise `AudioError` where a recording is shorter than `data.min_seconds`."""
    if seconds < min_seconds - ROUNDING_SECONDS:
        raise AudioError(f"too short: {seconds:.3f} s, and data.min_seconds is {min_seconds}")


def decode(
    path: Location, start: float | None = None, end: float | None = None, limits: Limits | None = None
) -> Recording:
    """Decode a file, or the part of it from `start` to `end` in seconds.

    Raises:
        AudioError: it is missing, unreadable, no audio, empty, beyond the limits, or holds NaN or infinite samples.
    """
    reader = Reader(path, start, end, limits)
    samples = _joined(iter(reader), reader.limits)
    logger.debug("%s: %s at %d Hz", path, reader.codec, reader.sample_rate)
    return Recording(samples, reader.sample_rate, reader.channels, reader.codec, reader.cut_short)


class Reader:
    """A recording that is decoded block by block: by soundfile, or by PyAV (FFmpeg) what soundfile cannot read.

    Iterating gives (samples,) float32 blocks of up to a minute, the mean of the channels, at least one sample in all.

    Attributes:
        start: where in the file it begins, in seconds.
        sample_rate: Hz, as stored; this and the next two are known with the first block.
        channels: as stored.
        codec: see `Recording`.
        cut_short: the file is damaged and ends early; known after the last block.

    Raises:
        AudioError: see `decode`.
    """

    def __init__(
        self, path: Location, start: float | None = None, end: float | None = None, limits: Limits | None = None
    ) -> None:
        self.path = Path(path)
        self.limits = limits or Limits()
        self.sample_rate = 0
        self.channels = 0
        self.codec = ""
        self.cut_short = False
        self.start = start or 0.0
        self._end = math.inf if end is None else end
        self._done = 0  # samples given so far
        self._gave_up = False  # soundfile, on the way
        self._first_time: float | None = None

    def __iter__(self) -> Iterator[Samples]:
        head = self._check_file()
        if head.startswith(SOUNDFILE_MAGIC) and not MPEG_IN_WAV.search(head):
            yield from self._count(self._soundfile_blocks())
        if not self._done or self.cut_short:
            yield from self._count(_locked(self._av_blocks()))
        if self._done and self._ends_early and not self.cut_short:
            self.cut_short = _lacks_its_end(self.path, head)
        if not self._done:
            raise AudioError("damaged: nothing in it can be decoded" if self.cut_short else "no samples in it")

    def blocks_at(self, rate: int) -> Iterator[Samples]:
        """The same blocks at another rate in Hz; together they equal `resample` of the whole."""
        blocks = iter(self)
        first = next(blocks)
        yield from resample_blocks(chain([first], blocks), self.sample_rate, rate)

    @property
    def _ends_early(self) -> bool:
        """Whether less has been given than was asked for."""
        first, last = self._range()
        return last - first > ROUNDING_SECONDS * self.sample_rate

    def _check_file(self) -> bytes:
        """The first bytes of a file that is there, is a file, can be read and is not empty."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # to open a pipe would block
                raise AudioError("not a file")
            with self.path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except PermissionError:
            raise AudioError("permission denied") from None
        except (OSError, ValueError) as error:  # ValueError: its name holds a NUL
            missing = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            raise AudioError("no such file" if missing else f"cannot be opened ({_reason(error)})") from None
        if not head:
            raise AudioError("empty file")
        return head

    def _count(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in blocks:
            refuse_wild(block)
            self._done += len(block)
            self._refuse_long(self.start * self.sample_rate + self._done, self.sample_rate, self.channels)
            yield block

    def _describe(self, rate: int, channels: int, codec: str) -> None:
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise AudioError(f"damaged: its header gives a sample rate of {rate:,} Hz")
        self._refuse_many(channels)
        self.sample_rate, self.channels, self.codec = rate, channels, codec

    def _refuse_many(self, channels: int) -> None:
        if channels > self.limits.max_channels:
            raise AudioError(f"{channels:,} channels, and limits.max_channels is {self.limits.max_channels:,}")

    def _refuse_long(self, samples: float, rate: int, channels: int) -> None:
        seconds = self.limits.max_hours * 3600
        if samples > seconds * rate:
            raise AudioError(f"goes on for more than {self.limits.max_hours:g} h (limits.max_hours)")
        if samples * channels > seconds * VALUES_PER_SECOND:
            allowed = f"{self.limits.max_hours:g} h of {VALUES_PER_SECOND:,} values a second"
            raise AudioError(f"{channels:,} channels of {rate:,} Hz hold more than {allowed} (limits.max_hours)")

    def _refuse_declared(self, samples: float, rate: int, channels: int) -> None:
        """Refuse what is too long by its header, unless the file is too small to hold that much."""
        if 0 < samples <= DENSEST * self.path.stat().st_size:
            self._refuse_long(samples, rate, channels)

    def _range(self) -> tuple[int, float]:
        """The first sample that is still wanted, and the one after the last."""
        return round(self.start * self.sample_rate) + self._done, _samples(self._end, self.sample_rate)

    def _soundfile_blocks(self) -> Iterator[Samples]:
        """What soundfile can read; nothing where it cannot, and `cut_short` is set where it fails on the way."""
        import soundfile

        try:
            # By its descriptor: of a name that ends in .raw soundfile would ask for the sample rate.
            with self.path.open("rb") as opened, soundfile.SoundFile(opened.fileno(), closefd=False) as file:
                self._describe(int(file.samplerate), int(file.channels), _codec(file.format, file.subtype))
                self._refuse_declared(file.frames, self.sample_rate, self.channels)
                first, last = self._range()
                last = min(last, file.frames)
                _skip(file, int(min(first, file.frames)))
                while first < last:
                    count = int(min(last - first, BLOCK_SECONDS * self.sample_rate, BLOCK_VALUES // self.channels))
                    piece = file.read(count, dtype="float32", always_2d=True)  # (frames, channels)
                    if not len(piece):
                        break
                    first += len(piece)
                    yield piece[:, 0] if piece.shape[1] == 1 else piece.mean(axis=1)
        except (soundfile.LibsndfileError, OSError, ValueError):
            self._gave_up = True
            self.cut_short = self._done > 0

    def _av_blocks(self) -> Iterator[Samples]:
        """What PyAV can decode from the first sample that is still wanted."""
        try:
            import av
        except ModuleNotFoundError:
            if self._done or (self.sample_rate and not self._gave_up):  # soundfile has read what there is
                return
            raise AudioError("needs PyAV: pip install av") from None

        options = {"protocol_whitelist": "file", "format_whitelist": ",".join(AV_FORMATS)}
        try:
            with av.open(os.path.abspath(self.path), metadata_errors="ignore", options=options) as container:
                formats = set(container.format.name.split(","))
                if not container.streams.audio:
                    raise AudioError("no audio in it")
                context = container.streams.audio[0].codec_context
                if context is None:
                    raise AudioError("nothing here decodes its kind of audio")
                self._refuse_many(context.channels)
                rate = context.sample_rate
                self._refuse_declared(_declared_seconds(container, formats) * rate, rate, context.channels)
                yield from self._av_stream(container, formats)
        except (av.FFmpegError, OSError, ValueError) as error:
            if not self._done:
                raise AudioError(f"not a readable recording ({_reason(error)})") from None
            self.cut_short = True

    def _av_stream(self, container: InputContainer, formats: set[str]) -> Iterator[Samples]:
        stream = container.streams.audio[0]
        tick = float(stream.time_base or 0)  # s
        zero = (stream.start_time or 0) * tick
        sought = bool(SEEKABLE & formats) and self.start > SEEK_MARGIN and tick > 0
        if sought:
            container.seek(int((zero + self.start - SEEK_MARGIN) / tick), stream=stream)
        position: int | None = None
        waiting: list[Samples] = []
        held = 0
        for part in self._av_parts(container):
            if position is None:
                position = round(((self._first_time or 0.0) - zero) * self.sample_rate) if sought else 0
            first, last = self._range()
            first += held
            wanted = part[max(0, first - position) : max(0, int(min(last - position, len(part))))]
            position += len(part)
            if len(wanted):
                waiting.append(wanted)
                held += len(wanted)
            if held >= BLOCK_SECONDS * self.sample_rate:
                yield np.concatenate(waiting)
                waiting, held = [], 0
            if position >= last:
                break
        if waiting:
            yield np.concatenate(waiting)
        if position is not None and self._ends_early:
            declared = _declared_seconds(container, formats)
            self.cut_short |= declared - position / self.sample_rate > MISSING_SECONDS

    def _av_parts(self, container: InputContainer) -> Iterator[Samples]:
        """The decoded stream in parts, (samples,); `_first_time` is the time of the first, in seconds."""
        import av

        stream = container.streams.audio[0]
        # Without a layout the channels stay apart: FFmpeg's own mono is sqrt(2) louder than their mean.
        # Interleaved: PyAV 18.1 reads wild memory where more than eight channels lie in planes of their own.
        # Frames of 65,536 samples: some codecs have packets of 64, and each array costs 10 us.
        size = min(65_536, BLOCK_VALUES // max(1, stream.channels))
        resampler = av.AudioResampler(format="flt", frame_size=size)
        try:
            for frame in container.decode(stream):
                if not self.sample_rate:
                    codec = BYTE_ORDER.sub("", stream.codec_context.codec.canonical_name)
                    self._describe(frame.sample_rate, frame.layout.nb_channels, codec)
                self._first_time = frame.time or 0.0 if self._first_time is None else self._first_time
                for part in resampler.resample(frame):
                    yield _mean_of_channels(part)
        except (av.FFmpegError, ValueError):
            self.cut_short = True
        if self._first_time is not None:
            for part in resampler.resample(None):
                yield _mean_of_channels(part)


def _skip(file: soundfile.SoundFile, frames: int) -> None:
    """Go to a frame; libsndfile's seek is 128 samples off near the end of a Vorbis stream."""
    if file.subtype != "VORBIS":
        file.seek(frames)
    while file.subtype == "VORBIS" and frames > 0:
        read = len(file.read(min(frames, BLOCK_SECONDS * file.samplerate), dtype="float32"))
        frames = frames - read if read else 0


def _mean_of_channels(frame: AudioFrame) -> Samples:
    samples = frame.to_ndarray().reshape(frame.samples, -1)  # (samples, channels)
    return np.asarray(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1), dtype=np.float32)


def _declared_seconds(container: InputContainer, formats: set[str]) -> float:
    """The duration that a container stores; 0 where it stores none, and FFmpeg guesses from the bit rate."""
    stream = container.streams.audio[0]
    if "matroska" in formats:
        return (container.duration or 0) / 1e6  # it comes in microseconds
    if "caf" in formats:
        return stream.frames / stream.rate if stream.rate else 0.0
    if formats & {"mov", "flac"}:
        return float((stream.duration or 0) * (stream.time_base or 0))
    return 0.0


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0].lower()


def _samples(seconds: float, rate: int) -> float:
    return seconds if math.isinf(seconds) else round(seconds * rate)


def _codec(form: str, subtype: str) -> str:
    """FFmpeg's name for what soundfile calls `subtype`."""
    if form == "FLAC":
        return "flac"
    return SOUNDFILE_CODECS.get(subtype, subtype.lower())


def _lacks_its_end(path: Path, head: bytes) -> bool:
    """Whether a file that soundfile has read is shorter than its header says, or lacks Ogg's last page."""
    size = path.stat().st_size
    magic = head[:4]
    if magic == b"OggS":
        with path.open("rb") as file:
            file.seek(max(0, size - LONGEST_OGG_PAGE))
            return not _ends_with_last_ogg_page(file.read())
    if len(head) < SIZE_BYTES:
        return False
    if magic == b"RF64":
        declared = 8 + struct.unpack_from("<Q", head, 20)[0]
    elif magic == b"riff":
        declared = struct.unpack_from("<Q", head, 16)[0]
    elif magic == b"caff":
        declared = _caf_size(path, size)
    elif magic == b".snd":
        declared = sum(struct.unpack_from(">II", head, 4))
    elif magic in (b"RIFF", b"RIFX", b"FORM"):
        declared = 8 + struct.unpack_from("<I" if magic == b"RIFF" else ">I", head, 4)[0]
    else:
        return False
    # Who writes into a pipe does not know the size, and gives one near 2 or 4 GB. One byte may be padding.
    return bool(size + 1 < declared < STREAMED_SIZE)


def _caf_size(path: Path, size_on_disk: int) -> int:
    """How long a CAF file is by the size of its sound; 0 where it does not say."""
    with path.open("rb") as file:
        end = 8
        while end + 12 <= size_on_disk:
            file.seek(end)
            name, size = struct.unpack(">4sq", file.read(12))
            end += 12 + size
            if name == b"data" or size < 0:
                return end if size > 0 else 0
    return 0


def _ends_with_last_ogg_page(tail: bytes) -> bool:
    page = tail.rfind(b"OggS")  # 27 bytes of header, the fifth its flags, the last the number of segment sizes
    if page < 0 or len(tail) < page + 27:
        return False
    sizes = tail[page + 27 : page + 27 + tail[page + 26]]
    complete = len(sizes) == tail[page + 26] and len(tail) >= page + 27 + len(sizes) + sum(sizes)
    return complete and bool(tail[page + 5] & 4)


def _locked(blocks: Iterator[Samples]) -> Iterator[Samples]:
    """The same blocks, one thread at a time at work on them."""
    while True:
        with _av_lock:
            block = next(blocks, None)
        if block is None:
            return
        yield block


def resample(
    samples: Samples, rate: int, target: int, quality: Literal["QQ", "LQ", "MQ", "HQ", "VHQ"] = "HQ"
) -> Samples:
    """(samples,) at another rate, by soxr.

    FFmpeg's own resampler lets aliases through at -15 dB near the band's edge.
    """
    if rate == target:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, target, quality=quality), dtype=np.float32)


def resample_blocks(blocks: Iterable[Samples], rate: int, target: int) -> Iterator[Samples]:
    """Blocks of a recording, (samples,), at another rate as they come; together they equal `resample` of the whole.

    They come late by what the filter looks ahead: 0.03 s from 48 to 16 kHz, 0.05 s from 8 to 16 kHz.
    """
    if rate == target:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def load(
    path: Location,
    sample_rate: int = SAMPLE_RATE,
    start: float | None = None,
    end: float | None = None,
    limits: Limits | None = None,
) -> Samples:
    """A recording, or the part of it from `start` to `end` in seconds, at `sample_rate`: (samples,).

    Raises:
        AudioError: see `decode`; also where too little is left for the network.
    """
    reader = Reader(path, start, end, limits)
    samples = _joined(reader.blocks_at(sample_rate), reader.limits)
    refuse_tiny(len(samples), sample_rate)
    if reader.cut_short:
        warn_of_damage(reader.path, reader.start + len(samples) / sample_rate)
    return samples


def _joined(blocks: Iterator[Samples], limits: Limits) -> Samples:
    """Blocks as one array, (samples,)."""
    held: list[Samples] = []
    count = 0
    for block in blocks:
        count += len(block)
        refuse_large(count, limits)
        held.append(block)
    return held[0] if len(held) == 1 else np.concatenate(held)


def refuse_large(samples: int, limits: Limits) -> None:
    """Raise `AudioError` where there are more samples than are held in memory together."""
    if samples > limits.max_samples:
        raise AudioError(f"too long to be held in memory: more than {limits.max_samples:,} samples")


def refuse_wild(block: Samples) -> None:
    """Raise `AudioError` where samples, (samples,), are no numbers that can be worked with."""
    if not max(block.max(initial=0.0), -block.min(initial=0.0)) <= LOUDEST:  # also where that is NaN
        raise AudioError("holds samples that are NaN or infinite, or beyond any scale")


def refuse_tiny(samples: int, rate: int) -> None:
    """Raise `AudioError` where a recording at the rate of the network is shorter than its convolutions reach."""
    if samples < SHORTEST_SAMPLES:
        raise AudioError(f"too short: {samples / rate:.3f} s")


def warn_of_damage(path: Path, seconds: float) -> None:
    """Say that only the beginning of a recording is used."""
    logger.warning("%s is damaged: only its first %.1f s are used", path, seconds)


def normalise(samples: Samples) -> Samples:
    """Zero mean and unit variance, as `Wav2Vec2FeatureExtractor` does for one clip: (samples,).

    Each clip is normalised by itself, before any padding.
    """
    centred = samples.astype(np.float64)  # in float32 the squares of loud float recordings overflow
    centred -= centred.mean()
    variance = np.einsum("i,i->", centred, centred) / len(centred)
    centred *= 1.0 / np.sqrt(variance + 1e-7)
    return centred.astype(np.float32)


class Digest:
    """What tells a sound from others, computed from its blocks: equal samples have the same digest."""

    def __init__(self) -> None:
        import xxhash  # which is not installed with what runs a bundle

        self._hash = xxhash.xxh3_128()

    def add(self, samples: Samples) -> None:
        """Take a block, (samples,), into account."""
        self._hash.update(samples.tobytes())

    def text(self) -> str:
        """32 hexadecimal digits."""
        return self._hash.hexdigest()


def digest(samples: Samples) -> str:
    """The `Digest` of a whole, (samples,)."""
    found = Digest()
    found.add(samples)
    return found.text()
