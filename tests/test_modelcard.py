"""The model card says what the training knows, in Markdown that no label can break."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import settings as configured
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from crycli import __version__, bootstrap, metrics
from crycli.manifest import Clip
from crycli.modelcard import CardFacts, gather, write_card
from crycli.pages import UNKNOWN

ODD_LABELS = (
    "a|b",
    "a\\|b\\",
    "**bold** _it_ `code",
    "<b>&amp;",
    "[x](http://y)",
    "~~$x$~~",
    "line\nbreak",
    "# no",
    "\udcff",
    "赤ちゃん",
)


def clips(label: str, babies: range, **measured: Any) -> list[Clip]:
    return [Clip(Path(f"{label}-{baby}.wav"), label, f"baby-{baby}", **measured) for baby in babies]


def dataset(first: str, second: str, **measured: Any) -> dict[str, list[Clip]]:
    """Train: 9 clips of the first label, 3 of the second, of 9 babies; validation: 3 and 1, of 3 other babies."""
    parts = {"train": (range(9), range(3)), "validation": (range(20, 23), range(20, 21))}
    return {
        part: clips(first, of_first, **measured) + clips(second, of_second, **measured)
        for part, (of_first, of_second) in parts.items()
    }


def of_two_babies_each() -> dict[str, list[Clip]]:
    parts = dataset("hungry", "tired")
    return parts | {"validation": clips("hungry", range(20, 22)) + clips("tired", range(20, 22))}


def facts(
    *assignments: str, labels: tuple[str, str] = ("hungry", "tired"), parts: dict[str, list[Clip]] | None = None
) -> CardFacts:
    """Of the four validation clips the first two are answered rightly, and the other two wrongly."""
    parts = parts or dataset(*labels, duration=30.0, sample_rate=8000, corpus="homes")
    truth = np.array([labels.index(clip.label) for clip in parts["validation"]])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    groups = [clip.group for clip in parts["validation"]]
    report = metrics.score(labels, truth, probabilities, groups)
    intervals = bootstrap.intervals(labels, truth, None, probabilities.argmax(axis=1), groups)
    return gather(configured(*assignments), parts, labels, report, intervals, 980_000, 970_000, 7)


def written(folder: Path, card: CardFacts) -> str:
    write_card(folder / "README.md", card)
    return (folder / "README.md").read_text(encoding="utf-8")


def front_matter(text: str) -> Any:
    return yaml.safe_load(text.split("---\n")[1])


def body(text: str) -> str:
    return text.split("---\n", 2)[2]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, as a reader sees them."""
    found: list[list[list[str]]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(body(text))
    for before, token in pairwise(tokens):
        if token.type == "tr_open":
            if before.type == "thead_open":
                found.append([])
            found[-1].append([])
        elif before.type in ("th_open", "td_open"):
            assert all(
                part.type in ("text", "text_special", "strong_open", "strong_close", "code_inline")
                for part in token.children or []
            )
            found[-1][-1].append("".join(part.content for part in token.children or []))
    return found


def row(text: str, name: str) -> list[str]:
    """The cells after the first one, of the only row that begins with `name`."""
    (cells,) = [cells for table in tables(text) for cells in table if cells[0] == name]
    return cells[1:]


def test_the_front_matter_is_what_a_hub_reads(tmp_path: Path) -> None:
    card = facts("model.backbone=facebook/hubert-base-ls960")
    assert front_matter(written(tmp_path, card)) == {
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "base_model": "facebook/hubert-base-ls960",
        "tags": ["infant-cry", "audio-classification", "crycli"],
    }


@pytest.mark.parametrize("backbone", ["mini", "mini-random", "owner/local", "./owner/local"])
def test_a_backbone_that_is_not_from_the_hub_is_no_base_model(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "local").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in front_matter(written(tmp_path, facts(f"model.backbone={backbone}")))


def test_of_a_folder_of_this_machine_the_name_alone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("anna/backbone", "anna/noises"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for root in (f"{tmp_path}/anna", "anna", "../" + tmp_path.name + "/anna"):
        card = facts(f"model.backbone={root}/backbone", f"augment.background={root}/noises/")
        text = written(tmp_path, card)
        assert row(text, "backbone") == ["backbone"]
        assert (row(text, "model.backbone"), row(text, "augment.background")) == (['"backbone"'], ['"noises"'])
        assert "anna" not in text


def test_the_network_is_described(tmp_path: Path) -> None:
    text = written(tmp_path, facts("model.backbone=mini-random", "model.pooling=attention", "model.layers=weighted"))
    assert row(text, "labels") == ["hungry, tired"]
    assert row(text, "backbone") == ["mini-random, not pretrained"]
    assert (row(text, "pooling"), row(text, "layers")) == (["attention"], ["weighted"])
    assert row(text, "weights") == ["980,000, of which 970,000 were trained"]
    assert f"crycli {__version__}" in text
    assert "Epoch 7 of 60" in text


def test_the_data_are_counted_by_label_and_part(tmp_path: Path) -> None:
    text = written(tmp_path, facts())
    assert row(text, "hungry") == ["9", "9", "4.5", "3", "3", "1.5"]
    assert row(text, "tired") == ["3", "3", "1.5", "1", "1", "0.5"]
    assert row(text, "all labels") == ["12", "9", "6.0", "4", "3", "2.0"]
    assert "- Corpora: homes\n- Sample rates of the recordings: 8,000 Hz\n" in text


def test_what_the_manifest_does_not_say_is_not_made_up(tmp_path: Path) -> None:
    text = written(tmp_path, facts(parts=dataset("hungry", "tired")))
    assert row(text, "tired") == ["3", "3", UNKNOWN, "1", "1", UNKNOWN]
    assert "- Corpora: not named\n- Sample rates of the recordings: not known\n" in text


def test_a_window_lasts_from_its_start_to_its_end(tmp_path: Path) -> None:
    text = written(tmp_path, facts(parts=dataset("hungry", "tired", start=6.0, end=18.0)))
    assert row(text, "all labels")[2] == "2.4"


def test_scores_stand_next_to_intervals_and_to_what_needs_no_listening(tmp_path: Path) -> None:
    card = facts()
    text = written(tmp_path, card)
    interval = card.intervals["accuracy"]
    assert row(text, "score")[-1] == "always hungry"
    assert row(text, "accuracy") == ["0.500", f"{interval.low:.3f} to {interval.high:.3f}", "0.500", "0.750"]
    assert row(text, "balanced accuracy")[0::2] == ["0.333", "0.500"]
    assert row(text, "macro AUC") == [f"{card.report.macro_auc:.3f}", UNKNOWN, "0.500", "0.500"]
    assert metrics.remark(card.report) in text
    assert "`crycli eval` on the test part gives honest ones" in text


def test_always_the_commonest_label_scores_as_metrics_would_score_it(tmp_path: Path) -> None:
    card = facts()
    truth = np.repeat([0, 1], [3, 1])
    constant = metrics.score(card.labels, truth, np.tile([0.9, 0.1], (4, 1)))
    text = written(tmp_path, card)
    for name, value in (
        ("accuracy", constant.accuracy),
        ("balanced accuracy", constant.balanced_accuracy),
        ("macro F1", constant.macro_f1),
        ("macro AUC", constant.macro_auc),
    ):
        assert row(text, name)[-1] == f"{value:.3f}"


def test_a_single_group_has_no_intervals(tmp_path: Path) -> None:
    parts = dataset("hungry", "tired")
    parts["validation"] = [replace(clip, group="anna") for clip in parts["validation"]]
    text = written(tmp_path, facts(parts=parts))
    assert {row(text, name)[1] for name in ("accuracy", "balanced accuracy", "macro F1", "macro AUC")} == {UNKNOWN}
    assert "a single group allows none" in text
    assert "a single group allows none" not in written(tmp_path, facts(parts=of_two_babies_each()))


def test_a_label_of_a_single_group_leaves_the_means_over_labels_without_an_interval(tmp_path: Path) -> None:
    text = written(tmp_path, facts())
    assert row(text, "accuracy")[1] != UNKNOWN
    assert row(text, "balanced accuracy")[1] == row(text, "macro F1")[1] == UNKNOWN
    assert "a label of a single group allows none of the means over labels" in text
    whole = written(tmp_path, facts(parts=of_two_babies_each()))
    assert row(whole, "balanced accuracy")[1] != UNKNOWN
    assert "of the means over labels" not in whole


def test_groups_in_both_parts_are_said_plainly_and_not_named(tmp_path: Path) -> None:
    parts = dataset("hungry", "tired")
    parts["validation"][0] = replace(parts["validation"][0], group="anna")
    parts["train"][0] = replace(parts["train"][0], group="anna")
    text = " ".join(written(tmp_path, facts(parts=parts)).split())
    assert "1 group has clips in both, with 1 of the 4 clips of validation. The scores below are too good." in text
    assert "anna" not in text
    assert "no group has clips in both" not in text
    assert "no group has clips in both" in written(tmp_path, facts())


def test_groups_of_one_clip_keep_no_baby_together_and_the_card_says_so(tmp_path: Path) -> None:
    warning = "a baby with several clips may be in both"
    alone = {part: [replace(clip, group=str(clip.path)) for clip in some] for part, some in dataset("a", "b").items()}
    assert warning in written(tmp_path, facts(labels=("a", "b"), parts=alone))
    assert warning not in written(tmp_path, facts())


def test_settings_that_differ_from_the_defaults_are_listed(tmp_path: Path) -> None:
    text = written(
        tmp_path,
        facts("train.epochs=40", "augment.background=/street|noise_1", "workers=3", "train.select_by=macro_auc"),
    )
    (changed,) = [table for table in tables(text) if table[0] == ["setting", "value"]]
    assert changed[1:] == [
        ["augment.background", '"street|noise_1"'],
        ["train.epochs", "40"],
        ["train.select_by", '"macro_auc"'],
    ]
    assert "the best macro AUC on validation" in text
    assert "All settings are the defaults" in written(tmp_path, facts())


def test_limits_are_stated(tmp_path: Path) -> None:
    text = written(tmp_path, facts())
    for limit in ("not a medical device", "guesses of parents", "Other recorders", "Recordings of babies are private"):
        assert limit in text


@settings(max_examples=60)
@given(label=st.text("|\\`*_[]<>~&$#!x \n\u202e", min_size=1, max_size=12).filter(lambda text: text == text.strip()))
def test_a_label_of_odd_characters_breaks_no_table(tmp_path_factory: pytest.TempPathFactory, label: str) -> None:
    shows_a_label_as_it_is(tmp_path_factory.mktemp("card"), label)


@pytest.mark.parametrize("label", ODD_LABELS, ids=range(len(ODD_LABELS)))
def test_an_odd_label_is_shown_as_it_is(tmp_path: Path, label: str) -> None:
    shows_a_label_as_it_is(tmp_path, label)


def shows_a_label_as_it_is(folder: Path, label: str) -> None:
    text = written(folder, facts(labels=(label, "tired")))
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in label)
    found = tables(text)
    assert [len(table) for table in found] == [6, 4, 5]
    assert found[0][1] == ["labels", f"{shown}, tired"]
    assert found[1][1] == [shown, "9", "9", "4.5", "3", "3", "1.5"]
    assert found[2][0][-1] == f"always {shown}"


def test_the_same_facts_give_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path, facts())
    assert written(tmp_path, facts()) == first
    assert first.endswith(".\n")
    assert not re.search(r"\n{3}| \n|20\d\d-", first)
