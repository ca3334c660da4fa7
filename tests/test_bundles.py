"""Bundles: each file is the one that was exported, and a bundle tells how it is to be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

from crycli.bundles import hash_files, verify
from crycli.checkpoint import find_classifier, read_json
from crycli.errors import CheckpointError
from crycli.outputs import write_json


@pytest.fixture
def bundle(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A bundle to be damaged."""
    return Path(shutil.copytree(bundles["layer"], tmp_path / "bundle"))


@pytest.fixture
def refusal(crycli: Callable[..., Outcome], cries: Path) -> Callable[[Path], str]:
    """The one line that `predict` refuses a bundle with."""

    def refuse(bundle: Path) -> str:
        done = crycli("-q", "predict", cries / "high", "-m", bundle)
        lines = done.err.splitlines()
        assert (done.code, done.out, len(lines)) == (1, "", 1), done
        return lines[0]

    return refuse


def edit(bundle: Path, **changes: object) -> None:
    """Change what a bundle says of itself."""
    write_json(bundle / "bundle.json", {**read_json(bundle / "bundle.json"), **changes})


def sign(bundle: Path) -> None:
    """Let a changed bundle say that its files are what they are now, as who changed them could."""
    edit(bundle, files=hash_files(bundle, read_json(bundle / "bundle.json")["files"]))


def files_of(bundle: Path) -> list[str]:
    return sorted(path.name for path in bundle.iterdir() if path.name != "bundle.json")


def test_every_file_but_the_list_itself_is_listed_with_its_hash(bundle: Path) -> None:
    files = read_json(bundle / "bundle.json")["files"]
    assert sorted(files) == files_of(bundle)
    assert {"model.onnx", "labels.json", "preprocessor_config.json", "calibration.json", "README.md"} <= set(files)
    assert files == hash_files(bundle, files)


def test_a_file_that_changed_or_is_missing_is_refused_by_its_name(bundle: Path, refusal: Callable[[Path], str]) -> None:
    names = files_of(bundle)
    for name in names:
        whole = (bundle / name).read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        (bundle / name).write_bytes(changed)
        message = refusal(bundle)
        assert f"{bundle / name} does not match its SHA-256 in bundle.json: export it again" in message
        (bundle / name).unlink()
        assert f"{bundle / name}" in refusal(bundle)
        (bundle / name).write_bytes(whole)
    assert find_classifier(str(bundle)).labels == ("high", "low")  # each was put back


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_bundle_without_its_description_is_refused(
    content: str | None, bundle: Path, refusal: Callable[[Path], str]
) -> None:
    (bundle / "bundle.json").unlink()
    if content is not None:
        (bundle / "bundle.json").write_text(content)
    assert f"{bundle}/bundle.json" in refusal(bundle)


@pytest.mark.parametrize("files", [None, {}, [], "model.onnx"])
def test_a_bundle_that_lists_no_files_is_refused(files: object, bundle: Path, refusal: Callable[[Path], str]) -> None:
    edit(bundle, files=files)
    assert "export it again" in refusal(bundle)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", "a/b", ""])
def test_only_files_of_the_folder_itself_are_read(name: str, bundle: Path) -> None:
    (bundle.parent / "secret").write_text("x")
    with pytest.raises(CheckpointError, match="is no file with a SHA-256"):
        verify(bundle, {name: "0" * 64})


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_graph_is_refused_with_one_line(share: float, bundle: Path, refusal: Callable[[Path], str]) -> None:
    whole = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(whole[: int(len(whole) * share)])
    sign(bundle)
    assert f"{bundle}/model.onnx" in refusal(bundle)


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["a"], [], {"a": 0}])
def test_labels_that_do_not_fit_the_network_are_refused(
    labels: object, bundle: Path, refusal: Callable[[Path], str]
) -> None:
    (bundle / "labels.json").write_text(json.dumps(labels))
    sign(bundle)
    assert str(bundle) in refusal(bundle)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("window_seconds", value) for value in (None, "long", 0, -1.0)),
        *(("hop_seconds", value) for value in (-1.0, 11.0, "short", True)),
        *(("threshold", value) for value in (-0.1, 1.1, "high")),
        *(("events", value) for value in ({"onset": 2.0}, {"min_seconds": -1.0}, {"louder": 1}, None)),
        *(("combine", value) for value in ("median", None, 1)),
        ("format", "tflite"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    name: str, value: object, bundle: Path, refusal: Callable[[Path], str]
) -> None:
    edit(bundle, **{name: value})
    assert f"{bundle}/bundle.json" in refusal(bundle)


def test_a_bundle_that_does_not_say_how_windows_are_combined_means_their_mean(bundle: Path) -> None:
    about = read_json(bundle / "bundle.json")
    assert about.pop("combine") == "mean"
    write_json(bundle / "bundle.json", about)
    assert find_classifier(str(bundle)).combine == "mean"


def test_a_program_of_torch_export_is_not_run(bundle: Path, refusal: Callable[[Path], str]) -> None:
    edit(bundle, format="torch")
    message = refusal(bundle)
    assert "may run code" in message
    assert "--format onnx" in message
