"""Manifests to `datasets.Dataset`s of preprocessed clips, and clips to padded batches."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import crycli
from crycli import audio, checkpoint
from crycli.audio import Excerpt
from crycli.config import Config
from crycli.errors import AudioError, DataError
from crycli.manifest import PARTS, read_manifest, resolve_path, stored_path
from crycli.parallel import map_ordered
from crycli.progress import OnStep, Step, silent

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import Wav2Vec2FeatureExtractor

ROWS_IN_MEMORY = 64  # 41 MB of 10-second clips

logger = logging.getLogger(__name__)


@dataclass
class DataCollatorCTCWithPadding:
    """Clips of different lengths to one batch, padded with zeros at their ends.

    Each clip is normalised already: normalising here would count the padding in.

    Attributes:
        feature_extractor: pads, to its `padding_value`.
        padding: as in `feature_extractor.pad`: True for the longest clip, or "max_length".
        max_length: samples, for "max_length".
        pad_to_multiple_of: round the length up to a multiple of so many samples.
    """

    feature_extractor: Wav2Vec2FeatureExtractor
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows with `input_values` ((samples,)) and, where known, `labels`.

        Returns:
            input_values (batch, samples) float32, attention_mask (batch, samples) int64, and labels: (batch,) int64
            for class numbers, float32 for values.
        """
        import torch

        clips: list[Any] = [{"input_values": np.asarray(row["input_values"], dtype=np.float32)} for row in features]
        batch = self.feature_extractor.pad(
            clips,
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_attention_mask=True,
            return_tensors="pt",
        )
        collated = {
            "input_values": batch["input_values"].to(torch.float32),
            "attention_mask": batch["attention_mask"].to(torch.int64),
        }
        if "labels" in features[0]:
            labels = torch.as_tensor(np.asarray([row["labels"] for row in features]))
            collated["labels"] = labels.to(torch.float32 if labels.is_floating_point() else torch.int64)
        return collated


@dataclass(frozen=True)
class PreparedData:
    """The parts of a dataset, decoded, normalised and cached.

    Attributes:
        parts: "train", "validation" and "test"; columns `input_values`, `labels` and `path`.
        feature_extractor: of the backbone.
        labels: label names; `labels` in the parts are their indices.
        unreadable: recordings, or excerpts of them, left out, with the reason.
    """

    parts: dict[str, Dataset]
    feature_extractor: Wav2Vec2FeatureExtractor
    labels: list[str]
    unreadable: dict[Excerpt, str]


def load_and_prepare_datasets(
    data: Path, config: Config | None = None, *, on_step: OnStep = silent
) -> tuple[Dataset, Dataset, Dataset, Wav2Vec2FeatureExtractor, list[str], int]:
    """Load what `crycli prepare` wrote, ready for training.

    Args:
        data: a folder with train.csv, validation.csv and test.csv.
        config: the defaults where None.
        on_step: told of the progress.

    Returns:
        The train, validation and test datasets, the feature extractor, the label list, the number of labels.

    Raises:
        DataError: a manifest is missing or malformed, a part is empty, or there are fewer than two labels.
        CheckpointError: the backbone, whose preprocessor is used, is out of reach.
    """
    prepared = prepare_datasets(data, config or Config(), on_step=on_step)
    train, validation, test = (prepared.parts[part] for part in PARTS)
    return train, validation, test, prepared.feature_extractor, prepared.labels, len(prepared.labels)


def prepare_datasets(
    data: Path, config: Config, *, parts: tuple[str, ...] = PARTS, on_step: OnStep = silent
) -> PreparedData:
    """Some or all parts of a dataset, with what had to be left out; see `load_and_prepare_datasets`."""
    if not data.is_dir():
        raise DataError(f"no folder {data}: make it with `crycli prepare RECORDINGS -o {data}`")
    labels = _labels(data, parts)
    checkpoint.quiet_libraries()
    extractor = checkpoint.load_feature_extractor(checkpoint.locate_backbone(config))
    unreadable: dict[Excerpt, str] = {}
    prepared = {}
    for part in parts:
        rows = _load_rows(data, part)
        whole = _preprocess(rows, data, labels, extractor, config, part, on_step)
        errors = whole["error"]
        for row, error in zip(rows, errors, strict=True):
            if error:
                unreadable[Excerpt(resolve_path(row["path"], data), row["start"], row["end"])] = error
        usable = whole.select([row for row, error in enumerate(errors) if not error])
        prepared[part] = usable.remove_columns("error").with_format("numpy")
        if len(usable) == 0:
            reason = f": {next(iter(unreadable.items()))[1]}" if unreadable else ""
            raise DataError(f"{data}/{part}.csv names no recording that can be used{reason}")
    for excerpt, reason in unreadable.items():
        logger.warning("left out %s: %s", excerpt.path, reason)
    return PreparedData(prepared, extractor, labels, unreadable)


def _labels(data: Path, parts: tuple[str, ...]) -> list[str]:
    """The labels of the training part, sorted; checks that the other parts have no others."""
    names_of = dict.fromkeys(("train", *parts))
    clips = {part: read_manifest(data / f"{part}.csv") for part in names_of}
    for one, other in combinations(clips, 2):
        shared = {clip.group for clip in clips[one]} & {clip.group for clip in clips[other]}
        if shared:
            logger.warning("%d groups are in both %s.csv and %s.csv, such as %s", len(shared), one, other, min(shared))
    found = {part: {clip.label for clip in some} for part, some in clips.items()}
    for part, names in found.items():
        unknown = sorted(names - found["train"])
        if not names:
            raise DataError(f"{data}/{part}.csv is empty: prepare more recordings, or give this part a larger share")
        if unknown:
            raise DataError(f"{data}/{part}.csv has labels that train.csv lacks: {', '.join(unknown)}")
    if len(found["train"]) < 2:
        only = next(iter(found["train"]))
        raise DataError(f"{data}/train.csv has one label alone ({only}): a classifier needs two or more")
    return sorted(found["train"])


def _load_rows(data: Path, part: str) -> Dataset:
    from datasets import Dataset, Features, Value

    clips = read_manifest(data / f"{part}.csv")
    columns = {
        "path": [stored_path(clip.path, data) for clip in clips],
        "label": [clip.label for clip in clips],
        "start": [clip.start for clip in clips],
        "end": [clip.end for clip in clips],
    }
    types = {"path": Value("string"), "label": Value("string"), "start": Value("float64"), "end": Value("float64")}
    return Dataset.from_dict(columns, Features(types))


def _preprocess(
    rows: Dataset,
    data: Path,
    labels: list[str],
    extractor: Wav2Vec2FeatureExtractor,
    config: Config,
    part: str,
    on_step: OnStep,
) -> Dataset:
    """Decode, resample, cut and normalise each clip, once: the result is cached under `_fingerprint`."""
    import datasets
    from datasets import Features, List, Value

    number = {label: index for index, label in enumerate(labels)}
    done = 0

    def read(row: tuple[str, float | None, float | None]) -> tuple[audio.Samples, str]:
        stored, start, end = row
        try:
            return _read_clip(Excerpt(resolve_path(stored, data), start, end), extractor, config), ""
        except AudioError as error:
            return np.zeros(0, np.float32), str(error)

    def read_batch(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        nonlocal done
        clips = []
        excerpts = zip(batch["path"], batch["start"], batch["end"], strict=True)
        for clip in map_ordered(read, excerpts, config.workers):
            clips.append(clip)
            done += 1
            on_step(Step(f"decode {part}", done, len(rows)))
        return {
            "input_values": [samples for samples, _ in clips],
            "labels": [number[label] for label in batch["label"]],
            "path": batch["path"],
            "error": [error for _, error in clips],
        }

    fingerprint = _fingerprint(rows, data, labels, extractor, config)
    cache_file = Path(datasets.config.HF_DATASETS_CACHE) / "crycli" / f"{fingerprint}.arrow"
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    logger.debug("%s: %d clips, cached in %s", part, len(rows), cache_file)
    return rows.map(
        read_batch,
        batched=True,
        batch_size=ROWS_IN_MEMORY,
        writer_batch_size=ROWS_IN_MEMORY,
        remove_columns=rows.column_names,
        features=Features(
            {
                "input_values": List(Value("float32")),
                "labels": Value("int64"),
                "path": Value("string"),
                "error": Value("string"),
            }
        ),
        new_fingerprint=fingerprint,
        cache_file_name=str(cache_file),
    )


def _read_clip(excerpt: Excerpt, extractor: Wav2Vec2FeatureExtractor, config: Config) -> audio.Samples:
    rate = extractor.sampling_rate
    samples = audio.load(excerpt.path, rate, excerpt.start, excerpt.end)
    audio.refuse_short(len(samples) / rate, config.data.min_seconds)
    samples = samples[: round(config.data.max_seconds * rate)]
    return audio.normalise(samples) if extractor.do_normalize else samples


def _fingerprint(
    rows: Dataset, data: Path, labels: list[str], extractor: Wav2Vec2FeatureExtractor, config: Config
) -> str:
    """A key that changes with the code, the settings, the rows, and the recordings themselves (size and times).

    `map` by itself notices neither a changed function in another module nor a recording replaced at the same path.
    """
    recordings: list[object] = []
    for stored, label, start, end in zip(rows["path"], rows["label"], rows["start"], rows["end"], strict=True):
        path = resolve_path(stored, data)
        try:
            status = path.stat()
            state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        except OSError:
            state = []
        recordings.append([str(path.absolute()), label, start, end, *state])
    settings = [config.data.min_seconds, config.data.max_seconds, extractor.sampling_rate, extractor.do_normalize]
    code = [Path(module).read_text(encoding="utf-8") for module in (audio.__file__, __file__)]
    decoders = [version(package) for package in ("av", "soundfile", "soxr")]
    content = json.dumps([crycli.__version__, decoders, code, settings, labels, recordings])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
