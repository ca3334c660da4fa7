"""A trained classifier at work. eval and predict both go through here, so a clip gets one answer everywhere.

torch is imported only where a checkpoint is used; an exported bundle runs on onnxruntime alone.
"""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crycli import audio, remote
from crycli.audio import Excerpt, Location, Samples, as_excerpt, resample_blocks
from crycli.calibration import CALIBRATION_FILE, Calibration, threshold_for
from crycli.checkpoint import Classifier, find_classifier, read_json
from crycli.config import Combine, Config, PredictConfig
from crycli.errors import AudioError, CheckpointError, ConfigError
from crycli.events import DEFAULT_ONSET, OFFSET_SHARE, EventPolicy, combine, event_labels
from crycli.limits import Limits
from crycli.networks import (
    Array,
    Network,
    Output,
    Probabilities,
    onnx_network,
    pick_device,
    softmax,
    torch_network,
)
from crycli.parallel import map_ordered, worker_count
from crycli.predictions import UNSURE, Prediction, Windows
from crycli.windows import Window, WindowCutter, stream_windows

GPU_BATCH = 16  # windows
AHEAD_SECONDS = 60.0  # of windows, laid end to end, that are cut from a recording before its turn comes
BATCHES_IN_FLIGHT = 2  # a thread

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowPolicy:
    """How recordings are cut, and what is made of the answers.

    Attributes:
        window_seconds: longer recordings are answered window by window.
        hop_seconds: from the start of a window to the next one's.
        unsure_below: the confidence below which the answer is `UNSURE`.
        events: how windows become events.
        combine: what a recording's probabilities are, of those of its windows.
    """

    window_seconds: float
    hop_seconds: float
    unsure_below: float
    events: EventPolicy
    combine: Combine = "mean"


@dataclass
class _Answering:
    """A recording whose windows are on their way through the network."""

    excerpt: Excerpt
    windows: Iterable[Window] = ()
    digest: str = ""
    error: str = ""
    starts: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    logits: array[float] = field(default_factory=lambda: array("f"))
    answered: int = 0
    embedding: npt.NDArray[np.float64] | None = None

    @property
    def finished(self) -> bool:
        """Whether no window that was cut lacks its answer."""
        return self.answered == len(self.starts)

    def cut(self) -> Iterator[Samples]:
        """The windows; an error while decoding ends them, and is remembered."""
        try:
            for window in self.windows:
                self.starts.append(window.start)
                self.lengths.append(len(window.samples))
                yield window.samples
        except AudioError as error:
            self.error = str(error)


class Predictor:
    """A classifier that answers for recordings.

    Attributes:
        classifier: what it is.
        batch_size: windows in one forward pass.
        temperature: what the logits are divided by.
        policy: how recordings are cut, and what is made of the answers.
    """

    def __init__(
        self,
        classifier: Classifier,
        network: Network,
        batch_size: int,
        workers: int = 0,
        *,
        threads: int = 1,
        temperature: float = 1.0,
        policy: WindowPolicy | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.classifier = classifier
        self.batch_size = batch_size
        self.temperature = temperature
        self.policy = policy or read_policy(classifier, PredictConfig(), None)
        self._network = network
        self._workers = workers
        self._threads = threads
        self._limits = limits or Limits()
        rate = classifier.sample_rate
        self._window = round(self.policy.window_seconds * rate)
        self._hop = max(1, round(self.policy.hop_seconds * rate))

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, in the order of the probabilities."""
        return self.classifier.labels

    def predict(
        self, recordings: Iterable[Location | Excerpt], *, embeddings: bool = False, digests: bool = False
    ) -> Iterator[Prediction]:
        """Classify recordings or excerpts, in order, as they are read; one that cannot be read yields its error.

        A recording longer than the window is answered window by window; `events.combine` makes its probabilities of
        theirs. It is decoded as it is needed: the memory that is used does not grow with its length.

        Args:
            recordings: what to answer for.
            embeddings: whether the answers hold pooled vectors.
            digests: whether the answers hold the digests of the samples.

        Raises:
            ConfigError: embeddings are asked for of a network that does not give them.
        """

        def begin(recording: Location | Excerpt) -> _Answering:
            return self._begin(as_excerpt(recording), digests=digests)

        waiting: deque[_Answering] = deque()
        with _Pool(self._network, self._threads, embeddings=embeddings) as pool:
            batch: list[tuple[Samples, _Answering]] = []
            for answering in map_ordered(begin, recordings, self._workers):
                waiting.append(answering)
                for window in answering.cut():
                    batch.append((window, answering))
                    if len(batch) == self.batch_size:
                        pool.submit(batch, normalise=self.classifier.normalise)
                        batch = []
                pool.collect()
                while waiting and waiting[0].finished:
                    yield self._answer(waiting.popleft())
            if batch:
                pool.submit(batch, normalise=self.classifier.normalise)
            pool.finish()
        while waiting:
            yield self._answer(waiting.popleft())

    def live(self, blocks: Iterable[Samples], rate: int) -> Iterator[tuple[float, float, Probabilities]]:
        """Answer for sound as it comes, window by window, each as soon as it is full.

        Args:
            blocks: (samples,) each, of any length.
            rate: Hz, of the blocks.

        Returns:
            Of each window its start and end in seconds, and its (labels,) probabilities.

        Raises:
            AudioError: while iterating: it ends before there is enough for the model.
        """
        cutter = WindowCutter(self._window, self._hop)
        there = resample_blocks(blocks, rate, self.classifier.sample_rate)
        cut = chain.from_iterable(map(cutter.push, there))
        for window in chain(cut, cutter.close()):
            self._refuse_short(len(window.samples))
            (probabilities,) = self.probabilities([window.samples])
            start = window.start / self.classifier.sample_rate
            end = start + len(window.samples) / self.classifier.sample_rate
            yield start, end, probabilities
        self._refuse_short(cutter.length)

    def probabilities(self, clips: Iterable[Samples]) -> Probabilities:
        """(clips, labels) of clips in memory, (samples,) at the classifier's rate, none longer than its window."""
        found: list[Array] = []
        waiting = iter(clips)
        while batch := list(islice(waiting, self.batch_size)):
            found.append(_run(self._network, batch, normalise=self.classifier.normalise).logits)
        return softmax(np.concatenate(found) / self.temperature)

    def _begin(self, excerpt: Excerpt, *, digests: bool) -> _Answering:
        """Open a recording and decode its beginning; most are decoded whole by that."""
        answering = _Answering(excerpt)
        windows = self._windows(answering, digest=digests)
        try:
            ahead = list(islice(windows, max(1, round(AHEAD_SECONDS * self.classifier.sample_rate / self._window))))
        except AudioError as error:
            answering.error = str(error)
        else:
            answering.windows = chain(ahead, windows)
        return answering

    def _windows(self, answering: _Answering, *, digest: bool) -> Iterator[Window]:
        excerpt, rate = answering.excerpt, self.classifier.sample_rate
        with remote.local_copy(excerpt.path) as path:
            local = Excerpt(path, excerpt.start, excerpt.end)
            stream = stream_windows(local, rate, self._window, self._hop, self._limits, digest=digest)
            for window in stream:
                self._refuse_short(len(window.samples))
                yield window
            answering.digest = stream.digest

    def _refuse_short(self, samples: int) -> None:
        needed, rate = self.classifier.shortest_samples, self.classifier.sample_rate
        if samples < needed:
            raise AudioError(f"too short: {samples / rate:.3f} s, and the model needs {needed / rate:.3f} s")

    def _answer(self, answering: _Answering) -> Prediction:
        excerpt = answering.excerpt
        if answering.error:
            return _failed(excerpt, answering.error)
        logits = np.frombuffer(answering.logits, np.float32).reshape(-1, len(self.labels))
        if not np.isfinite(logits).all():
            return _failed(excerpt, "the model's answer is not a number")
        each = softmax(logits / self.temperature)
        found = self._combine(each)
        start = excerpt.start or 0.0
        starts = start + np.array(answering.starts) / self.classifier.sample_rate
        ends = starts + np.array(answering.lengths) / self.classifier.sample_rate
        embedding = answering.embedding
        return Prediction(
            path=excerpt.path,
            start=start,
            end=float(ends[-1]),
            label=self._label(found),
            confidence=float(found.max()),
            probabilities=tuple(found.tolist()),
            uncalibrated=tuple(self._combine(softmax(logits)).tolist()),
            digest=answering.digest,
            windows=Windows(starts, ends, each),
            embedding=None if embedding is None else (embedding / answering.answered).astype(np.float32),
        )

    def _combine(self, probabilities: Probabilities) -> Probabilities:
        """(labels,) of a recording, from the (windows, labels) of its windows."""
        return combine(probabilities, self.labels, self.policy.events.labels, self.policy.combine)

    def _label(self, probabilities: Probabilities) -> str:
        best = int(probabilities.argmax())
        return self.labels[best] if probabilities[best] >= self.policy.unsure_below else UNSURE


def _failed(excerpt: Excerpt, error: str) -> Prediction:
    """No answer, and why; of one file several parts may fail."""
    times = "" if excerpt.end is None else f" ({excerpt.start or 0.0:.3f} to {excerpt.end:.3f} s)"
    return Prediction(excerpt.path, error=error + times)


class _Pool:
    """Threads that run a network on batches; what they find reaches the recordings in the order of the batches."""

    def __init__(self, network: Network, threads: int, *, embeddings: bool) -> None:
        self._network = network
        self._embeddings = embeddings
        self._most = BATCHES_IN_FLIGHT * threads
        self._threads = ThreadPoolExecutor(threads)
        self._running: deque[tuple[Future[Output], list[_Answering]]] = deque()

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def submit(self, batch: list[tuple[Samples, _Answering]], *, normalise: bool) -> None:
        """Run a batch of windows; waits where enough are on their way."""
        windows = [window for window, _ in batch]
        future = self._threads.submit(_run, self._network, windows, normalise=normalise)
        self._running.append((future, [answering for _, answering in batch]))
        while len(self._running) > self._most:
            self._take()

    def collect(self) -> None:
        """Take what has been found, without waiting."""
        while self._running and self._running[0][0].done():
            self._take()

    def finish(self) -> None:
        """Wait for all that is on its way."""
        while self._running:
            self._take()

    def _take(self) -> None:
        future, recordings = self._running.popleft()
        output = future.result()
        if self._embeddings and output.embeddings is None:
            raise ConfigError("the model gives no embeddings: export its bundle anew")
        for row, answering in enumerate(recordings):
            answering.logits.extend(output.logits[row].tolist())
            answering.answered += 1
            if self._embeddings and output.embeddings is not None:
                before = answering.embedding
                answering.embedding = output.embeddings[row] + (0.0 if before is None else before)


def _run(network: Network, windows: list[Samples], *, normalise: bool) -> Output:
    """The network's answers for windows, (samples,) each, padded to the longest."""
    if normalise:
        windows = [audio.normalise(window) for window in windows]
    longest = max(map(len, windows))
    values = np.zeros((len(windows), longest), np.float32)
    mask = np.zeros((len(windows), longest), np.int64)
    for row, window in enumerate(windows):
        values[row, : len(window)] = window
        mask[row, : len(window)] = 1
    return network(values, mask)


def load_predictor(name: str, config: Config | None = None, *, for_events: bool = False) -> Predictor:
    """A predictor from a run, a model folder, an exported bundle or a hub name; "detector" comes with crycli.

    Args:
        name: which.
        config: all settings.
        for_events: whether events are what is wanted: a model may look for them in windows of their own.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ConfigError: the configured device is not there, or a setting does not fit the model.
    """
    config = config or Config()
    classifier = find_classifier(name, offline=config.offline)
    calibration = read_calibration(classifier.folder)
    policy = read_policy(classifier, config.predict, calibration, for_events=for_events)
    network, on_gpu = _load_network(classifier, config.device)
    size = config.predict.batch_size
    if size == "auto":
        size = GPU_BATCH if on_gpu else 1
    return Predictor(
        classifier,
        network,
        size,
        config.workers,
        threads=1 if on_gpu else worker_count(config.workers),
        temperature=1.0 if calibration is None else calibration.temperature,
        policy=policy,
        limits=config.limits.to_limits(),
    )


def _load_network(classifier: Classifier, device: str) -> tuple[Network, bool]:
    """The network, and whether it runs on a GPU. On a CPU it runs on one core a call."""
    if classifier.kind == "checkpoint":
        logger.info("loading %s ...", classifier.folder)  # torch takes seconds
        device = pick_device(device)
        return torch_network(classifier.folder, device), device != "cpu"
    if classifier.network_file is None:
        raise CheckpointError(f"{classifier.folder} holds no network")
    return onnx_network(classifier.network_file, classifier), False


def read_calibration(folder: Path) -> Calibration | None:
    """What the validation clips said about the confidence of a model in a folder; None where nothing is known.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / CALIBRATION_FILE
    return Calibration.from_json(read_json(file), file) if file.is_file() else None


def read_policy(
    classifier: Classifier, predict: PredictConfig, calibration: Calibration | None, *, for_events: bool = False
) -> WindowPolicy:
    """How a classifier is to be used: as the settings say, else as the model does.

    Args:
        classifier: which.
        predict: the settings.
        calibration: of the classifier.
        for_events: whether events are what is wanted: a model may look for them in windows of their own.

    Raises:
        ConfigError: a setting does not fit the model.
    """
    of_events = event_windows(classifier, predict) if for_events else None
    window, hop = of_events or _windows(classifier, predict)
    kept = classifier.events
    if kept.get("window", window) != window:  # what was found right for its windows says nothing about others
        kept = {name: value for name, value in kept.items() if name not in ("onset", "offset")}
    return WindowPolicy(
        window_seconds=window,
        hop_seconds=hop,
        unsure_below=_threshold(classifier, predict, calibration),
        events=_event_policy(classifier, predict, kept),
        combine=classifier.combine if predict.combine == "auto" else predict.combine,
    )


def _windows(classifier: Classifier, predict: PredictConfig) -> tuple[float, float]:
    """Window and hop, in seconds."""
    window = classifier.window_seconds if predict.window == "auto" else predict.window
    hop = predict.hop
    if hop == "auto":
        hop = classifier.hop_seconds if predict.window == "auto" and classifier.hop_seconds is not None else window
    _refuse_gaps("predict.hop", window, hop, "for recordings")
    return window, hop


def event_windows(classifier: Classifier, predict: PredictConfig) -> tuple[float, float] | None:
    """Window and hop in which events are looked for, in seconds; None where those of all else will do.

    Raises:
        ConfigError: the hop is longer than the window.
    """
    kept = classifier.events
    if "window" not in kept and predict.event_window == predict.event_hop == "auto":
        return None
    window = _first_given(predict.event_window, predict.window, kept.get("window", classifier.window_seconds))
    own = kept.get("hop", "auto") if window == kept.get("window") else "auto"
    hop = _first_given(predict.event_hop, predict.hop, own, window / 2)
    given = predict.event_hop == "auto" and predict.hop != "auto"
    _refuse_gaps("predict.hop" if given else "predict.event_hop", window, hop, "for events")
    return window, hop


def _first_given(*settings: float | str) -> float:
    """The first that is not "auto"."""
    return next(setting for setting in settings if not isinstance(setting, str))


def _refuse_gaps(setting: str, window: float, hop: float, purpose: str) -> None:
    if hop > window:
        raise ConfigError(
            f"{setting}: {hop:g} s is longer than the window of {window:g} s {purpose}, which would leave gaps"
        )


def _event_policy(classifier: Classifier, predict: PredictConfig, kept: Mapping[str, Any]) -> EventPolicy:
    labels = kept.get("labels", event_labels(classifier.labels))
    if predict.event_labels != "auto":
        labels = predict.event_labels
    unknown = [label for label in labels if label not in classifier.labels]
    if unknown:
        known = ", ".join(classifier.labels)
        raise ConfigError(f"predict.event_labels: the model has no label {unknown[0]!r}; it has {known}")
    onset = kept.get("onset", DEFAULT_ONSET) if predict.event_onset == "auto" else predict.event_onset
    offset = predict.event_offset
    if offset == "auto":
        offset = OFFSET_SHARE * onset
        if predict.event_onset == "auto" and "offset" in kept:
            offset = kept["offset"]
    if offset > onset:
        raise ConfigError(f"predict.event_offset: {offset:g} is higher than the onset, {onset:g}")
    least, gap = predict.event_min_seconds, predict.event_gap_seconds
    return EventPolicy(
        labels=tuple(labels),
        onset=onset,
        offset=offset,
        min_seconds=kept.get("min_seconds", 0.0) if least == "auto" else least,
        gap_seconds=kept.get("gap_seconds", 0.0) if gap == "auto" else gap,
    )


def _threshold(classifier: Classifier, predict: PredictConfig, calibration: Calibration | None) -> float:
    """The confidence below which the answer is unsure."""
    if predict.threshold is not None:
        return predict.threshold
    precision, coverage = predict.precision, predict.coverage
    if precision is None and coverage is None:
        return classifier.threshold or 0.0
    if calibration is None:
        folder = classifier.folder
        raise ConfigError(f"predict.precision and predict.coverage need {CALIBRATION_FILE}, which {folder} lacks")
    confidence, correct = np.array(calibration.confidence), np.array(calibration.correct, dtype=np.bool_)
    found = threshold_for(confidence, correct, precision=precision, coverage=coverage)
    if found is None:
        raise ConfigError(
            f"predict.precision: {classifier.folder} reaches {precision:g} at no confidence on {len(confidence)} "
            f"validation clips"
        )
    return found
