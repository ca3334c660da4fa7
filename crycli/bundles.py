"""The files of an export: how they are called, and how they are known again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from crycli.errors import CheckpointError

BUNDLE_FILE = "bundle.json"
"""What the bundle is, and the SHA-256 of each other file."""

NETWORK_FILES = {"onnx": "model.onnx", "onnx-int8": "model.onnx", "torch": "model.pt2"}
"""Format to the file with the network."""

SHA256 = re.compile(r"[0-9a-f]{64}")


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of files in a folder, by name."""
    return {name: _hash(folder / name) for name in sorted(names)}


def file_names(folder: Path) -> list[str]:
    """The files of a bundle or a model folder, sorted; hidden ones and folders are none of it."""
    return sorted(file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def verify(folder: Path, hashes: object) -> None:
    """Make sure that the files of a bundle are those that were exported.

    Args:
        folder: the bundle.
        hashes: what its `BUNDLE_FILE` says under "files".

    Raises:
        CheckpointError: a file is missing or another one, or the bundle does not say what its files are.
    """
    if not isinstance(hashes, dict) or not hashes:
        raise CheckpointError(
            f"{folder}/{BUNDLE_FILE} does not say what the bundle's files are: export it again with this crycli"
        )
    for name, expected in hashes.items():
        if Path(name).name != name or name in ("", "..") or not SHA256.fullmatch(str(expected)):
            raise CheckpointError(f"{folder}/{BUNDLE_FILE} is damaged: {name!r} is no file with a SHA-256")
        try:
            found = _hash(folder / name)
        except OSError as error:
            raise CheckpointError(f"cannot read {folder / name}: {error.strerror}: export the bundle again") from None
        if found != expected:
            raise CheckpointError(
                f"{folder} is damaged or changed: {folder / name} does not match its SHA-256 in {BUNDLE_FILE}: "
                f"export it again"
            )


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
