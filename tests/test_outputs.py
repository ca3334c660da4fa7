"""Output files and folders: written whole or not at all, and other people's files left alone."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crycli.errors import OutputError
from crycli.outputs import (
    claim_folder,
    make_folder,
    refuse_existing,
    settle,
    write_bytes,
    write_json,
    write_text,
    write_together,
)


def test_text_is_written_byte_for_byte_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "säugling\r\n👶\n")
    assert (tmp_path / "a.txt").read_bytes() == "säugling\r\n👶\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"a longer content than the next")
    write_bytes(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_whoever_reads_the_old_file_meanwhile_reads_it_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with (tmp_path / "a.bin").open("rb") as reader:
        write_bytes(tmp_path / "a.bin", b"new")
        assert reader.read() == b"old"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from crycli.outputs import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), b"new" * 1000)
except OSError:
    sys.exit(7)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_a_disk_that_fills_leaves_the_old_file_whole_and_no_half_of_the_new(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "a.bin")], timeout=60)
    assert done.returncode == 7
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": b"old"}


def test_text_that_cannot_be_encoded_leaves_the_old_file_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "half of it \udcff")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_json_does_not_have_and_leaves_the_old_file_whole(value: float, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"score": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"score": value})
    assert json.loads((tmp_path / "a.json").read_text()) == {"score": 0.5}


def test_json_is_readable_by_people(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"label": "müde"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "label": "müde"\n}\n'


def test_an_output_that_exists_is_refused_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".hidden").touch()
    for name in ("file", "link", "folder"):
        with pytest.raises(OutputError, match=rf"{name} exists.*--force"):
            refuse_existing(tmp_path / name, force=False)
        refuse_existing(tmp_path / name, force=True)


def test_what_is_not_there_and_an_empty_folder_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", force=False)
    refuse_existing(tmp_path / "nowhere", force=False)


def test_a_claimed_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    assert claim_folder(tmp_path / "a" / "b" / "c", force=False).is_dir()


def test_claiming_removes_what_it_owns_and_nothing_else(tmp_path: Path) -> None:
    for name in ("model/weights", "metrics.json", "notes.txt", "mine/model/weights"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    claim_folder(tmp_path, force=True, owned=("model", "metrics.json", "absent"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "notes.txt"]
    assert (tmp_path / "mine" / "model" / "weights").exists()


def test_claiming_removes_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "output"
    elsewhere.mkdir()
    (elsewhere / "weights").touch()
    output.mkdir()
    (output / "model").symlink_to(elsewhere)
    claim_folder(output, force=True, owned=("model",))
    assert not (output / "model").is_symlink()
    assert (elsewhere / "weights").exists()


def test_nothing_is_removed_without_force(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").touch()
    with pytest.raises(OutputError):
        claim_folder(tmp_path, force=False, owned=("metrics.json",))
    assert (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_a_folders_place_is_never_removed(force: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        claim_folder(tmp_path / "file", force=force)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["/proc/x", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot create"):
        make_folder(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="permission denied"):
        make_folder(tmp_path / "locked")


OLD = {"train.csv": "old train", "test.csv": "old test", "report.html": "old säugling"}
NEW = {"train.csv": "new train", "test.csv": "new test", "validation.csv": "new validation", "report.html": "new 👶"}


def contents(folder: Path) -> dict[str, str]:
    """Everything in a folder, hidden files and what is below included."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes().decode("utf-8") for path in files}


def test_files_are_written_together_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    write_together(tmp_path, OLD)
    assert contents(tmp_path) == OLD
    write_together(tmp_path, NEW)
    assert contents(tmp_path) == NEW
    assert all(path.is_file() for path in tmp_path.iterdir())


def test_other_peoples_files_are_not_touched(tmp_path: Path) -> None:
    mine = {"notes.txt": "mine", "cries/a.wav": "mine", ".hidden": "mine", ".train.csv.partial": "mine"}
    for name, text in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for files in (OLD, NEW):
        write_together(tmp_path, files)
        assert contents(tmp_path) == mine | files


def test_a_file_that_was_written_before_and_not_again_stays(tmp_path: Path) -> None:
    write_together(tmp_path, OLD)
    write_together(tmp_path, {"train.csv": "new"})
    assert contents(tmp_path) == OLD | {"train.csv": "new"}


def test_there_is_nothing_to_settle_where_nothing_was_interrupted(tmp_path: Path) -> None:
    settle(tmp_path)
    settle(tmp_path / "nowhere")
    (tmp_path / "train.csv").write_text("old")
    settle(tmp_path)
    assert contents(tmp_path) == {"train.csv": "old"}


class Interruption(BaseException):
    """As KeyboardInterrupt, which pytest would take for one of its own."""


def interrupt(monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool, dead: bool) -> Callable[[], bool]:
    """Have the n-th change of the file system be interrupted, before it or after it.

    A dead process changes nothing more; another one still clears up. Returns whether it came to that.
    """
    calls = 0

    def wrap(original: Callable[..., object]) -> Callable[..., object]:
        def changed(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls < number or (calls > number and not dead):
                return original(*arguments, **options)
            if calls == number and after:
                original(*arguments, **options)
            raise Interruption

        return changed

    for name in ("rename", "replace", "write_bytes", "mkdir", "rmdir"):
        monkeypatch.setattr(Path, name, wrap(getattr(Path, name)))
    clear = shutil.rmtree
    monkeypatch.setattr(
        shutil, "rmtree", lambda *given, **options: None if dead and calls >= number else clear(*given, **options)
    )
    return lambda: calls >= number


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_an_interruption_at_any_moment_leaves_all_the_old_files_or_all_the_new_ones(
    after: bool, dead: bool, tmp_path: Path
) -> None:
    outcomes = []
    for number in range(1, 100):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        write_together(folder, OLD)
        with pytest.MonkeyPatch.context() as patched:
            interrupted = interrupt(patched, number, after=after, dead=dead)
            with contextlib.suppress(Interruption):
                write_together(folder, NEW)
            if not interrupted():
                break
        settle(folder)
        settle(folder)
        visible = {
            name: text for name, text in contents(folder).items() if not name.startswith(".crycli-commit.partial/")
        }
        assert visible in ({"notes.txt": "mine", **OLD}, {"notes.txt": "mine", **NEW}), number
        if not dead:
            assert contents(folder) == visible
            assert all(path.is_file() for path in folder.iterdir())
        outcomes.append(visible["train.csv"])
        write_together(folder, {**NEW, "test.csv": "newer"})  # and it goes on from there
        assert contents(folder) == {"notes.txt": "mine", **NEW, "test.csv": "newer"}
        assert all(path.is_file() for path in folder.iterdir())
    assert len(outcomes) >= 10  # a folder is made, four files written, renamed, four files moved, a folder removed
    assert outcomes == sorted(outcomes, reverse=True)  # the old ones up to a moment, and from then on the new ones
    assert len(set(outcomes)) == 2


@pytest.mark.parametrize("after", [False, True])
def test_settling_may_itself_be_interrupted_anywhere(after: bool, tmp_path: Path) -> None:
    for number in range(1, 100):
        folder = tmp_path / str(number)
        (folder / ".crycli-commit").mkdir(parents=True)
        for name, text in NEW.items():
            (folder / ".crycli-commit" / name).write_bytes(text.encode())
        with pytest.MonkeyPatch.context() as patched:
            interrupted = interrupt(patched, number, after=after, dead=True)
            with contextlib.suppress(Interruption):
                settle(folder)
            if not interrupted():
                break
        settle(folder)
        assert contents(folder) == NEW
        assert not (folder / ".crycli-commit").exists()
    assert number == 6  # four moves and the removal of the folder


ENDLESS = """
import sys
from pathlib import Path
from crycli.outputs import write_together
folder, version = Path(sys.argv[1]), 0
while True:
    version += 1
    write_together(folder, {f"{name}.csv": f"{version}\\n" * 500 for name in "abcde"})
"""


def test_a_process_that_is_killed_leaves_files_of_one_version(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    chance, versions = random.Random(0), []
    for _ in range(10):
        before = contents(tmp_path)
        with subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)]) as running:
            deadline = time.monotonic() + 60
            while contents_or_none(tmp_path) in (before, None) and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(chance.random() / 20)
            running.kill()
        settle(tmp_path)
        texts = [(tmp_path / f"{name}.csv").read_text() for name in "abcde"]
        assert len(set(texts)) == 1
        assert len(set(texts[0].split())) == 1
        versions.append(int(texts[0].split()[0]))
        assert (tmp_path / "notes.txt").read_text() == "mine"
    assert max(versions) > 1
    write_together(tmp_path, {"a.csv": "last"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{name}.csv" for name in "abcde"), "notes.txt"]


def contents_or_none(folder: Path) -> dict[str, str] | None:
    """`contents`, or None while files are being moved."""
    try:
        return contents(folder)
    except OSError:
        return None


def test_two_that_settle_at_once_do_not_trip_over_each_other(tmp_path: Path) -> None:
    # Two runs of `crycli train` after an interrupted `crycli prepare`.
    errors: list[Exception] = []
    for number in range(20):
        folder = tmp_path / str(number)
        (folder / ".crycli-commit").mkdir(parents=True)
        for name in range(40):
            (folder / ".crycli-commit" / f"{name}.csv").write_text("new")
        together = threading.Barrier(3)

        def work(folder: Path = folder, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                settle(folder)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(contents(folder)) == 40
    assert errors == []


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_a_disk_that_fills_leaves_all_the_old_files(tmp_path: Path) -> None:
    write_together(tmp_path, OLD)
    script = FULL_DISK.replace(
        'write_bytes(Path(sys.argv[1]), b"new" * 1000)',
        'write_together(Path(sys.argv[1]), {"test.csv": "new", "train.csv": "new" * 1000})',
    ).replace("import write_bytes", "import write_together")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60)
    assert done.returncode == 7
    assert contents(tmp_path) == OLD
    assert all(path.is_file() for path in tmp_path.iterdir())


def test_text_that_cannot_be_encoded_leaves_all_the_old_files(tmp_path: Path) -> None:
    write_together(tmp_path, OLD)
    with pytest.raises(UnicodeEncodeError):
        write_together(tmp_path, {"test.csv": "new", "train.csv": "half of it \udcff"})
    assert contents(tmp_path) == OLD


def test_a_folder_that_is_missing_or_is_a_file_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for name in ("nowhere", "file"):
        with pytest.raises(OSError):
            write_together(tmp_path / name, NEW)
    assert contents(tmp_path) == {"file": "mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_keeps_its_files(tmp_path: Path) -> None:
    write_together(tmp_path, OLD)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            write_together(tmp_path, NEW)
        assert contents(tmp_path) == OLD
    finally:
        tmp_path.chmod(0o700)
