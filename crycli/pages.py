"""Reports as one HTML file without scripts or network, and other texts from templates; thumbnails, players."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crycli.audio import SAMPLE_RATE, Samples, resample

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).with_name("templates")
MOST_ROWS = 200
"""Of a table on the page; the files beside it hold all."""

WIDTH, HEIGHT = 240, 80  # pixels of a thumbnail
TOP_HZ = 8_000
RATE = 20_000  # Hz, at which thumbnails are computed: the filter of a lower one would darken what is near 8 kHz
WINDOW = 640  # 32 ms: the harmonics of a cry, 300 Hz apart and more, stay apart
MOST_FRAMES = 8  # averaged in a column: bounds the cost for long recordings
DARKEST_DB, BRIGHTEST_DB = -100.0, -20.0  # of a full-scale tone; the same for all clips, so that quiet ones look quiet
COLOURS = 48  # 64 need 9% more bytes and look the same
NO_SOUND = COLOURS  # the palette's index for what lies above half the sample rate
NO_SOUND_COLOUR = (128, 132, 136)
MAGMA = ("000004", "1c1044", "4f127b", "812581", "b5367a", "e55064", "fb8761", "fec287", "fcfdbf")  # matplotlib's

PLAYER_SECONDS = 10
MP3_LEVEL = 0.5  # of LAME's variable rates; at 0.9 what lies below -85 dB of full scale became 10 dB quieter

MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&$]")
"""What marks something up within a line; the dollar is that of formulas, which model hubs and GitHub set."""

UNKNOWN = "\N{EN DASH}"  # where a number would stand


class Measure(NamedTuple):
    """How a measure of clips is shown."""

    title: str
    unit: str
    decimals: int


MEASURES = {
    "duration": Measure("Duration", "s", 2),
    "sample_rate": Measure("Sample rate", "Hz", 0),
    "bandwidth_hz": Measure("Bandwidth", "Hz", 0),
    "loudness_db": Measure("Loudness", "dB", 1),
    "channels": Measure("Channels", "", 0),
    "clipped_share": Measure("Samples at full scale", "%", 2),
    "silent_share": Measure("Silent time", "%", 1),
    "dc_offset": Measure("Offset from zero", "", 4),
}


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page of HTML, in which whatever the context holds is shown as text; or a text of another kind.

    Args:
        template: the name of a file in `crycli/templates`. Only in .html nothing has to be escaped by the template.
        context: what the template asks for.

    Raises:
        jinja2.UndefinedError: the template asks for something that the context lacks.
    """
    return _environment().get_template(template).render(context)


def thumbnail(samples: Samples, sample_rate: int) -> str:
    """A spectrogram of the whole clip as the data URI of a PNG: 240 x 80 pixels, mel scale up to 8 kHz.

    All clips share the scales of frequency and level, so that they can be compared. What lies above half the sample
    rate is grey.

    Args:
        samples: (samples,) float32, of any length.
        sample_rate: Hz.
    """
    import PIL.Image

    levels = _levels(resample(_tamed(samples), sample_rate, RATE, "LQ"))
    share = (levels - DARKEST_DB) / (BRIGHTEST_DB - DARKEST_DB)
    pixels = np.clip(share * COLOURS, 0, COLOURS - 1).astype(np.uint8)
    pixels[_row_hertz() > sample_rate / 2] = NO_SOUND
    image = PIL.Image.frombytes("P", (WIDTH, HEIGHT), pixels[::-1].tobytes())
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=9)
    return _data_uri("image/png", file.getvalue())


def player(samples: Samples, sample_rate: int) -> str:
    """The first 10 s of a clip as the data URI of an MP3, as loud as the clip.

    It is at 16 kHz, the lowest rate of standard MPEG-2: players differ on the lower ones of "MPEG-2.5".

    Args:
        samples: (samples,) float32; what is beyond full scale is clipped.
        sample_rate: Hz.
    """
    import soundfile

    beginning = _tamed(samples[: PLAYER_SECONDS * sample_rate])
    sound = np.clip(resample(beginning, sample_rate, SAMPLE_RATE), -1.0, 1.0)
    file = io.BytesIO()
    soundfile.write(file, sound, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=MP3_LEVEL)
    return _data_uri("audio/mpeg", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _tamed(samples: Samples) -> Samples:
    return np.clip(np.nan_to_num(samples, nan=0.0), -1.0, 1.0)


def _levels(samples: Samples) -> npt.NDArray[np.float32]:
    """(HEIGHT, WIDTH) dB of a full-scale tone, the lowest frequency first, of (samples,) at `RATE`."""
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    frames_a_column = min(MOST_FRAMES, -(-len(padded) // (WIDTH * WINDOW)))
    starts = np.linspace(0, len(padded) - WINDOW, WIDTH * frames_a_column).astype(np.int64)
    taper = np.hanning(WINDOW).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[starts] * (taper * 2 / taper.sum())
    power = np.square(np.abs(np.fft.rfft(frames))).reshape(WIDTH, frames_a_column, -1).mean(axis=1)
    return np.asarray(10 * np.log10(_row_weights() @ power.T + 1e-12), dtype=np.float32)


@functools.cache
def _row_hertz() -> npt.NDArray[np.float64]:
    """(HEIGHT,) the middle of each row of a thumbnail, upward, evenly spaced in mel."""
    top = 2595 * np.log10(1 + TOP_HZ / 700)
    mel = (np.arange(HEIGHT) + 0.5) / HEIGHT * top
    return np.asarray(700 * (10 ** (mel / 2595) - 1))


@functools.cache
def _row_weights() -> npt.NDArray[np.float64]:
    """(HEIGHT, WINDOW // 2 + 1): what each bin gives to a row; a triangle over the row, no narrower than two bins."""
    rows = _row_hertz()
    spacing = RATE / WINDOW
    reach = np.maximum(np.gradient(rows), spacing)
    distance = np.abs(np.fft.rfftfreq(WINDOW, 1 / RATE) - rows[:, None])
    weights = np.maximum(0, 1 - distance / reach[:, None])
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@functools.cache
def _palette() -> bytes:
    anchors = np.asarray([list(bytes.fromhex(colour)) for colour in MAGMA], dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, COLOURS)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8).tobytes() + bytes(NO_SOUND_COLOUR)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, percent=_percent, quantity=_quantity, short=_short, json=_json)
    environment.filters.update(markdown=_markdown, label_totals=_label_totals, commonest_first=_commonest_first)
    environment.globals.update(most_rows=MOST_ROWS, measure_of=_measure)
    return environment


def _visible(value: object) -> object:
    """Text without control characters, lone surrogates or marks that turn the direction of the text around them.

    They would hide in a page, or not be encoded in UTF-8. What is marked safe is not touched.
    """
    if not isinstance(value, str) or hasattr(value, "__html__") or value.isprintable():
        return value
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in value)


def _markdown(text: str) -> str:
    """A text that Markdown shows as it stands, in a table too, unless it begins a line."""
    return MARKDOWN.sub(r"\\\g<0>", str(_visible(text)))


def _number(value: float | None, decimals: int = 0) -> str:
    if value is None or not np.isfinite(value):
        return UNKNOWN
    # Adding zero after rounding takes the sign off -0.0.
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _percent(share: float | None, decimals: int = 0) -> str:
    """A share as a percentage; what is not all or nothing never reads as 100% or 0%."""
    if share is None or not np.isfinite(share):
        return UNKNOWN
    least = 10.0**-decimals
    if 0 < share * 100 < least:
        return f"under {_number(least, decimals)}%"
    if 100 - least < share * 100 < 100:
        return f"over {_number(100 - least, decimals)}%"
    return _number(share * 100, decimals) + "%"


def _measure(name: str) -> Measure:
    return MEASURES.get(name) or Measure(name.replace("_", " ").capitalize(), "", 3)


def _quantity(value: float | None, measure: str, unit: bool = True) -> str:
    """A value of a measure, with its unit unless it need not be repeated."""
    shown = _measure(measure)
    if shown.unit == "%":
        return _percent(value, shown.decimals)
    return f"{_number(value, shown.decimals)} {shown.unit if unit else ''}".strip()


def _short(text: str, length: int) -> str:
    """The beginning and the end of a text: file names differ in either."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _label_totals(parts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int, float]]:
    """(label, clips, minutes) over all parts, the commonest first."""
    totals: dict[str, tuple[int, float]] = {}
    for part in parts.values():
        for label, counts in part["labels"].items():
            clips, minutes = totals.get(label, (0, 0.0))
            totals[label] = clips + counts["clips"], minutes + counts["minutes"]
    rows = [(label, clips, minutes) for label, (clips, minutes) in totals.items()]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _commonest_first(by_label: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rank = {label: index for index, (label, _, _) in enumerate(_label_totals(parts))}
    return {label: by_label[label] for label in sorted(by_label, key=lambda label: rank.get(label, len(rank)))}
