"""Output files and folders: written whole or not at all, and other people's files left alone."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from crycli.errors import OutputError
from crycli.outputs import claim_folder, make_folder, refuse_existing, write_bytes, write_json, write_text


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
