"""Answers on a terminal: a table, and a timeline of each long recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from crycli import console
from crycli.events import find_events
from crycli.predicting import Job
from crycli.predictions import Prediction, Row, Windows, path_text
from crycli.results import Results
from crycli.tables import sort_rows
from crycli.timeline import clock, printable

MOST_TIMELINES = 10
MOST_EVENTS = 20
LONG_SECONDS = 30.0  # of several recordings, shorter ones get no timeline
HEADERS = {
    "recordings": ("path", "seconds", "label", "confidence", "next"),
    "windows": ("path", "start", "end", "label", "confidence", "next"),
    "events": ("path", "start", "end", "label", "peak"),
}
RANKED = ("path", "start", "end", "rank", "label", "confidence")
NUMERIC = ("seconds", "start", "end", "rank", "confidence", "peak")


class TableResults(Results):
    """A table of all rows, drawn in the end, also where an interruption is the end. See `Results`.

    Args:
        job: whose answers are drawn.
        vectors: where the pooled vectors go at the same time.
    """

    def __init__(self, job: Job, vectors: Results | None = None) -> None:
        self.remaining = job.recordings if vectors is None else vectors.remaining
        self.failed = 0 if vectors is None else vectors.failed
        self.finished = vectors is not None and vectors.finished
        self._vectors = vectors
        self._job = job
        self._rows: list[Row] = []
        self._timelines: list[tuple[str, list[str]]] = []

    def __enter__(self) -> Self:
        if self._vectors is not None:
            self._vectors.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._vectors is not None:
            self._vectors.__exit__(kind, *rest)
        layout = self._job.layout
        ranked = layout.top_k is not None and layout.kind != "events"
        header = RANKED if ranked else HEADERS[layout.kind]
        rows = [_cells(row, header, layout.labels) for row in sort_rows(self._rows, self._job.sort)]
        console.table("events" if layout.kind == "events" else "predictions", header, rows, numeric=NUMERIC)
        for path, lines in self._timelines:
            console.result("\n".join([path, *lines, ""]))

    def write(self, prediction: Prediction) -> None:
        """See `Results`."""
        if self._vectors is not None:
            self._vectors.write(prediction)
        self.failed += bool(prediction.error)
        self._rows += self._job.layout.rows(prediction)
        windows = prediction.windows
        if windows is not None and self._deserves_timeline(windows) and len(self._timelines) < MOST_TIMELINES:
            shown = self._job.predictor.policy.events.labels
            lines = console.timeline(windows, self._job.layout.labels, shown)
            self._timelines.append((path_text(prediction.path), [*lines, *self._event_lines(windows)]))

    def _event_lines(self, windows: Windows) -> list[str]:
        """The events of a recording, a line each; none where the rows are events."""
        if self._job.layout.kind == "events":
            return []
        events = find_events(windows, self._job.layout.labels, self._job.predictor.policy.events)
        lines = [
            f"{clock(event.start)} to {clock(event.end)}  {printable(event.label)} {event.peak:.2f}"
            for event in events[:MOST_EVENTS]
        ]
        more = len(events) - len(lines)
        if more:
            lines.append(f"and {more:,} more: --events lists them")
        if lines and self._job.better_times:
            lines.append(self._job.better_times)
        return lines

    def _deserves_timeline(self, windows: Windows) -> bool:
        long = windows.ends[-1] - windows.starts[0] >= LONG_SECONDS
        return len(windows.starts) > 1 and (long or len(self.remaining) == 1)


def _cells(row: Row, header: Sequence[str], labels: Sequence[str]) -> list[str]:
    """What fits on a terminal: the answer and the runner-up. CSV has every probability."""
    if row["error"]:
        told = {"path": str(row["path"]), "label": f"error: {row['error']}"}
        return [told.get(name, "") for name in header]
    return [_cell(name, row, labels) for name in header]


def _cell(name: str, row: Row, labels: Sequence[str]) -> str:
    if name == "seconds":
        return f"{float(row['end'] or 0.0) - float(row['start'] or 0.0):.1f}"
    if name == "next":
        ranked = sorted(((float(row[f"p_{label}"] or 0.0), label) for label in labels), reverse=True)
        return "".join(f"{label} {probability:.3f}" for probability, label in ranked[1:2])
    value = row[name]
    if name in ("start", "end"):
        return f"{value:.1f}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
