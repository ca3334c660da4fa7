"""Pooled vectors with their recordings, as npz, csv or parquet. They are kept raw until all are there."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crycli.errors import ConfigError
from crycli.outputs import csv_line
from crycli.predictions import Prediction, cell_text, path_text
from crycli.tables import reading_back, require_pyarrow

VectorForm = Literal["npz", "csv", "parquet"]

COLUMNS = ("path", "start", "end")
ROWS_AT_ONCE = 1_000  # 3 MB of base size


def vector_form(file: Path) -> VectorForm:
    """The form that a file's ending asks for.

    Raises:
        ConfigError: there is none for it.
    """
    forms: dict[str, VectorForm] = {".npz": "npz", ".csv": "csv", ".parquet": "parquet"}
    form = forms.get(file.suffix.lower())
    if form is None:
        raise ConfigError(f"--embeddings: {file.name} must end in {', '.join(forms)}")
    return form


def raw_vector(prediction: Prediction) -> tuple[bytes, bytes]:
    """What an answer with a vector adds to the two raw files: little-endian float32, and [path, start, end] as JSON.

    Both are empty for a recording that could not be read.
    """
    if prediction.embedding is None:
        return b"", b""
    row = [path_text(prediction.path), prediction.start, prediction.end]
    return prediction.embedding.astype("<f4").tobytes(), (json.dumps(row, ensure_ascii=False) + "\n").encode()


def write_vectors(target: Path, form: VectorForm, vectors: Path, rows: Path) -> None:
    """Write the vectors that two raw files hold, in memory that does not grow with their size.

    npz: path (n,), start (n,) and end (n,) in seconds, embeddings (n, hidden) float32; the others: columns path, start,
    end, e0, e1, ...

    Args:
        target: the file.
        form: its form.
        vectors: see `raw_vector`.
        rows: likewise.

    Raises:
        ConfigError: parquet is asked for and pyarrow not installed.
    """
    with rows.open("rb") as stream:
        count = sum(1 for _ in stream)
    values: npt.NDArray[np.float32] = np.zeros((0, 0), np.float32)
    if count:
        values = np.memmap(vectors, "<f4", "r").reshape(count, -1)
    if form == "npz":
        table = [row for batch in _batches(rows) for row in batch]
        with target.open("wb") as file:
            np.savez(
                file,
                path=np.array([row[0] for row in table], dtype=np.str_),
                start=np.array([row[1] for row in table], dtype=np.float64),
                end=np.array([row[2] for row in table], dtype=np.float64),
                embeddings=values,
            )
    elif form == "csv":
        _write_csv(target, values, rows)
    else:
        _write_parquet(target, values, rows)


def read_paths(file: Path) -> list[str]:
    """The recordings that a finished file holds vectors of.

    Raises:
        ConfigError: parquet is asked for and pyarrow not installed.
        OutputError: the file is damaged, or another one.
    """
    form = vector_form(file)
    with reading_back(file):
        if form == "npz":
            with np.load(file, allow_pickle=False) as arrays:
                return [str(path) for path in arrays["path"]]
        if form == "csv":
            with file.open(encoding="utf-8", newline="") as stream:
                rows = csv.reader(stream)
                if tuple(next(rows)[: len(COLUMNS)]) != COLUMNS:
                    raise ValueError("the columns are other ones")
                return [row[0] for row in rows]
        require_pyarrow()
        import pyarrow.parquet

        batches = pyarrow.parquet.ParquetFile(file).iter_batches(columns=["path"])
        return [path for batch in batches for path in batch["path"].to_pylist()]


def _batches(rows: Path) -> Iterator[list[list[Any]]]:
    with rows.open("rb") as stream:
        while batch := [json.loads(line) for line in islice(stream, ROWS_AT_ONCE)]:
            yield batch


def _names(values: npt.NDArray[np.float32]) -> list[str]:
    return [f"e{index}" for index in range(values.shape[1])]


def _write_csv(target: Path, values: npt.NDArray[np.float32], rows: Path) -> None:
    with target.open("w", encoding="utf-8", newline="") as stream:
        stream.write(csv_line([*COLUMNS, *_names(values)]))
        first = 0
        for batch in _batches(rows):
            for row, vector in zip(batch, values[first : first + len(batch)], strict=True):
                # Nine digits tell every float32 from its neighbours.
                cells = [cell_text(name, value) for name, value in zip(COLUMNS, row, strict=True)]
                stream.write(csv_line([*cells, *(f"{value:.9g}" for value in vector.tolist())]))
            first += len(batch)


def _write_parquet(target: Path, values: npt.NDArray[np.float32], rows: Path) -> None:
    require_pyarrow()
    import pyarrow
    import pyarrow.parquet

    names = _names(values)
    schema = pyarrow.schema(
        [
            ("path", pyarrow.string()),
            ("start", pyarrow.float64()),
            ("end", pyarrow.float64()),
            *((name, pyarrow.float32()) for name in names),
        ]
    )
    first = 0
    with pyarrow.parquet.ParquetWriter(target, schema) as writer:
        for batch in _batches(rows):
            part = np.ascontiguousarray(values[first : first + len(batch)].T)  # (hidden, rows)
            columns = [*(list(column) for column in zip(*batch, strict=True)), *part]
            writer.write_table(pyarrow.table(columns, schema=schema))
            first += len(batch)
