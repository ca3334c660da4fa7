"""What a model was made from is found again exactly, and nobody can read it from the model folder."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crycli import audio
from crycli.errors import CheckpointError
from crycli.leakage import KNOWN_FILE, KNOWN_PARTS, Shared, find_shared, write_known
from crycli.manifest import Clip

Table = list[tuple[str, str]]
"""(group, digest) of each clip; no digest where it is not known."""

GROUPS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3) | st.sampled_from(["Emma", "emma", "Emma "])
SOUNDS = st.sampled_from(["", *(f"{number:032x}" for number in range(6))])
TABLES = st.lists(st.tuples(GROUPS, SOUNDS), max_size=8)


def clips_of(groups: Sequence[str], loudness: float | None = None) -> list[Clip]:
    return [Clip(Path(f"{number}.wav"), "cry", group, loudness_db=loudness) for number, group in enumerate(groups)]


def write(folder: Path, parts: dict[str, Table]) -> bytes:
    """The file that is written for these parts."""
    clips = {part: clips_of([group for group, _ in table]) for part, table in parts.items()}
    write_known(folder, clips, {part: [digest for _, digest in table] for part, table in parts.items()})
    return (folder / KNOWN_FILE).read_bytes()


def find(folder: Path, table: Table, loudness: float | None = None) -> Shared:
    return find_shared(folder, clips_of([group for group, _ in table], loudness), [digest for _, digest in table])


@given(train=TABLES, validation=TABLES, test=TABLES)
def test_exactly_the_shared_groups_and_sounds_are_found(train: Table, validation: Table, test: Table) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {"train": train, "validation": validation, "test": test})
        shared = find(Path(folder), test)
    assert shared.known
    either = np.zeros(len(test), bool)
    for part, learnt in {"train": train, "validation": validation}.items():
        groups, sounds = {group for group, _ in learnt}, {digest for _, digest in learnt} - {""}
        assert shared.groups[part] == groups & {group for group, _ in test}
        assert shared.sounds[part].tolist() == [digest in sounds for _, digest in test]
        either |= np.array([group in groups or digest in sounds for group, digest in test], bool)
    assert shared.clips.dtype == np.bool_
    assert shared.clips.tolist() == either.tolist()


def test_a_group_is_known_in_both_unicode_forms_of_its_name(tmp_path: Path) -> None:
    composed, parted = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))
    write(tmp_path, {"train": [(composed, ""), (parted, "")], "validation": [(composed, "")]})
    shared = find(tmp_path, [(parted, ""), ("Max", "")])
    assert shared.clips.tolist() == [True, False]
    known = json.loads((tmp_path / KNOWN_FILE).read_text())
    assert len(known["train"]["groups"]) == 1


def test_samples_at_one_rate_are_the_same_sound_whatever_file_they_come_from(tmp_path: Path) -> None:
    samples = np.sin(np.arange(1600, dtype=np.float32))
    write(tmp_path, {"train": [("Emma", audio.digest(samples))]})
    test = [("Noah", audio.digest(samples.copy())), ("Mia", audio.digest(samples * np.float32(0.5)))]
    assert find(tmp_path, test).clips.tolist() == [True, False]


def test_no_name_label_path_or_digest_can_be_read(tmp_path: Path) -> None:
    digest = audio.digest(np.ones(10, np.float32))
    clips = [Clip(Path("ward-3/emma-stone.wav"), "hungry", name) for name in ("Emma", "Zoë", "room 12")]
    write_known(tmp_path, {"train": clips}, {"train": [digest] * 3})
    text = (tmp_path / KNOWN_FILE).read_text(encoding="utf-8").lower()
    for secret in ("emma", "zo", "room", "12,", "stone", "ward", "hungry", ".wav", digest, digest[:16]):
        assert secret not in text
    content = json.loads(text)
    assert all(set(item) <= set("0123456789abcdef") for item in content["train"]["groups"])
    assert content["train"]["groups"] == sorted(content["train"]["groups"])  # the order tells nothing either


def test_the_same_clips_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    table = [("Emma", f"{1:032x}"), ("Noah", f"{2:032x}"), ("Mia", f"{3:032x}")]
    written = write(tmp_path, {"train": table})
    assert write(tmp_path, {"train": table[::-1]}) == written
    groups, column = zip(*table, strict=True)
    write_known(tmp_path, {"train": clips_of(groups)}, {"train": np.array(column)})  # as a dataset gives it
    assert (tmp_path / KNOWN_FILE).read_bytes() == written


def test_hashes_of_two_models_cannot_be_matched(tmp_path: Path) -> None:
    files = [write(tmp_path, {"train": [("Emma", ""), *other]}) for other in ([("Noah", "")], [("Mia", "")])]
    first, second = (set(json.loads(file)["train"]["groups"]) for file in files)
    assert len(first) == len(second) == 2
    assert first.isdisjoint(second)


@pytest.mark.parametrize(("loudness", "found"), [(None, True), (-30.0, True), (-120.0, False)])
def test_silence_is_no_shared_sound(tmp_path: Path, loudness: float | None, found: bool) -> None:
    digest = audio.digest(np.zeros(1600, np.float32))
    write(tmp_path, {"train": [("Emma", digest)]})
    assert find(tmp_path, [("Noah", digest)], loudness).clips.tolist() == [found]


def test_a_model_folder_that_does_not_tell_rules_nothing_out(tmp_path: Path) -> None:
    shared = find(tmp_path, [("Emma", f"{1:032x}"), ("Noah", "")])
    assert not shared.known
    assert (shared.groups, shared.sounds, shared.clips.tolist()) == ({}, {}, [False, False])


def drop(name: str) -> Callable[[Any], Any]:
    return lambda content: {key: value for key, value in content.items() if key != name}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: [content],
        drop("salt"),
        drop("validation"),
        drop("version"),
        lambda content: content | {"salt": 3},
        lambda content: content | {"version": 2},
        lambda content: content | {"train": []},
        lambda content: content | {"train": {"groups": ["Emma"], "sounds": []}},
        lambda content: content | {"train": {"groups": "0123456789abcdef", "sounds": []}},
        lambda content: content | {"train": {"groups": []}},
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, damage: Callable[[Any], Any]) -> None:
    content = json.loads(write(tmp_path, {part: [("Emma", f"{1:032x}")] for part in KNOWN_PARTS}))
    (tmp_path / KNOWN_FILE).write_text(json.dumps(damage(content)))
    with pytest.raises(CheckpointError, match=KNOWN_FILE) as caught:
        find(tmp_path, [("Emma", "")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_file_that_was_cut_short_is_damaged(tmp_path: Path, length: int) -> None:
    (tmp_path / KNOWN_FILE).write_bytes(write(tmp_path, {"train": [("Emma", "")]})[:length])
    with pytest.raises(CheckpointError, match=KNOWN_FILE):
        find(tmp_path, [("Emma", "")])
