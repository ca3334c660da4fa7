from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from crycli import audio
from crycli.errors import AudioError, ConfigError, DataError, OutputError
from crycli.remote import Folder, find_recordings, is_url, local_copy


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    """A file system in memory that is empty, behind memory://."""
    file_system = fsspec.filesystem("memory")
    file_system.store.clear()
    file_system.pseudo_dirs[:] = [""]
    yield file_system
    file_system.store.clear()
    file_system.pseudo_dirs[:] = [""]


def write_tone(path: Path) -> None:
    soundfile.write(path, np.sin(np.arange(1600) / 10).astype(np.float32), 16_000)


@pytest.mark.parametrize("text", ["s3://bucket/a.wav", "gs://bucket", "HTTPS://host/a.wav", "memory://a", "file:///a"])
def test_urls_are_told_from_paths(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["a.wav", "/a/b.wav", "C:\\a.wav", "C://a.wav", "s3:/bucket/a", "a/s3://b", "-", ""])
def test_paths_are_told_from_urls(text: str) -> None:
    assert not is_url(text)


def test_recordings_below_a_url_are_found_by_their_suffix_and_sorted(bucket: fsspec.AbstractFileSystem) -> None:
    names = "b.WAV a/c.m4a a.flac notes.txt .hidden.wav a/.cache/d.wav a/b/c/e.3gp list.csv"
    for name in names.split():
        bucket.pipe_file(f"/nights/{name}", b"x")
    bucket.pipe_file("/nights-2/z.wav", b"x")
    expected = [f"memory://nights/{name}" for name in "a.flac a/b/c/e.3gp a/c.m4a b.WAV".split()]
    assert find_recordings("memory://nights") == expected
    assert find_recordings("memory://nights/") == expected


def test_a_url_of_a_file_is_that_file_whatever_it_is_called(bucket: fsspec.AbstractFileSystem) -> None:
    bucket.pipe_file("/nights/no-suffix", b"x")
    assert find_recordings("memory://nights/no-suffix") == ["memory://nights/no-suffix"]


def test_where_no_recordings_are_the_url_is_named(bucket: fsspec.AbstractFileSystem) -> None:
    bucket.pipe_file("/nights/notes.txt", b"x")
    for url in ("memory://nights", "memory://gone"):
        with pytest.raises(DataError, match=f"^no recordings in {url}: "):
            find_recordings(url)


def test_files_in_a_folder_and_its_url_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    write_tone(tmp_path / "a b" / "ö%20#?.wav")
    (url,) = find_recordings(f"file://{tmp_path}")
    (path,) = audio.find_recordings(tmp_path)
    assert url == f"file://{path}"
    with local_copy(url) as copy:
        assert copy == path  # no copy is made of what is here


def test_a_remote_recording_decodes_as_the_local_one_and_its_copy_is_removed(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    write_tone(tmp_path / "cry.flac")
    bucket.put_file(str(tmp_path / "cry.flac"), "/nights/cry.flac")
    with local_copy("memory://nights/cry.flac") as copy:
        assert copy.suffix == ".flac"
        np.testing.assert_array_equal(audio.load(copy), audio.load(tmp_path / "cry.flac"))
    assert not copy.exists()
    assert not copy.parent.exists()


def test_the_copy_is_removed_after_an_error(bucket: fsspec.AbstractFileSystem) -> None:
    bucket.pipe_file("/cry.wav", b"x")
    with pytest.raises(AudioError, match="no good"), local_copy("memory://cry.wav") as copy:
        raise AudioError("no good")
    assert not copy.exists()


def test_a_path_is_its_own_copy_though_it_does_not_exist(tmp_path: Path) -> None:
    with local_copy(tmp_path / "gone.wav") as copy:
        assert copy == tmp_path / "gone.wav"


def test_what_cannot_be_fetched_is_an_error_of_that_recording(
    bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe_file("/nights/cry.wav", b"x")
    for url, reason in [("memory://gone.wav", "no such file"), ("memory://nights", "it is a folder")]:
        with pytest.raises(AudioError, match=f"^cannot be fetched: {reason}$"), local_copy(url):
            pass

    def refuse(path: str, *_: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(bucket, "get_file", refuse)
    with pytest.raises(AudioError, match=r"^cannot be fetched: no permission$"), local_copy("memory://nights/cry.wav"):
        pass


def test_a_missing_package_is_named_and_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # importing it fails
    with pytest.raises(ConfigError, match=r"^s3:// needs s3fs: pip install s3fs, or crycli\[remote\]$"):
        find_recordings("s3://bucket/nights")
    with pytest.raises(ConfigError, match="pip install s3fs"), local_copy("s3://bucket/cry.wav"):
        pass


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^smoke://signal/cry.wav: .*not known"):
        find_recordings("smoke://signal/cry.wav")


@pytest.mark.parametrize("remote", [True, False])
def test_a_folder_is_used_in_the_same_way_here_and_at_a_url(
    remote: bool, bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    folder = Folder("memory://answers/new" if remote else tmp_path / "a::b" / "new")
    assert folder.names() == set()
    folder.create()
    folder.create()
    folder.write("task.json", "{}")
    folder.write("task.json", "ä\n")
    (tmp_path / "file").write_bytes(b"PAR1")
    folder.put(tmp_path / "file", "part.parquet")
    assert folder.names() == {"task.json", "part.parquet"}
    with folder.open("task.json") as stream:
        assert stream.read() == "ä\n".encode()
    assert folder.has("task.json")
    folder.remove("task.json")
    assert not folder.has("task.json")
    assert folder.names() == {"part.parquet"}


def test_what_is_not_written_to_its_end_does_not_have_its_name(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(source: str, target: str) -> None:
        bucket.pipe_file(target, b"ha")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bucket, "put_file", torn)
    folder = Folder("memory://answers")
    (tmp_path / "file").write_bytes(b"half")
    with pytest.raises(OutputError, match=r"^cannot write memory://answers/part.parquet: No space left on device$"):
        folder.put(tmp_path / "file", "part.parquet")
    assert [name for name in folder.names() if not name.endswith(".partial")] == []


def test_a_file_in_the_place_of_an_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file and the output is a folder"):
        Folder(tmp_path / "file").names()
