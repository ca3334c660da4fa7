"""A job of prediction: recordings through a classifier to rows, segments, vectors and pictures."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

from crycli import pcm
from crycli.audio import Excerpt
from crycli.bundles import file_names, hash_files
from crycli.checkpoint import Classifier
from crycli.config import Config, PredictConfig
from crycli.errors import AudioError, ConfigError, DataError
from crycli.events import Event, EventFinder, find_events
from crycli.inference import Predictor, WindowPolicy, load_predictor
from crycli.outputs import claim_folder, refuse_existing, refuse_unwritable, write_bytes
from crycli.predictions import Prediction, Row, path_text
from crycli.progress import OnStep, Step, silent
from crycli.results import Results, StreamResults, open_results
from crycli.segments import SegmentWriter, safe_name
from crycli.tables import Form, Kind, Layout, Sort

NAMED_FAILURES = 10  # recordings; the rows name them all

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extras:
    """What is wanted besides rows.

    Attributes:
        segments: the folder for events as wav files.
        embeddings: the file for pooled vectors.
        plot: the file for a timeline, or the folder for those of several recordings.
    """

    segments: Path | None = None
    embeddings: Path | None = None
    plot: Path | None = None


@dataclass
class Outcome:
    """What became of a job.

    Attributes:
        recordings: in all.
        failed: of these, those without an answer.
        finished: an earlier run had left nothing to do.
        reasons: of the first recordings without an answer, the path and the error; none where rows do not tell them,
            because each was named when it came up.
    """

    recordings: int
    failed: int = 0
    finished: bool = False
    reasons: list[tuple[str, str]] = field(default_factory=list)


def kind_of_rows(predict: PredictConfig, usual: Kind) -> Kind:
    """What a row is: as the settings say, else as is usual."""
    return usual if predict.rows == "auto" else predict.rows


def layout_for(classifier: Classifier, policy: WindowPolicy, predict: PredictConfig, kind: Kind) -> Layout:
    """What the rows of a job are."""
    return Layout(kind, classifier.labels, predict.top_k, policy.unsure_below, policy.events)


def describe_task(classifier: Classifier, policy: WindowPolicy, config: Config) -> dict[str, Any]:
    """What must be the same for a job to be resumed, besides its recordings and the layout of its rows."""
    hashes = json.dumps(hash_files(classifier.folder, file_names(classifier.folder)))
    return {
        "model": hashlib.sha256(hashes.encode()).hexdigest()[:16],
        "window": policy.window_seconds,
        "hop": policy.hop_seconds,
        "combine": policy.combine,
        "labels of events": list(policy.events.labels) if policy.combine == "max" else [],
        "limits": vars(config.limits.to_limits()),
    }


class Job:
    """Recordings to be answered for.

    Attributes:
        predictor: the classifier.
        recordings: what to answer for.
        layout: what the rows are.

    Args:
        name: see `inference.load_predictor`.
        recordings: what to answer for.
        form: what the rows become.
        config: all settings.
        extras: what is wanted besides rows.
        resume: go on with what an interrupted run has left.
        force: replace what is there.

    Raises:
        CrycliError: the model cannot be used, or an output is there or cannot be written.
    """

    def __init__(
        self,
        name: str,
        recordings: Sequence[Excerpt],
        form: Form,
        config: Config | None = None,
        extras: Extras | None = None,
        *,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        self._config = config or Config()
        self._extras = extras or Extras()
        self._form: Form = form
        self._resume = resume
        self._force = force
        self.recordings = recordings
        kind = kind_of_rows(self._config.predict, "events" if form in ("audacity", "raven") else "recordings")
        self.predictor = load_predictor(name, self._config, for_events=kind == "events")
        self.layout = layout_for(self.predictor.classifier, self.predictor.policy, self._config.predict, kind)
        self._watchers = list(self._watch(replace_files=force or resume))

    @property
    def sort(self) -> Sort:
        """The order of the rows."""
        return self._config.predict.sort

    @property
    def wants_vectors(self) -> bool:
        """Whether the pooled vectors are wanted."""
        return self._extras.embeddings is not None

    def open(self, output: Path | TextIO | Literal["beside"] | None) -> Results:
        """Say where the rows go; see `results.open_results`."""
        classifier = self.predictor.classifier
        wants_file = isinstance(output, Path) or self.wants_vectors
        return open_results(
            self.recordings,
            self.layout,
            self._form,
            output,
            embeddings=self._extras.embeddings,
            sort=self.sort,
            sample_rate=classifier.sample_rate,
            task=describe_task(classifier, self.predictor.policy, self._config) if wants_file else None,
            resume=self._resume,
            force=self._force,
        )

    def run(self, results: Results, on_step: OnStep = silent) -> Outcome:
        """Answer for the recordings that are left, each written as soon as it is answered."""
        outcome = Outcome(len(self.recordings), finished=results.finished)
        done = len(self.recordings) - len(results.remaining)
        for answer in self.predictor.predict(results.remaining, embeddings=self.wants_vectors):
            if self._watchers and answer.windows is not None:
                events = find_events(answer.windows, self.predictor.labels, self.predictor.policy.events)
                for watch in self._watchers:
                    watch(answer, events)
            results.write(answer)  # last: what a killed run had not written is then done again
            if answer.error and results.rows_name_errors and len(outcome.reasons) < NAMED_FAILURES:
                outcome.reasons.append((path_text(answer.path), answer.error))
            done += 1
            on_step(Step("predict", done, len(self.recordings), "recordings"))
        outcome.failed = results.failed
        return outcome

    def _watch(self, *, replace_files: bool) -> Iterator[Callable[[Prediction, Sequence[Event]], object]]:
        segments, plot = self._extras.segments, self._extras.plot
        if segments is not None:
            limits = self._config.limits.to_limits()
            writer = SegmentWriter(segments, self.recordings, limits, force=replace_files)
            yield lambda answer, events: writer.write(answer.path, events)
        if plot is not None:
            several = plot.suffix.lower() != ".png"
            if not several and len(self.recordings) > 1:
                raise ConfigError(f"--plot: {plot} is one picture, and there are several recordings: name a folder")
            yield _Plots(self.predictor, plot, several=several, force=replace_files).write


class _Plots:
    """Timelines: one file for one recording, else a file each in a folder."""

    def __init__(self, predictor: Predictor, target: Path, *, several: bool, force: bool) -> None:
        self._predictor = predictor
        self._several = several
        self._target = target
        self._taken: set[str] = set()
        if several:
            claim_folder(target, force=force)
        else:
            refuse_existing(target, force=force)
            refuse_unwritable(target)

    def write(self, answer: Prediction, events: Sequence[Event]) -> None:
        from crycli.figures import draw_timeline  # matplotlib, which a machine that only predicts need not have

        if answer.windows is None:
            return
        title = Path(path_text(answer.path)).name
        policy = self._predictor.policy.events
        picture = draw_timeline(title, answer.windows, self._predictor.labels, policy, events)
        write_bytes(self._file(answer) if self._several else self._target, picture)

    def _file(self, answer: Prediction) -> Path:
        name = safe_name(Path(path_text(answer.path)).name)
        if answer.start or name in self._taken:
            name = f"{name}_{answer.start or 0.0:.3f}"
        if name in self._taken:  # of another folder
            name = f"{name}-{hashlib.sha256(path_text(answer.path).encode()).hexdigest()[:8]}"
        self._taken.add(name)
        return self._target / f"{name}.png"


def predict_live(name: str, source: BinaryIO, target: TextIO, form: Form, config: Config | None = None) -> None:
    """Answer for sound while it comes, window by window, each row written as soon as its window is full.

    Args:
        name: see `inference.load_predictor`.
        source: 16-bit PCM as `predict.stream_rate` and `predict.stream_channels` say, or a wav stream.
        target: for the rows: of windows, or of events as they end (`predict.rows`).
        form: what the rows become; csv or jsonl.
        config: all settings.

    Raises:
        ConfigError: the form, the rows or an order do not go with what never ends.
        DataError: the source is of another kind, or too short.
    """
    config = config or Config()
    if form not in ("csv", "jsonl", "audacity"):
        raise ConfigError(f"predict.format: {form} is no format for standard input: use csv or jsonl")
    if config.predict.sort != "input":
        raise ConfigError("predict.sort: rows of standard input come as they are heard: leave it out")
    kind = kind_of_rows(config.predict, "events" if form == "audacity" else "windows")
    if kind == "recordings":
        raise ConfigError("predict.rows: standard input has no end: use windows or events")
    predictor = load_predictor(name, config, for_events=kind == "events")
    layout = layout_for(predictor.classifier, predictor.policy, config.predict, kind)
    with StreamResults([], layout, form, target, sample_rate=predictor.classifier.sample_rate) as results:
        try:
            for rows in _live_rows(predictor, layout, source, config.predict):
                results.write_rows(rows)
        except AudioError as error:
            raise DataError(f"standard input: {error}") from None


def _live_rows(
    predictor: Predictor, layout: Layout, source: BinaryIO, predict: PredictConfig
) -> Iterator[Iterable[Row]]:
    rate, blocks = pcm.open_stream(source, predict.stream_rate, predict.stream_channels)
    finder = EventFinder(predictor.labels, predictor.policy.events)

    def told(events: Iterable[Event]) -> list[Row]:
        return [layout.event_row(Path("-"), event) for event in events]

    try:
        for start, end, probabilities in predictor.live(blocks, rate):
            if layout.kind == "windows":
                yield layout.window_rows(Path("-"), start, end, probabilities)
            else:
                yield told(finder.push(start, end, probabilities))
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C or SIGTERM: how a microphone's stream usually ends
        yield told(finder.close())
        raise
    yield told(finder.close())
