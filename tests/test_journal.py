"""Files that grow together survive being cut off anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, strategies

from crycli.errors import ConfigError, OutputError
from crycli.journal import Journal, replacing

TASK = {"model": "a", "recordings": 3}
PARTS = [(b"one\n", b"\x00\x01"), (b"", b""), (b"three and more\n", b"\xff" * 5), (b"four\n", b"")]


def names(folder: Path) -> tuple[Path, list[Path]]:
    return folder / "rows.progress", [folder / "rows", folder / "values"]


def work(folder: Path, *, resume: bool, last: int = len(PARTS)) -> Journal:
    """Write what is left of the parts, up to the last one; the journal stays unfinished."""
    progress, files = names(folder)
    journal = Journal(progress, files, TASK, resume=resume)
    for number in range(journal.done, last):
        for file, content in enumerate(PARTS[number]):
            journal.append(file, content)
        journal.commit(failed=number == 1, state=["after", number])
    journal.close()
    return journal


def whole(folder: Path) -> list[bytes]:
    progress, files = names(folder)
    return [file.read_bytes() for file in (*files, progress)]


@given(done=strategies.integers(0, len(PARTS) - 1), share=strategies.floats(0, 1), torn=strategies.binary(max_size=9))
def test_killed_at_any_byte_it_goes_on_to_the_same_files(done: int, share: float, torn: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        progress, files = names(folder)
        work(folder, resume=False, last=done)
        before = [file.stat().st_size for file in (*files, progress)]
        work(folder, resume=True)
        expected = whole(folder)
        (folder / "other").mkdir()
        work(folder / "other", resume=False)
        assert whole(folder / "other") == expected
        # One file after the other as they are written, and the line of progress last; only so much of it was.
        work(folder, resume=False, last=done + 1)
        after = [file.stat().st_size for file in (*files, progress)]
        written = round(share * (sum(after) - sum(before) - 1))
        for file, size, grown in zip((*files, progress), before, after, strict=True):
            part = min(written, grown - size)
            os.truncate(file, size + part)
            written -= part
        with files[0].open("ab") as stream:
            stream.write(torn)
        assert work(folder, resume=True).failed == 1
        assert whole(folder) == expected


@given(strategies.integers(0, 400))
def test_a_progress_file_that_is_cut_anywhere_never_doubles_a_part(size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work(folder, resume=False)
        expected = whole(folder)
        os.truncate(names(folder)[0], min(size, len(expected[-1])))
        work(folder, resume=True)
        assert whole(folder) == expected


@pytest.mark.parametrize("shortened", [0, 1])
def test_where_a_file_is_shorter_than_was_said_of_it_the_work_begins_earlier(shortened: int, tmp_path: Path) -> None:
    work(tmp_path, resume=False)
    expected = whole(tmp_path)
    file = names(tmp_path)[1][shortened]
    os.truncate(file, file.stat().st_size - 1)
    journal = Journal(*names(tmp_path), TASK, resume=True)
    assert 0 < journal.done < len(PARTS)
    journal.close()
    work(tmp_path, resume=True)
    assert whole(tmp_path) == expected


def test_what_is_known_is_handed_on(tmp_path: Path) -> None:
    work(tmp_path, resume=False, last=3)
    journal = Journal(*names(tmp_path), TASK, resume=True)
    assert (journal.done, journal.failed, journal.state) == (3, 1, ["after", 2])
    journal.finish()
    assert not names(tmp_path)[0].exists()


def test_without_resume_all_is_begun_anew(tmp_path: Path) -> None:
    work(tmp_path, resume=False)
    journal = Journal(*names(tmp_path), {"another": "task"}, resume=False)
    assert journal.done == 0
    journal.close()
    assert [file.read_bytes() for file in names(tmp_path)[1]] == [b"", b""]


def test_another_task_is_refused_with_the_difference_and_nothing_is_lost(tmp_path: Path) -> None:
    work(tmp_path, resume=False)
    before = whole(tmp_path)
    with pytest.raises(ConfigError, match=r"rows: model was a and is b; hop was not set and is 0.5: .*--force"):
        Journal(*names(tmp_path), {"model": "b", "recordings": 3, "hop": 0.5}, resume=True)
    assert whole(tmp_path) == before


def test_two_processes_do_not_write_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    journal = Journal(*names(tmp_path), TASK, resume=False)
    with pytest.raises(OutputError, match=r"another process is at work on .*rows:"):
        Journal(*names(tmp_path), TASK, resume=True)
    journal.close()
    Journal(*names(tmp_path), TASK, resume=True).close()


def test_a_file_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*rows: Is a directory"):
        Journal(*names(tmp_path), TASK, resume=False)


KILLED = """
import os, signal, sys
from pathlib import Path
from crycli.journal import Journal
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
journal = Journal(folder / "rows.progress", [folder / "rows"], {}, resume=True)
for number in range(journal.done, 20):
    journal.append(0, f"row {number}\\n".encode())
    if number == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    journal.commit()
journal.finish()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_process_that_is_killed_leaves_what_the_next_one_goes_on_with(tmp_path: Path) -> None:
    codes = [
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), stop], timeout=60).returncode
        for stop in ("0", "13", "-1")
    ]
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert (tmp_path / "rows").read_text() == "".join(f"row {number}\n" for number in range(20))
    assert [file.name for file in tmp_path.iterdir()] == ["rows"]


def test_a_replacement_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "answers"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["answers"]
    assert file.read_text() == "old"
    with replacing(file) as temporary:
        temporary.write_text("new")
    assert file.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["answers"]


def test_the_progress_file_says_how_far_it_is_in_json(tmp_path: Path) -> None:
    work(tmp_path, resume=False, last=2)
    first, *rest = [json.loads(line) for line in names(tmp_path)[0].read_text().splitlines()]
    assert first == {"task": TASK}
    assert rest[-1] == {"done": 2, "failed": 1, "sizes": [4, 2], "state": ["after", 1]}
