"""What `prepare` found: numbers that add up, and a page whose players and pictures are those of their clips."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import cry, settings, write_cries

from crycli.manifest import PARTS, read_manifest
from crycli.prepare import prepare_dataset_csv

BY_BABY = r"data.group_by=baby-\d+"
RATE = 16_000


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of which a loud short one, a quiet long one and others are flagged, and two cannot be read."""
    folder = tmp_path_factory.mktemp("flawed") / "cries"
    write_cries(folder, babies=5)
    soundfile.write(folder / "low" / "a-loud.wav", np.clip(cry(400.0, 1.0, seed=1) * 30, -1, 1), RATE)
    soundfile.write(folder / "high" / "b-quiet.wav", cry(400.0, 4.0, seed=2) * 2e-3, RATE, "FLOAT")
    soundfile.write(folder / "low" / "c-offset.wav", cry(400.0, 2.0, seed=3) * 0.5 + 0.2, RATE)
    soundfile.write(folder / "low" / "d-copy.wav", cry(400.0, 2.0, seed=3) * 0.5 + 0.2, RATE)
    soundfile.write(folder / "high" / "e-silent.wav", np.zeros(RATE), RATE)
    (folder / "low" / "words.wav").write_text("words")
    (folder / "low" / "<b>&amp;.wav").write_text("words")
    return folder


def prepare(cries: Path, output: Path, *assignments: str) -> tuple[dict[str, Any], str]:
    """What prepare.json holds, and the page."""
    prepare_dataset_csv([cries], output, settings(BY_BABY, *assignments))
    return json.loads((output / "prepare.json").read_text()), (output / "report.html").read_text()


class Page(HTMLParser):
    """The cards of the flagged clips, and every address on the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cards: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self.tags: Counter[str] = Counter()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = {name: value or "" for name, value in attrs}
        self.addresses += [values[name] for name in ("src", "href", "srcset", "data", "action") if name in values]
        if tag == "li":
            self.cards.append({"text": ""})
        elif tag in ("img", "audio") and self.cards:
            self.cards[-1][tag] = values["src"]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cards:
            self.cards[-1]["text"] += data


def sound_of(uri: str) -> np.ndarray:
    return soundfile.read(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))[0]


def brightness_of(uri: str) -> float:
    import PIL.Image

    image = PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))
    return float(np.asarray(image.convert("L")).mean())


def test_a_card_holds_the_sound_and_the_picture_of_its_own_clip(flawed: Path, tmp_path: Path) -> None:
    found, text = prepare(flawed, tmp_path, "checks.quiet_db=-40")
    cards = [card for card in Page(text).cards if "audio" in card]
    assert len(cards) == len(found["flagged"])
    for card, item in zip(cards, found["flagged"], strict=True):
        assert Path(item["path"]).name in card["text"]
        samples, source = sound_of(card["audio"]), soundfile.read(flawed / item["label"] / Path(item["path"]).name)[0]
        assert len(samples) == pytest.approx(len(source), abs=3_000)
        level, expected = np.sqrt(np.mean(samples**2)), np.sqrt(np.mean(source**2))
        assert level == pytest.approx(expected, rel=0.2, abs=1e-4)
    pictures = {
        Path(item["path"]).name: brightness_of(card["img"]) for card, item in zip(cards, found["flagged"], strict=True)
    }
    assert pictures["a-loud.wav"] > pictures["b-quiet.wav"] > pictures["e-silent.wav"]


def test_a_card_of_a_window_holds_that_window(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=5)
    samples = cry(400.0, 6.0, seed=4) * 0.5
    samples[3 * RATE : 4 * RATE] = np.clip(samples[3 * RATE : 4 * RATE] * 60, -1, 1)
    soundfile.write(tmp_path / "cries" / "low" / "mixed.wav", samples, RATE)
    found, text = prepare(tmp_path / "cries", tmp_path / "data", "data.window=1")
    ((item,), (card,)) = (found["flagged"], [card for card in Page(text).cards if "audio" in card])
    assert (item["start"], item["end"], item["flags"]) == (3.0, 4.0, ["clipped"])
    assert np.sqrt(np.mean(sound_of(card["audio"]) ** 2)) > 0.6
    assert len(sound_of(card["audio"])) == pytest.approx(RATE, abs=3_000)


def test_a_player_holds_ten_seconds_at_most(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=5)
    soundfile.write(tmp_path / "cries" / "low" / "long.wav", cry(400.0, 14.0, seed=4) * 0.3 + 0.2, RATE)
    _, text = prepare(tmp_path / "cries", tmp_path / "data")
    (card,) = [card for card in Page(text).cards if "audio" in card]
    assert len(sound_of(card["audio"])) == pytest.approx(10 * RATE, abs=3_000)


def test_no_player_is_asked_for_and_no_sound_is_in_the_page(flawed: Path, tmp_path: Path) -> None:
    found, text = prepare(flawed, tmp_path, "checks.players=0")
    page = Page(text)
    assert (page.tags["audio"], page.tags["img"]) == (0, 0)
    assert "data:audio" not in text
    assert all(Path(item["path"]).name in page.text for item in found["flagged"])


def test_so_many_players_are_made_as_are_asked_for(flawed: Path, tmp_path: Path) -> None:
    found, text = prepare(flawed, tmp_path, "checks.players=2")
    assert len(found["flagged"]) > 2
    assert Page(text).tags["audio"] == 2
    assert all(Path(item["path"]).name in Page(text).text for item in found["flagged"])


def test_rejected_clips_come_first_and_can_be_heard(flawed: Path, tmp_path: Path) -> None:
    found, text = prepare(flawed, tmp_path, "checks.players=1", "checks.reject=[dc_offset]")
    (card,) = [card for card in Page(text).cards if "audio" in card]
    assert "offset" in card["text"] or "copy" in card["text"]
    assert "rejected" in card["text"]
    assert [item["part"] for item in found["flagged"]][:2] == ["", ""]


def test_the_page_needs_nothing_from_elsewhere(flawed: Path, tmp_path: Path) -> None:
    _, text = prepare(flawed, tmp_path)
    page = Page(text)
    assert page.tags["script"] == page.tags["iframe"] == page.tags["object"] == 0
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert page.tags["link"] == 0
    assert not re.search(r"url\(\s*['\"]?(?!data:|#)", text)
    assert "@import" not in text


def test_names_in_the_page_are_text(flawed: Path, tmp_path: Path) -> None:
    _, text = prepare(flawed, tmp_path)
    assert "<b>&amp;.wav" in Page(text).text
    assert Page(text).tags["b"] == 0


def test_the_numbers_add_up_to_the_csvs(flawed: Path, tmp_path: Path) -> None:
    found, _ = prepare(flawed, tmp_path, "data.folds=3", "checks.reject=[silent]")
    clips = {part: read_manifest(tmp_path / f"{part}.csv") for part in PARTS}
    everything = [clip for some in clips.values() for clip in some]
    for part, some in clips.items():
        counts = found["parts"][part]
        assert (counts["clips"], counts["groups"]) == (len(some), len({clip.group for clip in some}))
        assert counts["minutes"] == pytest.approx(sum(clip.duration for clip in some) / 60, abs=1e-3)
        assert {label: of["clips"] for label, of in counts["labels"].items()} == Counter(clip.label for clip in some)
    assert {fold: of["clips"] for fold, of in found["folds"].items()} == Counter(str(clip.fold) for clip in everything)
    assert sum(of["clips"] for of in found["corpora"].values()) == len(everything)
    assert sum(found["durations"]["counts"]) == len(everything)
    with (tmp_path / "rejected.csv").open(newline="") as file:
        rejected = list(csv.DictReader(file))
    assert [(row["path"], row["reason"]) for row in rejected] == [
        (item["path"], item["reason"]) for item in found["rejected"]
    ]
    assert {Path(row["path"]).name for row in rejected} == {
        "b-quiet.wav",
        "e-silent.wav",
        "<b>&amp;.wav",
        "words.wav",
    }
    flags = Counter(flag for item in found["flagged"] for flag in item["flags"])
    assert {flag: of["clips"] for flag, of in found["flags"].items()} == flags
    used = Counter(flag for clip in everything for flag in clip.flags)
    assert flags - used == Counter(flag for item in found["flagged"] if not item["part"] for flag in item["flags"])
    assert found["leakage"] == []
    assert {item["path"] for item in found["flagged"] if item["part"]} == {
        str(clip.path) for clip in everything if clip.flags
    }


def test_the_settings_and_the_command_are_told(flawed: Path, tmp_path: Path) -> None:
    found, text = prepare(flawed, tmp_path, "checks.quiet_db=-50", "data.label_map={low: deep}")
    assert found["settings"]["checks.quiet_db"] == -50.0
    assert "checks.quiet_db=-50.0" in found["command"]
    assert """'data.label_map={"low": "deep"}'""" in found["command"]
    assert "-50" in found["flags"]["quiet"]["meaning"]
    assert "crycli prepare" in Page(text).text


def test_paths_in_the_report_are_those_of_the_csvs(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=5)
    soundfile.write(tmp_path / "cries" / "low" / "quiet.wav", np.zeros(RATE), RATE)
    prepare_dataset_csv([tmp_path / "cries"], tmp_path, settings(BY_BABY), force=True)
    found = json.loads((tmp_path / "prepare.json").read_text())
    assert [item["path"] for item in found["flagged"]] == ["cries/low/quiet.wav"]
