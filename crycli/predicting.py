"""A job of prediction: recordings through a classifier to rows, segments, vectors and pictures."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

from crycli import pcm
from crycli.audio import Excerpt, Samples, as_excerpt
from crycli.bundles import file_names, hash_files
from crycli.checkpoint import Classifier
from crycli.config import Config, PredictConfig
from crycli.errors import AudioError, ConfigError, DataError
from crycli.events import Event, EventFinder, find_events
from crycli.inference import Predictor, WindowPolicy, event_windows, load_predictor
from crycli.outputs import check_file, claim_folder, open_output, write_bytes
from crycli.predictions import Row, Windows, path_text, times_text
from crycli.progress import OnStep, Step, silent
from crycli.results import Results, StreamResults, describe_events, open_results
from crycli.segments import SafeNames, SegmentWriter
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
            task=self._describe() if wants_file else None,
            resume=self._resume,
            force=self._force,
        )

    @property
    def better_times(self) -> str | None:
        """What to say where rows of events would tell the times better, as they are looked for in other windows."""
        policy = self.predictor.policy
        try:
            own = event_windows(self.predictor.classifier, self._config.predict)
        except ConfigError:  # is told where rows are events
            return None
        if self.layout.kind == "events" or own in (None, (policy.window_seconds, policy.hop_seconds)):
            return None
        return f"--events looks in windows of {own[0]:g} s, and tells the times better"

    def run(self, results: Results, on_step: OnStep = silent) -> Outcome:
        """Answer for the recordings that are left, each written as soon as it is answered."""
        outcome = Outcome(len(self.recordings), finished=results.finished)
        done = len(self.recordings) - len(results.remaining)
        if self._watchers and results.remaining and self.better_times:
            window = self.predictor.policy.window_seconds
            logger.info("--segments and --plot look in windows of %g s; %s", window, self.better_times)
        answers = self.predictor.predict(results.remaining, embeddings=self.wants_vectors)
        for recording, answer in zip(results.remaining, answers, strict=True):
            if self._watchers and answer.windows is not None:
                events = find_events(answer.windows, self.predictor.labels, self.predictor.policy.events)
                for watch in self._watchers:
                    watch(as_excerpt(recording), answer.windows, events)
            results.write(answer)  # last: what a killed run had not written is then done again
            if answer.error and results.rows_name_errors and len(outcome.reasons) < NAMED_FAILURES:
                outcome.reasons.append((path_text(answer.path), answer.error))
            done += 1
            on_step(Step("predict", done, len(self.recordings), "recordings"))
        outcome.failed = results.failed
        return outcome

    def _describe(self) -> dict[str, Any]:
        """What must be the same for the job to be resumed; for segments and pictures what they depend on, too."""
        policy = self.predictor.policy
        task = describe_task(self.predictor.classifier, policy, self._config)
        targets = {"segments": self._extras.segments, "plot": self._extras.plot}
        given = {name: os.path.abspath(target) for name, target in targets.items() if target is not None}
        return {**task, **given, **describe_events(policy.events)} if given else task

    def _watch(self, *, replace_files: bool) -> Iterator[Callable[[Excerpt, Windows, Sequence[Event]], object]]:
        segments, plot = self._extras.segments, self._extras.plot
        if segments is not None:
            limits = self._config.limits.to_limits()
            writer = SegmentWriter(segments, self.recordings, limits, force=replace_files)
            yield lambda excerpt, _, events: writer.write(excerpt.path, events)
        if plot is not None:
            several = plot.suffix.lower() != ".png"
            if not several and len(self.recordings) > 1:
                raise ConfigError(f"--plot: {plot} is one picture, and there are several recordings: name a folder")
            names = SafeNames(self.recordings, lambda path: path.name) if several else None
            yield _Plots(self.predictor, plot, names, force=replace_files).write


class _Plots:
    """Timelines: one file without `names`, else NAME.png in a folder, for an excerpt NAME_START-END.png."""

    def __init__(self, predictor: Predictor, target: Path, names: SafeNames | None, *, force: bool) -> None:
        self._predictor = predictor
        self._target = target
        self._names = names
        if names is None:
            check_file(target, force=force)
        else:
            claim_folder(target, force=force)

    def write(self, excerpt: Excerpt, windows: Windows, events: Sequence[Event]) -> None:
        from crycli.figures import draw_timeline  # matplotlib, which a machine that only predicts need not have

        path = path_text(excerpt.path)
        policy = self._predictor.policy.events
        file = self._target
        if self._names is not None:
            times = times_text(excerpt)
            file /= f"{self._names.of(path)}{times and f'_{times}'}.png"
        write_bytes(file, draw_timeline(Path(path).name, windows, self._predictor.labels, policy, events))


def predict_live(name: str, source: BinaryIO, target: Path | TextIO, form: Form, config: Config | None = None) -> None:
    """Answer for sound while it comes, window by window, each row written as soon as its window is full.

    Args:
        name: see `inference.load_predictor`.
        source: 16-bit PCM as `predict.stream_rate` and `predict.stream_channels` say, or a wav stream.
        target: for the rows: of windows, or of events as they end (`predict.rows`). A file is made once sound comes.
        form: what the rows become; csv or jsonl.
        config: all settings.

    Raises:
        ConfigError: the form, the rows or an order do not go with what never ends.
        DataError: the source is of another kind, or too short.
        OutputError: the file cannot be written.
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
    rate, blocks = pcm.open_stream(source, config.predict.stream_rate, config.predict.stream_channels)
    with (
        open_output(target) if isinstance(target, Path) else nullcontext(target) as stream,
        StreamResults([], layout, form, stream, sample_rate=predictor.classifier.sample_rate) as results,
    ):
        try:
            for rows in _live_rows(predictor, layout, rate, blocks):
                results.write_rows(rows)
        except AudioError as error:
            raise DataError(f"standard input: {error}") from None


def _live_rows(predictor: Predictor, layout: Layout, rate: int, blocks: Iterator[Samples]) -> Iterator[Iterable[Row]]:
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
