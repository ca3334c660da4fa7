"""The report is one sound page whatever the names in it, and its pictures and players say what the clips hold."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import jinja2
import numpy as np
import PIL.Image
import pytest
import soundfile
from conftest import cry
from hypothesis import given, settings
from hypothesis import strategies as st

from crycli.audio import SAMPLE_RATE
from crycli.pages import MEASURES, PLAYER_SECONDS, TEMPLATES, player, render, thumbnail

VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "&lt;b&gt; {{ 7 * 7 }} {% raw %}",
    "line\nbreak\0\r",
    "\udcff\ud800",
    "\u202egpj.exe",
    "</style></title><!--",
    "赤ちゃん 👶 بكاء",
)


class Page(HTMLParser):
    """What a page is made of: tags with the names of their attributes, links, and the text of each element."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, ...]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def counts(*labels: str, clips: int = 12) -> dict[str, Any]:
    one = {"clips": clips, "groups": 3, "minutes": 1.25}
    return {"clips": clips * len(labels), "groups": 5, "minutes": 2.5, "labels": dict.fromkeys(labels, one)}


def full_report(name: str = "hungry") -> dict[str, Any]:
    """A report with something everywhere; `name` is every label, path, part, codec and text in it."""
    clip = {"path": name, "label": name, "part": name, "flags": [name], "duration": 6.9, "sample_rate": 8000}
    clip |= {"start": 0.5, "end": 1.0, "loudness_db": -61.0, "bandwidth_hz": None, "clipped_share": 0.0}
    pair = {"first": name, "second": name, "kind": "copy", "offset": 0.0, "seconds": 6.9, "parts": [name, ""]}
    leak = {"part": name, "other": name, "clips": 304, "total": 457, "share": 0.664, "groups": 99, "examples": [name]}
    return {
        "crycli_version": name,
        "command": name,
        "roots": [name],
        "check": False,
        "settings": {"data.group_by": name},
        "parts": {name: counts(name, "tired"), "test": counts("tired")},
        "folds": {name: counts(name)},
        "corpora": {name: counts(name), "esc10": counts(name)},
        "codecs": {name: {name: 3}},
        "measures": {measure: {name: [0, 0.25, 0.5, 0.75, 1]} for measure in MEASURES},
        "durations": {"edges": [0, 1, 2], "counts": [0, 24]},
        "flags": {name: {"clips": 1, "meaning": name}},
        "flagged": [clip | {"silent_share": 0.1}, clip | {"silent_share": None, "start": None, "end": None}],
        "duplicates": [
            pair | {"labels": [name, name], "contradiction": False},
            pair | {"labels": [name, "tired"], "contradiction": True},
        ],
        "confounds": [
            {"measure": "codec", "label": name, "auc": 0.97, "detail": name, "warned": True},
            {"measure": "duration", "label": name, "auc": 0.5, "detail": name, "warned": False},
        ],
        "leakage": [leak],
        "detectable": [
            {"part": name, "clips": 9, "groups": 3, "baseline": 0.8, "accuracy": None, "balanced_accuracy": 0.6},
            {"part": "test", "clips": 40, "groups": 30, "baseline": 0.5, "accuracy": 0.25, "balanced_accuracy": 0.2},
        ],
        "warnings": [name],
        "rejected": [{"path": name, "reason": name}],
    }


def empty_report(check: bool) -> dict[str, Any]:
    kinds = {list: [], dict: {}, str: "", bool: check}
    return {key: kinds[type(value)] for key, value in full_report().items()} | {
        "durations": {"edges": [], "counts": []}
    }


def prepare_page(report: dict[str, Any], media: list[dict[str, str] | None] | None = None) -> str:
    return render("prepare.html", {"report": report, "media": media or []})


def media() -> list[dict[str, str] | None]:
    clip = cry(450.0, 0.3)
    return [{"thumbnail": thumbnail(clip, SAMPLE_RATE), "player": player(clip, SAMPLE_RATE)}]


def content(uri: str, kind: str) -> bytes:
    start = f"data:{kind};base64,"
    assert uri.startswith(start)
    return base64.b64decode(uri.removeprefix(start), validate=True)


def pixels(uri: str) -> np.ndarray:
    """(80, 240, 3)"""
    with PIL.Image.open(io.BytesIO(content(uri, "image/png"))) as image:
        assert (image.format, image.size) == ("PNG", (240, 80))
        return np.asarray(image.convert("RGB")).astype(int)


def heard(uri: str) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(io.BytesIO(content(uri, "audio/mpeg")))
    assert samples.ndim == 1
    return samples, rate


def test_the_page_is_whole_and_asks_for_nothing_from_outside() -> None:
    html = prepare_page(full_report(), media())
    page = Page(html)
    for tag, name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith("data:" if tag in ("img", "audio") else "#"), (tag, name, value)
        assert not name.startswith("on")
    assert not re.search(r"https?:|@import|url\(", html)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, *_ in page.tags)
    assert "default-src 'none'" in html


def test_links_within_the_page_lead_somewhere_and_ids_are_given_once() -> None:
    page = Page(prepare_page(full_report()))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    targets = {value[1:] for _, name, value in page.attributes if name == "href"}
    targets |= {value for _, name, value in page.attributes if name == "aria-labelledby"}
    assert targets <= set(ids)
    assert len(targets) == 11


def test_pictures_charts_and_tables_have_names_for_those_who_cannot_see_them() -> None:
    page = Page(prepare_page(full_report(), media()))
    for tag, *attributes in page.tags:
        assert tag != "img" or "alt" in attributes
        assert tag != "audio" or "aria-label" in attributes
        assert tag != "svg" or {"aria-label", "aria-hidden"} & set(attributes)
        assert tag != "th" or "scope" in attributes


@settings(max_examples=60)
@given(st.text(st.characters(), min_size=1, max_size=20) | st.sampled_from(HOSTILE))
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    picture: list[dict[str, str] | None] = [{"thumbnail": "data:,", "player": "data:,"}]
    harmless = Page(prepare_page(full_report("x" * len(name)), picture))
    assert Page(prepare_page(full_report(name), picture)).tags == harmless.tags


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_shown_as_it_is_save_what_cannot_be_seen(name: str) -> None:
    html = prepare_page(full_report(name))
    html.encode("utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", html)
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
    assert Page(html).texts.count(shown) > 20


def test_a_long_name_is_shortened_and_whole_in_its_title() -> None:
    name = "a" * 300 + "b" * 300
    page = Page(prepare_page(full_report(name)))
    assert any(text.startswith("aaa") and "…" in text and text.endswith("bbb") for text in page.texts)
    assert ("bdi", "title", name) in page.attributes


@pytest.mark.parametrize("check", [False, True])
def test_a_report_of_empty_lists_is_a_page(check: bool) -> None:
    page = Page(prepare_page(empty_report(check)))
    assert "None found." in " ".join(page.texts)
    assert "table" not in {tag for tag, *_ in page.tags}


def test_a_check_needs_no_settings_and_no_rejected_files() -> None:
    report = full_report() | {"check": True}
    del report["settings"], report["rejected"]
    text = " ".join(Page(prepare_page(report)).texts)
    assert "Can these parts be trusted?" in text
    assert "Rejected files" not in text


def test_what_a_template_asks_for_and_does_not_get_is_an_error() -> None:
    report = full_report()
    del report["confounds"]
    with pytest.raises(jinja2.UndefinedError, match="confounds"):
        prepare_page(report)


def test_leakage_stands_in_the_summary_and_so_does_its_absence() -> None:
    leaky = prepare_page(full_report())
    assert 'class="alarm"' in leaky
    assert leaky.index("Leakage: 66% of the clips") < leaky.index('id="counts"')
    clean = prepare_page(full_report() | {"leakage": []})
    assert 'class="alarm"' not in clean
    assert clean.index("No leakage: no group has clips in more than one part.") < clean.index('id="counts"')


def test_what_a_part_can_show_is_a_gain_over_its_baseline() -> None:
    texts = Page(prepare_page(full_report())).texts
    assert texts.count("too few groups") == 1
    shown = [text for text in texts if text.strip()]
    at = shown.index("25.0")
    assert shown[at - 1 : at + 3] == ["50.0%", "25.0", "75.0%", "20.0"]


def test_the_page_says_that_it_holds_sound_only_where_it_does() -> None:
    says = "This page holds the sound of 1 flagged clip "
    assert says in prepare_page(full_report(), media())
    assert says not in prepare_page(full_report())
    assert "it could not be decoded" in prepare_page(full_report(), [None])


def test_tables_stop_at_200_rows_and_say_how_many_more_there_are() -> None:
    report = full_report()
    report["rejected"] *= 100_000
    report["flagged"] *= 50_000
    report["duplicates"] *= 50_000
    report["warnings"] *= 1_000
    report["confounds"] *= 1_000
    html = prepare_page(report)
    assert "and 99,800 more in rejected.csv" in html
    assert html.count("and 99,800 more in the JSON file beside this page") == 2
    assert "and 970 more in the JSON file beside this page" in html
    assert len(html) < 500_000


def test_many_labels_and_parts_are_all_there() -> None:
    labels = [f"label {number}" for number in range(50)]
    report = full_report() | {
        "parts": {f"part {number}": counts(*labels) for number in range(10)},
        "measures": {"duration": {label: [0.0, 1.0, 2.0, 3.0, 4.0] for label in labels}},
    }
    texts = Page(prepare_page(report)).texts
    assert all(texts.count(label) == 3 for label in labels)
    assert "6,000" in texts


def test_numbers_have_separators_units_and_a_true_minus() -> None:
    report = full_report()
    report["measures"] = {
        "sample_rate": {"a": [8000, 8000, 8000, 8000, 44100]},
        "loudness_db": {"a": [-61.0, -50.0, -40.25, -30.0, -0.04]},
        "clipped_share": {"a": [0.0, 0.0, 0.00001, 0.5, 1.0]},
        "channels": {"a": [1, 1, 1, 1, 1]},
        "dc_offset": {},
    }
    text = prepare_page(report)
    for shown in ("44,100 Hz", "\N{MINUS SIGN}40.2 dB", ">0.0 dB<", "under 0.01%", "channels 1."):
        assert shown in text


def colours(css: str) -> dict[str, tuple[int, ...]]:
    found = re.findall(r"--([\w-]+): #([0-9a-f]{6})", css)
    return {name: tuple(bytes.fromhex(value)) for name, value in found}


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    def luminance(colour: tuple[int, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.divide(colour, 255)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_in_light_in_dark_and_in_print() -> None:
    schemes = (TEMPLATES / "base.html").read_text("utf-8").split(":root {")[1:]
    assert len(schemes) == 3
    for scheme in schemes:
        colour = colours(scheme.split("}")[0])
        for text in ("ink", "muted", "accent"):
            assert contrast(colour[text], colour["paper"]) > 4.5
        assert contrast(colour["ink"], colour["wash"]) > 4.5
        assert contrast(colour["muted"], colour["wash"]) > 4.5
        assert contrast(colour["on-accent"], colour["accent"]) > 4.5


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("seconds", [0.05, 6.9, 60.0])
def test_a_thumbnail_is_a_small_png_of_one_size(rate: int, seconds: float) -> None:
    uri = thumbnail(cry(450.0, seconds, rate=rate), rate)
    assert len(np.unique(pixels(uri).reshape(-1, 3), axis=0)) > 8
    assert len(uri) < 16_000


def test_a_thumbnail_shows_when_and_how_high_a_tone_sounds() -> None:
    brightness = pixels(thumbnail(np.concatenate([np.zeros(16_000), tone(4_000.0)]), SAMPLE_RATE)).sum(axis=2)
    assert brightness[:, :115].max() < 20
    mel = np.log10(1 + 4_000 / 700) / np.log10(1 + 8_000 / 700)
    assert abs(brightness[:, 180].argmax() - (1 - mel) * 80) <= 1


def test_a_thumbnail_is_grey_above_what_the_sample_rate_can_hold() -> None:
    low, high = (pixels(thumbnail(cry(450.0, 1.0, rate=rate), rate)) for rate in (8_000, 16_000))
    assert len(np.unique(low[:19].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(high[:19].reshape(-1, 3), axis=0)) > 8


def test_a_quiet_clip_has_a_darker_thumbnail() -> None:
    loud, quiet = (pixels(thumbnail(cry(450.0, 1.0) * gain, SAMPLE_RATE)).mean() for gain in (1.0, 0.01))
    assert quiet < loud * 0.6


@pytest.mark.parametrize("samples", [np.zeros(8_000, np.float32), np.full(8_000, np.nan, np.float32)])
def test_silence_and_what_is_no_number_have_a_black_thumbnail_and_a_silent_player(samples: np.ndarray) -> None:
    assert pixels(thumbnail(samples, SAMPLE_RATE)).max() <= 4
    assert np.abs(heard(player(samples, SAMPLE_RATE))[0]).max() < 1e-4


def tone(hertz: float, seconds: float = 1.0, rate: int = SAMPLE_RATE) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [4_000, 8_000, 12_345, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("seconds", [0.05, 1.5])
def test_a_player_lasts_as_long_as_its_clip(rate: int, seconds: float) -> None:
    samples, played = heard(player(tone(450.0, seconds, rate), rate))
    assert played == 16_000
    assert abs(len(samples) / played - seconds) < 0.08  # MP3 frames at 16 kHz hold 36 ms


@pytest.mark.parametrize("gain", [8.0, 1.0, 0.01, 0.001])
def test_a_player_is_as_loud_as_its_clip(gain: float) -> None:
    clip = tone(450.0, 2.0, 8_000) * gain
    samples, _ = heard(player(clip, 8_000))
    assert abs(20 * np.log10(samples.std() / clip.std())) < 1.0


def test_a_player_is_cut_at_ten_seconds() -> None:
    samples, rate = heard(player(tone(450.0, 25.0, 8_000), 8_000))
    assert abs(len(samples) / rate - PLAYER_SECONDS) < 0.08


def test_a_player_clips_what_is_beyond_full_scale() -> None:
    beyond = cry(450.0, 0.5) * 1_000
    beyond[100:110] = np.inf
    samples, _ = heard(player(beyond, SAMPLE_RATE))
    assert np.isfinite(samples).all()
    assert 0.5 < np.sqrt(np.mean(samples**2)) <= 1.1
