"""Manifests to preprocessed, cached datasets, and clips to padded batches."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import Outcome, cry, settings, write_cries
from datasets import Dataset
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings
from transformers import Wav2Vec2FeatureExtractor

from crycli import audio
from crycli.config import Config
from crycli.dataset import (
    DataCollatorCTCWithPadding,
    TrainingClips,
    Windows,
    load_and_prepare_datasets,
    prepare_datasets,
)
from crycli.errors import CheckpointError, DataError
from crycli.manifest import PARTS, read_manifest
from crycli.prepare import prepare_dataset_csv
from crycli.progress import Step
from crycli.windows import window_bounds

MINI = settings("model.backbone=mini")


def decoded(data: Path, config: Config = MINI) -> int:
    """How many clips are decoded to load a dataset: none where all come from the cache."""
    steps: list[Step] = []
    load_and_prepare_datasets(data, config, on_step=steps.append)
    return len(steps)


def first_clip(data: Path, part: str = "train") -> Path:
    """The recording in the first row of a manifest."""
    return read_manifest(data / f"{part}.csv")[0].path


def replace_in(file: Path, old: str, new: str) -> None:
    """Replace text in a file."""
    file.write_text(file.read_text().replace(old, new))


def collate(*clips: np.ndarray, **options: int) -> dict[str, torch.Tensor]:
    """A batch of clips without labels."""
    return DataCollatorCTCWithPadding(Wav2Vec2FeatureExtractor(), **options)([{"input_values": clip} for clip in clips])


def test_six_things_are_returned(data: Path) -> None:
    train, validation, test, extractor, labels, count = load_and_prepare_datasets(data, MINI)
    assert all(isinstance(part, Dataset) for part in (train, validation, test))
    assert isinstance(extractor, Wav2Vec2FeatureExtractor)
    assert (labels, count) == (["high", "low"], 2)
    for part, dataset in zip(PARTS, (train, validation, test), strict=True):
        clips = read_manifest(data / f"{part}.csv")
        assert [labels[row["labels"]] for row in dataset] == [clip.label for clip in clips]


def test_each_clip_is_the_normalised_recording(data: Path) -> None:
    train, *_ = load_and_prepare_datasets(data, MINI)
    for row, clip in zip(train, read_manifest(data / "train.csv"), strict=True):
        assert row["input_values"].dtype == np.float32
        np.testing.assert_array_equal(row["input_values"], audio.normalise(audio.load(clip.path)))


def test_a_long_clip_is_cut_before_it_is_normalised(data: Path) -> None:
    train, *_ = load_and_prepare_datasets(data, settings("model.backbone=mini", "data.max_seconds=0.65"))
    lengths = [len(row["input_values"]) for row in train]
    clip = read_manifest(data / "train.csv")[int(np.argmax(lengths))]
    assert max(lengths) == round(0.65 * 16_000)
    assert min(lengths) == round(0.6 * 16_000)
    expected = audio.normalise(audio.load(clip.path)[: round(0.65 * 16_000)])
    np.testing.assert_array_equal(train[int(np.argmax(lengths))]["input_values"], expected)


def test_a_backbone_that_is_not_normalised_gets_the_samples_as_they_are(
    data: Path, backbones: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(backbones["group"], tmp_path / "backbone"))
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False).save_pretrained(folder)
    train, _, _, extractor, *_ = load_and_prepare_datasets(data, settings(f"model.backbone={folder}"))
    np.testing.assert_array_equal(train[0]["input_values"], audio.load(first_clip(data)))
    assert "attention_mask" in DataCollatorCTCWithPadding(extractor)([train[0], train[1]])


def test_the_second_load_decodes_nothing(small: Path) -> None:
    assert decoded(small) == 16
    assert decoded(small) == 0


def test_the_cache_notices_a_replaced_recording(small: Path) -> None:
    decoded(small)
    clip = first_clip(small)
    before = clip.stat()
    samples, rate = soundfile.read(clip, dtype="float32")
    soundfile.write(clip, samples[::-1], rate)  # as many bytes as before
    assert clip.stat().st_size == before.st_size
    os.utime(clip, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000))
    train, *_ = load_and_prepare_datasets(small, MINI)
    np.testing.assert_array_equal(train[0]["input_values"], audio.normalise(audio.load(clip)))


def test_the_cache_notices_a_changed_setting(small: Path) -> None:
    decoded(small)
    assert decoded(small, settings("model.backbone=mini", "data.min_seconds=0.65")) == 16
    assert decoded(small) == 0


def test_the_cache_is_kept_for_settings_that_do_not_matter(small: Path) -> None:
    decoded(small)
    assert decoded(small, settings("model.backbone=mini", "train.epochs=3", "data.max_seconds=0.7", "workers=1")) == 0


def test_the_cache_notices_a_changed_label(small: Path) -> None:
    _, validation, _, _, labels, _ = load_and_prepare_datasets(small, MINI)
    before = [labels[row["labels"]] for row in validation]
    for part in PARTS:
        replace_in(small / f"{part}.csv", ",high,", ",zz-high,")
    _, validation, _, _, labels, _ = load_and_prepare_datasets(small, MINI)
    assert labels == ["low", "zz-high"]
    assert [labels[row["labels"]] for row in validation] == [{"high": "zz-high"}.get(name, name) for name in before]


def test_a_moved_dataset_still_works(small: Path, tmp_path: Path) -> None:
    moved = small.rename(tmp_path / "elsewhere")
    assert decoded(moved) == 16


def test_an_unreadable_recording_is_left_out_and_named_each_time(
    small: Path, tmp_path: Path, backbones: dict[str, Path], crycli: Callable[..., Outcome]
) -> None:
    vanished, damaged = (clip.path for clip in read_manifest(small / "train.csv")[:2])
    vanished.unlink()
    damaged.write_bytes(b"RIFF but no more")
    for run in ("first", "from the cache"):
        done = crycli("train", small, "-o", tmp_path / run, "--epochs", 1, "--backbone", backbones["layer"])
        assert done.code == 3
        assert f"left out {vanished}: no such file" in done.err
        assert f"left out {damaged}: " in done.err
        assert (tmp_path / run / "model" / "model.safetensors").is_file()


def test_what_was_left_out_is_counted_and_the_rest_is_there(small: Path) -> None:
    clip = first_clip(small)
    clip.unlink()
    for _ in ("first", "from the cache"):
        prepared = prepare_datasets(small, MINI)
        assert prepared.unreadable == {audio.Excerpt(clip): "no such file"}
        assert len(prepared.parts["train"]) == len(read_manifest(small / "train.csv")) - 1
        assert not {len(row["samples"]) for row in prepared.parts["train"]} & {0}
        assert clip not in {used.path for used in prepared.clips["train"]}


def test_a_recording_that_comes_back_is_used_again(small: Path, tmp_path: Path) -> None:
    clip = first_clip(small)
    aside = clip.rename(tmp_path / "aside.wav")
    assert prepare_datasets(small, MINI).unreadable
    aside.rename(clip)
    assert not prepare_datasets(small, MINI).unreadable


def test_a_part_without_a_readable_recording_is_an_error(small: Path) -> None:
    for clip in read_manifest(small / "validation.csv"):
        clip.path.write_bytes(b"no audio")
    with pytest.raises(DataError, match=r"validation\.csv"):
        load_and_prepare_datasets(small, MINI)


def test_labels_that_look_like_something_else_stay_text(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=4, labels={"NA": 300.0, "007": 600.0, "true": 900.0, "1e3": 1200.0})
    prepare_dataset_csv([tmp_path / "cries"], tmp_path / "data", settings("data.group_by=baby-\\d+"))
    train, _, _, _, labels, count = load_and_prepare_datasets(tmp_path / "data", MINI)
    assert (labels, count) == (["007", "1e3", "NA", "true"], 4)
    assert [labels[row["labels"]] for row in train] == [
        clip.label for clip in read_manifest(tmp_path / "data/train.csv")
    ]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_label_that_training_lacks_is_an_error(part: str, small: Path) -> None:
    replace_in(small / f"{part}.csv", ",low,", ",unheard,")
    with pytest.raises(DataError, match=rf"{part}\.csv.*unheard"):
        load_and_prepare_datasets(small, MINI)


def test_one_label_alone_is_an_error(small: Path) -> None:
    for part in PARTS:
        replace_in(small / f"{part}.csv", ",low,", ",high,")
    with pytest.raises(DataError, match="high"):
        load_and_prepare_datasets(small, MINI)


@pytest.mark.parametrize("part", PARTS)
def test_an_empty_part_is_an_error(part: str, small: Path) -> None:
    header = (small / f"{part}.csv").read_text().splitlines()[0]
    (small / f"{part}.csv").write_text(header + "\n")
    with pytest.raises(DataError, match=rf"{part}\.csv is empty"):
        load_and_prepare_datasets(small, MINI)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_or_malformed_manifest_is_an_error(part: str, small: Path) -> None:
    (small / f"{part}.csv").write_text("path,duration\na.wav,1\n")
    with pytest.raises(DataError, match=rf"{part}\.csv has no column label"):
        load_and_prepare_datasets(small, MINI)
    (small / f"{part}.csv").unlink()
    with pytest.raises(DataError, match=rf"{part}\.csv"):
        load_and_prepare_datasets(small, MINI)


def test_a_missing_folder_and_a_missing_backbone_are_errors(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="crycli prepare"):
        load_and_prepare_datasets(tmp_path / "nowhere", MINI)
    with pytest.raises(CheckpointError, match="offline"):
        load_and_prepare_datasets(small, settings("offline=true"))


@given(
    lengths=strategies.lists(strategies.integers(1, 50), min_size=1, max_size=6), multiple=strategies.integers(1, 16)
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_clips_are_padded_with_zeros_at_their_ends(lengths: list[int], multiple: int) -> None:
    clips = [np.arange(1, length + 1, dtype=np.float32) for length in lengths]
    batch = collate(*clips, pad_to_multiple_of=multiple)
    width = -(-max(lengths) // multiple) * multiple
    assert batch["input_values"].shape == batch["attention_mask"].shape == (len(lengths), width)
    assert (batch["input_values"].dtype, batch["attention_mask"].dtype) == (torch.float32, torch.int64)
    for row, clip in enumerate(clips):
        np.testing.assert_array_equal(batch["input_values"][row], np.pad(clip, (0, width - len(clip))))
        assert batch["attention_mask"][row].tolist() == [1] * len(clip) + [0] * (width - len(clip))


def test_a_batch_can_have_a_fixed_length() -> None:
    collator = DataCollatorCTCWithPadding(Wav2Vec2FeatureExtractor(), padding="max_length", max_length=70)
    assert collator([{"input_values": cry(300.0, 0.001)}])["input_values"].shape == (1, 70)


def test_class_numbers_are_integers_and_values_are_floats() -> None:
    collator = DataCollatorCTCWithPadding(Wav2Vec2FeatureExtractor())
    clip = np.ones(5, np.float32)

    def labels(*values: object) -> torch.Tensor:
        return collator([{"input_values": clip, "labels": value} for value in values])["labels"]

    assert labels(1, 0, 2).dtype == torch.int64
    assert labels(1, 0, 2).tolist() == [1, 0, 2]
    assert labels(0.5, 1.5).dtype == torch.float32
    assert labels([1.0, 0.0], [0.0, 0.0]).shape == (2, 2)
    assert labels(np.int64(1), np.int64(0)).dtype == torch.int64
    assert "labels" not in collator([{"input_values": clip}])


@pytest.mark.parametrize("name", ["data[1]", "data*", "data?"])
def test_a_folder_with_any_name_is_loaded(name: str, small: Path) -> None:
    moved = small.rename(small.with_name(name))
    assert len(load_and_prepare_datasets(moved, MINI)[0]) > 0


def test_training_needs_no_test_part(small: Path) -> None:
    (small / "test.csv").unlink()
    prepared = prepare_datasets(small, MINI, parts=("train", "validation"))
    assert set(prepared.parts) == {"train", "validation"}


def test_a_group_on_two_sides_of_a_split_from_elsewhere_is_warned_of(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_and_prepare_datasets(small, MINI)
    assert "groups are in both" not in caplog.text
    rows = (small / "train.csv").read_text().splitlines()
    (small / "validation.csv").write_text("\n".join(rows[:3]) + "\n")
    logging.getLogger("crycli").propagate = True
    load_and_prepare_datasets(small, MINI)
    assert "groups are in both train.csv and validation.csv" in caplog.text


def test_recordings_beyond_the_limits_are_left_out(small: Path) -> None:
    limited = settings("model.backbone=mini", "limits.max_hours=0.0002")  # 0.72 s
    reasons = set(prepare_datasets(small, limited).unreadable.values())
    assert reasons == {"goes on for more than 0.0002 h (limits.max_hours)"}
    assert prepare_datasets(small, MINI).unreadable == {}


def test_a_recording_that_became_readable_is_no_longer_left_out(small: Path) -> None:
    recording = first_clip(small)
    content, times = recording.read_bytes(), recording.stat()
    recording.write_bytes(bytes(len(content)))
    os.utime(recording, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(prepare_datasets(small, MINI).unreadable) == 1
    recording.write_bytes(content)
    os.utime(recording, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert prepare_datasets(small, MINI).unreadable == {}


def write_windows(folder: Path, windows: list[tuple[float, float]], column: str = "path") -> Path:
    """Manifests of windows of one long recording for each label, all parts with the same windows."""
    folder.mkdir(exist_ok=True)
    for label, hertz in {"high": 900.0, "low": 300.0}.items():
        samples = np.concatenate([cry(hertz * (1 + second / 10), 1.0, seed=second) for second in range(6)])
        soundfile.write(folder / f"{label}.flac", samples, 16_000)
    for part in PARTS:
        rows = [f"{label}.flac,{label},{part},{start},{end}" for label in ("high", "low") for start, end in windows]
        (folder / f"{part}.csv").write_text("\n".join([f"{column},label,group,start,end", *rows]) + "\n")
    return folder


WINDOWS = [(0.0, 1.0), (1.25, 2.0), (2.5, 4.125), (5.0, 5.5), (5.5, 9.0)]


def test_the_rows_are_the_windows_of_the_manifest(tmp_path: Path) -> None:
    train, *_ = load_and_prepare_datasets(write_windows(tmp_path / "data", WINDOWS), MINI)
    assert len(train) == 2 * len(WINDOWS)
    lengths = [round(16_000 * (min(end, 6.0) - start)) for start, end in WINDOWS]
    assert [len(row["input_values"]) for row in train] == lengths * 2
    for row, clip in zip(train, read_manifest(tmp_path / "data" / "train.csv"), strict=True):
        whole = audio.load(clip.path)
        expected = audio.normalise(whole[round(16_000 * clip.start) : round(16_000 * clip.end)])  # type: ignore[operator]
        np.testing.assert_array_equal(row["input_values"], expected)
        np.testing.assert_array_equal(
            row["input_values"], audio.normalise(audio.load(clip.path, 16_000, clip.start, clip.end))
        )


def test_a_long_window_is_cut_to_the_longest_clip(tmp_path: Path) -> None:
    config = settings("model.backbone=mini", "data.min_seconds=0.3", "data.max_seconds=0.5")
    train, *_ = load_and_prepare_datasets(write_windows(tmp_path / "data", [(1.0, 3.0), (2.0, 2.4)]), config)
    assert [len(row["input_values"]) for row in train] == [8_000, 6_400] * 2


def test_windows_are_decoded_once(tmp_path: Path) -> None:
    data = write_windows(tmp_path / "data", WINDOWS)
    assert decoded(data) == 2 * len(WINDOWS)  # the three parts are of the same windows here
    assert decoded(data) == 0


@pytest.mark.parametrize(("old", "new"), [(",1.25,2.0", ",1.3,2.0"), (",1.25,2.0", ",1.25,2.1"), (",1.25,2.0", ",,")])
def test_the_cache_notices_a_changed_window(old: str, new: str, tmp_path: Path) -> None:
    data = write_windows(tmp_path / "data", WINDOWS)
    decoded(data)
    replace_in(data / "validation.csv", old, new)
    assert decoded(data) == 2 * len(WINDOWS)
    _, validation, *_ = load_and_prepare_datasets(data, MINI)
    clip = read_manifest(data / "validation.csv")[1]
    expected = audio.load(clip.path, 16_000, clip.start, clip.end)[: round(MINI.data.max_seconds * 16_000)]
    np.testing.assert_array_equal(validation[1]["input_values"], audio.normalise(expected))
    assert decoded(data) == 0


def test_a_window_beyond_the_end_is_left_out_and_the_others_of_the_recording_are_used(tmp_path: Path) -> None:
    data = write_windows(tmp_path / "data", [*WINDOWS, (7.0, 8.0)])
    for _ in ("first", "from the cache"):
        prepared = prepare_datasets(data, MINI)
        beyond = {audio.Excerpt(data / name, 7.0, 8.0) for name in ("high.flac", "low.flac")}
        assert set(prepared.unreadable) == beyond
        assert len(prepared.parts["train"]) == 2 * len(WINDOWS)


def test_a_window_that_is_too_short_is_left_out(tmp_path: Path) -> None:
    data = write_windows(tmp_path / "data", [(0.0, 1.0), (2.0, 2.2)])
    prepared = prepare_datasets(data, settings("model.backbone=mini", "data.min_seconds=0.3"))
    assert len(prepared.parts["train"]) == 2
    assert all("data.min_seconds" in reason for reason in prepared.unreadable.values())


@pytest.mark.parametrize("column", ["path", "file_name", "filename", "file"])
def test_the_paths_may_stand_in_the_column_of_another_tool(column: str, tmp_path: Path) -> None:
    data = write_windows(tmp_path / "data", WINDOWS[:2], column)
    prepared = prepare_datasets(data, MINI)
    assert prepared.labels == ["high", "low"]
    for dataset in prepared.parts.values():
        assert list(dataset["path"]) == ["high.flac"] * 2 + ["low.flac"] * 2
        assert [len(row["samples"]) for row in dataset] == [16_000, 12_000] * 2


def test_a_csv_with_nothing_but_file_names_and_labels_is_enough(tmp_path: Path) -> None:
    data = write_windows(tmp_path / "data", [])
    for part in PARTS:
        (data / f"{part}.csv").write_text("filename,label\nhigh.flac,high\nlow.flac,low\n")
    train, *_ = load_and_prepare_datasets(data, MINI)
    assert [len(row["input_values"]) for row in train] == [96_000] * 2


LONG = settings("model.backbone=mini", "data.max_seconds=2.0")


def test_training_takes_another_part_of_a_long_clip_in_each_epoch(tmp_path: Path) -> None:
    prepared = prepare_datasets(write_windows(tmp_path / "data", [(0.0, 6.0), (0.0, 1.0)]), LONG)
    clips = TrainingClips(prepared, LONG)
    whole = audio.load(tmp_path / "data" / "high.flac")
    parts = [clips[(epoch, 0, 0)]["input_values"] for epoch in range(6)]
    assert {len(part) for part in parts} == {32_000}
    assert len({part.tobytes() for part in parts}) > 1
    windows = np.lib.stride_tricks.sliding_window_view(whole, 32_000)
    for part in parts:
        start = int(np.argmin(_distance(windows, part)))
        np.testing.assert_array_equal(part, audio.normalise(whole[start : start + 32_000]))
    assert len(clips[(3, 1, 0)]["input_values"]) == 16_000


def _distance(windows: np.ndarray, part: np.ndarray) -> np.ndarray:
    """How far each window's first samples, normalised as the part, are from the part's: by correlation."""
    head = part[:400] - part[:400].mean()
    heads = windows[:, :400] - windows[:, :400].mean(axis=1, keepdims=True)
    return np.asarray(-(heads @ head) / (np.linalg.norm(heads, axis=1) * np.linalg.norm(head)))


def test_what_training_sees_depends_on_the_key_alone(tmp_path: Path) -> None:
    data = write_windows(tmp_path / "data", [(0.0, 6.0), (0.0, 3.0)])
    config = settings(*LONG_MIXED)
    first = TrainingClips(prepare_datasets(data, config), config)
    keys = [(epoch, index, draw) for epoch in range(2) for index in range(4) for draw in range(2)]
    seen = {key: first[key] for key in keys}
    again = TrainingClips(prepare_datasets(data, config), config)
    for key in reversed(keys):
        np.testing.assert_array_equal(again[key]["input_values"], seen[key]["input_values"])
        np.testing.assert_array_equal(again[key]["labels"], seen[key]["labels"])
    assert len({row["input_values"].tobytes() for row in seen.values()}) == len(keys)


LONG_MIXED = ("model.backbone=mini", "data.max_seconds=2.0", "augment.mixup=0.5")


def test_with_mixup_the_labels_are_shares_that_add_up_to_one(tmp_path: Path) -> None:
    config = settings(*LONG_MIXED)
    clips = TrainingClips(prepare_datasets(write_windows(tmp_path / "data", WINDOWS), config), config)
    rows = [clips[(epoch, index, 0)] for epoch in range(4) for index in range(len(clips))]
    shares = np.stack([row["labels"] for row in rows])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-6)
    assert (shares.max(axis=1) < 0.99).any()
    batch = DataCollatorCTCWithPadding(Wav2Vec2FeatureExtractor())(rows)
    assert (batch["labels"].shape, batch["labels"].dtype) == ((len(rows), 2), torch.float32)
    assert batch["clips"].tolist() == [row["clips"] for row in rows]


def test_validation_hears_the_windows_in_which_a_clip_is_predicted(tmp_path: Path) -> None:
    prepared = prepare_datasets(write_windows(tmp_path / "data", [(0.0, 5.0), (0.0, 1.0)]), LONG)
    windows = Windows(prepared.parts["validation"], prepared.feature_extractor, 32_000)
    whole = audio.load(tmp_path / "data" / "high.flac")[:80_000]
    of_first = [windows[index] for index in np.flatnonzero(windows.clips == 0)]
    for row, (first, last) in zip(of_first, window_bounds(80_000, 32_000, 32_000), strict=True):
        np.testing.assert_array_equal(row["input_values"], audio.normalise(whole[first:last]))
        assert row["labels"] == 0
    lengths = [windows.length(index) for index in range(len(windows))]
    assert lengths == sorted(lengths)
    assert np.bincount(windows.clips).tolist() == [3, 1, 3, 1]
