"""Manifests to `datasets.Dataset`s of decoded clips, these to what the network sees, and that to padded batches."""

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
import numpy.typing as npt

import crycli
from crycli import audio, checkpoint
from crycli.audio import Excerpt
from crycli.augment import TrainingView
from crycli.config import Config
from crycli.errors import AudioError, DataError
from crycli.manifest import PARTS, Clip, read_manifest, resolve_path, stored_path
from crycli.parallel import map_ordered
from crycli.progress import OnStep, Step, silent
from crycli.windows import window_bounds

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import Wav2Vec2FeatureExtractor

SECONDS_IN_MEMORY = 640.0  # 41 MB
UNKNOWN_SECONDS = 10.0  # of a clip whose manifest does not say how long it is

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
        """Collate rows with `input_values` ((samples,)) and, where known, `labels` and `clips`.

        Returns:
            input_values (batch, samples) float32, attention_mask (batch, samples) int64; labels: (batch,) int64 for
            class numbers, (batch,) or (batch, labels) float32 for values or shares; clips: (batch,) int64.
        """
        import torch

        # `feature_extractor.pad` does the same in three times the time.
        longest = max(len(row["input_values"]) for row in features)
        if self.padding == "max_length" and self.max_length is not None:
            longest = max(longest, self.max_length)
        step = self.pad_to_multiple_of or 1
        shape = len(features), -(-longest // step) * step
        values = np.full(shape, self.feature_extractor.padding_value, dtype=np.float32)
        mask = np.zeros(shape, dtype=np.int64)
        for row, features_of_row in enumerate(features):
            length = len(features_of_row["input_values"])
            values[row, :length] = features_of_row["input_values"]
            mask[row, :length] = 1
        collated = {"input_values": torch.from_numpy(values), "attention_mask": torch.from_numpy(mask)}
        return collated | collate_targets(features)


def collate_targets(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The labels and the numbers of the clips of a batch, where the rows have them."""
    import torch

    collated: dict[str, torch.Tensor] = {}
    for name in ("labels", "clips"):
        if name in features[0]:
            values = torch.as_tensor(np.asarray([row[name] for row in features]))
            collated[name] = values.to(torch.float32 if values.is_floating_point() else torch.int64)
    return collated


@dataclass(frozen=True)
class PreparedData:
    """The parts of a dataset, decoded and cached.

    Attributes:
        parts: "train", "validation" and "test"; columns `samples` (of the whole clip, at the rate of the feature
            extractor, not normalised), `length` (their number), `digest` (of the samples), `labels`, `path`, `start`
            and `end` (seconds, or None for a whole recording).
        feature_extractor: of the backbone.
        labels: label names; `labels` in the parts are their indices.
        clips: what the manifests say of the rows of each part.
        unreadable: recordings, or excerpts of them, left out, with the reason.
    """

    parts: dict[str, Dataset]
    feature_extractor: Wav2Vec2FeatureExtractor
    labels: list[str]
    clips: dict[str, list[Clip]]
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
        The train, validation and test datasets, whose rows have `input_values` (the first `data.max_seconds` of the
        clip, normalised where the backbone wants that), `labels` and `path`; the feature extractor, the label list,
        the number of labels.

    Raises:
        DataError: a manifest is missing or malformed, a part is empty, or there are fewer than two labels.
        CheckpointError: the backbone, whose preprocessor is used, is out of reach.
    """
    config = config or Config()
    prepared = prepare_datasets(data, config, on_step=on_step)
    extractor = prepared.feature_extractor
    longest = window_length(config, extractor)

    def view(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        values = [to_network(np.asarray(samples, np.float32)[:longest], extractor) for samples in rows["samples"]]
        return {"input_values": values, "labels": rows["labels"], "path": rows["path"]}

    train, validation, test = (
        prepared.parts[part].select_columns(["samples", "labels", "path"]).with_transform(view) for part in PARTS
    )
    return train, validation, test, extractor, prepared.labels, len(prepared.labels)


def window_length(config: Config, extractor: Wav2Vec2FeatureExtractor) -> int:
    """Samples of the longest piece that the network is given: `data.max_seconds`."""
    return round(config.data.max_seconds * extractor.sampling_rate)


def to_network(samples: audio.Samples, extractor: Wav2Vec2FeatureExtractor) -> audio.Samples:
    """A piece of a clip, (samples,), as the network takes it: normalised by itself where the backbone wants that."""
    return audio.normalise(samples) if extractor.do_normalize else samples


def _samples(clips: Dataset, index: int) -> audio.Samples:
    """The samples of a clip of a dataset in the format "arrow": read in 0.03 ms, where numpy's takes 0.55 ms."""
    return np.asarray(clips[index]["samples"][0].values, dtype=np.float32)


class TrainingClips:
    """The clips of the training part as the network sees them: cut, changed and mixed anew in each epoch.

    What a key gives does not depend on what was asked for before, so a resumed run sees what an uninterrupted one
    would have.
    """

    def __init__(self, prepared: PreparedData, config: Config) -> None:
        self._clips = prepared.parts["train"].with_format("arrow")
        self._extractor = prepared.feature_extractor
        self._view = TrainingView(config, prepared.feature_extractor.sampling_rate)
        self._seed = config.train.seed
        self._labels: npt.NDArray[np.int64] = np.asarray(prepared.parts["train"]["labels"][:], dtype=np.int64)
        self._shares = np.eye(len(prepared.labels), dtype=np.float32) if config.augment.mixup else None

    @property
    def active(self) -> bool:
        """Whether anything but the part that is taken of a long clip changes from epoch to epoch."""
        return self._view.active

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        """The clip for a key of `ClipSampler`: (epoch, index, draw).

        Returns:
            input_values (samples,), labels (a class number; with mixup the share of each label), clips (the index).
        """
        epoch, index, draw = key
        samples, mixed = self._view.waveform(self._load, index, (self._seed, epoch, index, draw), len(self))
        row: dict[str, Any] = {"input_values": to_network(samples, self._extractor), "clips": index}
        if self._shares is None:
            return row | {"labels": int(self._labels[index])}
        return row | {"labels": sum(share * self._shares[self._labels[clip]] for clip, share in mixed)}

    def _load(self, index: int) -> audio.Samples:
        return _samples(self._clips, index)


class Windows:
    """The clips of a part in the windows in which `Predictor` would classify them, the shortest first.

    Attributes:
        clips: (windows,) the clip of each window.
    """

    def __init__(self, clips: Dataset, extractor: Wav2Vec2FeatureExtractor, window: int) -> None:
        self._dataset = clips.with_format("arrow")
        self._extractor = extractor
        bounds = [
            (last - first, clip, first, last)
            for clip, length in enumerate(clips["length"][:])
            for first, last in window_bounds(int(length), window, window)
        ]
        self._bounds = [(clip, first, last) for _, clip, first, last in sorted(bounds)]
        self._labels: npt.NDArray[np.int64] = np.asarray(clips["labels"][:], dtype=np.int64)
        self.clips: npt.NDArray[np.int64] = np.array([clip for clip, _, _ in self._bounds])

    def __len__(self) -> int:
        return len(self._bounds)

    def length(self, index: int) -> int:
        """The samples of a window."""
        _, first, last = self._bounds[index]
        return last - first

    def __getitem__(self, index: int) -> dict[str, Any]:
        """input_values (samples,) and labels (a class number) of a window."""
        clip, first, last = self._bounds[index]
        samples = _samples(self._dataset, clip)[first:last]
        return {"input_values": to_network(samples, self._extractor), "labels": int(self._labels[clip])}


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
    used = {}
    for part in parts:
        clips = read_manifest(data / f"{part}.csv")
        rows = _to_rows(clips, data)
        seconds = max((clip.duration or UNKNOWN_SECONDS for clip in clips), default=UNKNOWN_SECONDS)
        whole = _preprocess(rows, data, labels, extractor, config, part, seconds, on_step)
        errors = whole["error"]
        for row, error in zip(rows, errors, strict=True):
            if error:
                unreadable[Excerpt(resolve_path(row["path"], data), row["start"], row["end"])] = error
        # Without a table of indices, where all can be used: rows are then read in a third of the time.
        usable = whole.select([row for row, error in enumerate(errors) if not error]) if any(errors) else whole
        used[part] = [clip for clip, error in zip(clips, errors, strict=True) if not error]
        prepared[part] = usable.remove_columns("error").with_format("numpy")
        if len(usable) == 0:
            reason = f": {next(iter(unreadable.items()))[1]}" if unreadable else ""
            raise DataError(f"{data}/{part}.csv names no recording that can be used{reason}")
    for excerpt, reason in unreadable.items():
        logger.warning("left out %s: %s", excerpt.path, reason)
    return PreparedData(prepared, extractor, labels, used, unreadable)


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


def _to_rows(clips: list[Clip], data: Path) -> Dataset:
    from datasets import Dataset, Features, Value

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
    seconds: float,
    on_step: OnStep,
) -> Dataset:
    """Decode and resample each clip, once: the result is cached under `_fingerprint`."""
    import datasets
    from datasets import Features, List, Value

    number = {label: index for index, label in enumerate(labels)}
    done = 0

    def read(row: tuple[str, float | None, float | None]) -> tuple[audio.Samples, str]:
        stored, start, end = row
        try:
            return _read_clip(Excerpt(resolve_path(stored, data), start, end), extractor.sampling_rate, config), ""
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
            "samples": [samples for samples, _ in clips],
            "length": [len(samples) for samples, _ in clips],
            "digest": [audio.digest(samples) for samples, _ in clips],
            "labels": [number[label] for label in batch["label"]],
            **{name: batch[name] for name in ("path", "start", "end")},
            "error": [error for _, error in clips],
        }

    fingerprint = _fingerprint(rows, data, labels, extractor, config)
    cache_file = Path(datasets.config.HF_DATASETS_CACHE) / "crycli" / f"{fingerprint}.arrow"
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    logger.debug("%s: %d clips, cached in %s", part, len(rows), cache_file)
    rows_in_memory = max(1, int(SECONDS_IN_MEMORY / seconds))
    return rows.map(
        read_batch,
        batched=True,
        batch_size=rows_in_memory,
        writer_batch_size=rows_in_memory,
        remove_columns=rows.column_names,
        features=Features(
            {
                "samples": List(Value("float32")),
                "length": Value("int64"),
                "digest": Value("string"),
                "labels": Value("int64"),
                "path": Value("string"),
                "start": Value("float64"),
                "end": Value("float64"),
                "error": Value("string"),
            }
        ),
        new_fingerprint=fingerprint,
        cache_file_name=str(cache_file),
    )


def _read_clip(excerpt: Excerpt, rate: int, config: Config) -> audio.Samples:
    samples = audio.load(excerpt.path, rate, excerpt.start, excerpt.end, config.limits.to_limits())
    audio.refuse_short(len(samples) / rate, config.data.min_seconds)
    return samples


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
    settings = [config.data.min_seconds, extractor.sampling_rate, config.limits.model_dump()]
    code = [Path(module).read_text(encoding="utf-8") for module in (audio.__file__, __file__)]
    decoders = [version(package) for package in ("av", "soundfile", "soxr")]
    content = json.dumps([crycli.__version__, decoders, code, settings, labels, recordings])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
