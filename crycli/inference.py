"""A trained classifier at work. eval and predict both go through here, so a clip gets one answer everywhere.

torch is imported only where a checkpoint is used; an exported bundle runs on onnxruntime alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crycli import audio
from crycli.audio import Excerpt
from crycli.calibration import CALIBRATION_FILE, Calibration, threshold_for
from crycli.checkpoint import Classifier, find_classifier, read_json
from crycli.config import Config
from crycli.errors import AudioError, ConfigError, DataError
from crycli.networks import Array, Network, Probabilities, onnx_network, pick_device, softmax, torch_network
from crycli.parallel import map_ordered
from crycli.predictions import UNSURE, Prediction

GPU_BATCH = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Windows:
    """An excerpt cut into what the network takes: normalised windows, each (samples,)."""

    excerpt: Excerpt
    seconds: float
    windows: list[Array]
    error: str = ""
    digest: str = ""


class Predictor:
    """A classifier that answers for recordings.

    Attributes:
        classifier: what it is.
        batch_size: windows in one forward pass.
        temperature: what the logits are divided by.
        unsure_below: the confidence below which the answer is `UNSURE`.
    """

    def __init__(
        self,
        classifier: Classifier,
        network: Network,
        batch_size: int,
        workers: int = 0,
        *,
        temperature: float = 1.0,
        unsure_below: float = 0.0,
    ) -> None:
        self.classifier = classifier
        self.batch_size = batch_size
        self.temperature = temperature
        self.unsure_below = unsure_below
        self._network = network
        self._workers = workers

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, in the order of the probabilities."""
        return self.classifier.labels

    def predict(self, recordings: Iterable[Path | Excerpt]) -> Iterator[Prediction]:
        """Classify recordings or excerpts, in order, as they are read; one that cannot be read yields its error.

        A recording longer than the classifier's window is cut into windows of that length, and its probabilities
        are the mean over them.
        """
        waiting: deque[tuple[_Windows, list[Array]]] = deque()
        batch: list[tuple[Array, list[Array]]] = []
        for recording in map_ordered(self._cut, recordings, self._workers):
            logits: list[Array] = []
            waiting.append((recording, logits))
            for window in recording.windows:
                batch.append((window, logits))
                if len(batch) == self.batch_size:
                    self._classify(batch)
                    batch.clear()
            while waiting and len(waiting[0][1]) == len(waiting[0][0].windows):
                yield self._answer(*waiting.popleft())
        if batch:
            self._classify(batch)
        while waiting:
            yield self._answer(*waiting.popleft())

    def probabilities(self, clips: Iterable[Array]) -> Probabilities:
        """(clips, labels) of clips in memory, (samples,) at the classifier's rate, none longer than its window."""
        found: list[list[Array]] = []
        batch: list[tuple[Array, list[Array]]] = []
        for samples in clips:
            found.append([])
            batch.append((audio.normalise(samples) if self.classifier.normalise else samples, found[-1]))
            if len(batch) == self.batch_size:
                self._classify(batch)
                batch.clear()
        if batch:
            self._classify(batch)
        return softmax(np.concatenate(found).astype(np.float32) / np.float32(self.temperature))

    def _cut(self, recording: Path | Excerpt) -> _Windows:
        excerpt = Excerpt(recording) if isinstance(recording, Path) else recording
        rate = self.classifier.sample_rate
        try:
            samples = audio.load(excerpt.path, rate, excerpt.start, excerpt.end)
        except AudioError as error:
            return _Windows(excerpt, 0.0, [], str(error))
        if len(samples) < self.classifier.shortest_samples:
            needed = self.classifier.shortest_samples / rate
            return _Windows(
                excerpt, 0.0, [], f"too short: {len(samples) / rate:.3f} s, and the model needs {needed:.3f} s"
            )
        bounds = audio.window_bounds(len(samples), round(self.classifier.window_seconds * rate))
        windows = [samples[first:last] for first, last in bounds]
        if self.classifier.normalise:
            windows = [audio.normalise(window) for window in windows]
        return _Windows(excerpt, len(samples) / rate, windows, digest=audio.digest(samples))

    def _classify(self, batch: list[tuple[Array, list[Array]]]) -> None:
        """Append to each window's list its logits, (labels,)."""
        longest = max(len(window) for window, _ in batch)
        values = np.zeros((len(batch), longest), np.float32)
        mask = np.zeros((len(batch), longest), np.int64)
        for row, (window, _) in enumerate(batch):
            values[row, : len(window)] = window
            mask[row, : len(window)] = 1
        for row, (_, logits) in zip(self._network(values, mask).logits, batch, strict=True):
            logits.append(row)

    def _answer(self, recording: _Windows, logits: list[Array]) -> Prediction:
        path, start = recording.excerpt.path, recording.excerpt.start or 0.0
        if recording.error:
            return Prediction(path, error=recording.error)
        windows = np.stack(logits)
        if not np.isfinite(windows).all():
            return Prediction(path, error="the model's answer is not a number")
        mean = softmax(windows / np.float32(self.temperature)).mean(axis=0)
        best = int(mean.argmax())
        confidence = float(mean[best])
        return Prediction(
            path=path,
            start=start,
            end=start + recording.seconds,
            label=self.labels[best] if confidence >= self.unsure_below else UNSURE,
            confidence=confidence,
            probabilities=tuple(mean.tolist()),
            uncalibrated=tuple(softmax(windows).mean(axis=0).tolist()),
            digest=recording.digest,
        )


def find_inputs(paths: Iterable[Path]) -> list[Path]:
    """The recordings that are meant: files as they are, whatever they are called, and the recordings below folders.

    Raises:
        DataError: a path does not exist, or a folder holds no recordings.
    """
    recordings: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = list(audio.find_recordings(path))
            if not below:
                raise audio.no_recordings(path)
            recordings += below
        elif path.exists():
            recordings.append(path)
        else:
            raise DataError(f"no such file or folder: {path}")
    return recordings


def load_predictor(name: str, config: Config | None = None) -> Predictor:
    """A predictor from a run, a model folder, an exported bundle or a hub name.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ConfigError: the configured device is not there.
    """
    config = config or Config()
    classifier = find_classifier(name, offline=config.offline)
    if classifier.kind == "bundle":
        network, on_gpu = onnx_network(classifier.folder / "model.onnx", classifier), False
    else:
        logger.info("loading %s ...", classifier.folder)  # torch takes seconds
        device = pick_device(config.device)
        network, on_gpu = torch_network(classifier.folder, device), device != "cpu"
    size = config.predict.batch_size
    if size == "auto":
        size = GPU_BATCH if on_gpu else 1
    calibration = read_calibration(classifier.folder)
    return Predictor(
        classifier,
        network,
        size,
        config.workers,
        temperature=1.0 if calibration is None else calibration.temperature,
        unsure_below=_threshold(calibration, config, name),
    )


def read_calibration(folder: Path) -> Calibration | None:
    """What the validation clips said about the confidence of a model in a folder; None where nothing is known.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / CALIBRATION_FILE
    return Calibration.from_json(read_json(file), file) if file.is_file() else None


def _threshold(calibration: Calibration | None, config: Config, name: str) -> float:
    """The confidence below which the answer is unsure."""
    precision, coverage = config.predict.precision, config.predict.coverage
    if precision is None and coverage is None:
        return 0.0
    if calibration is None:
        raise ConfigError(f"predict.precision and predict.coverage need {CALIBRATION_FILE}, which {name} lacks")
    confidence, correct = np.array(calibration.confidence), np.array(calibration.correct, dtype=np.bool_)
    found = threshold_for(confidence, correct, precision=precision, coverage=coverage)
    if found is None:
        raise ConfigError(
            f"predict.precision: {name} reaches {precision:g} at no confidence on {len(confidence)} validation clips"
        )
    return found
