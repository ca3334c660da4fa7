"""ONNX bundles: they answer as the checkpoint does, and a damaged one says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, cry, settings
from test_model import KINDS, LAYERS, POOLINGS, network

from crycli.audio import normalise
from crycli.checkpoint import find_classifier, load_feature_extractor, read_json, save_model_folder
from crycli.config import Config
from crycli.errors import CheckpointError, OutputError
from crycli.exporting import export_bundle
from crycli.model import WavLMSelfAttention
from crycli.networks import Network, onnx_network, torch_network
from crycli.outputs import write_json
from crycli.progress import Step

LENGTHS = (7_001, 400, 90_123, 16_000)  # samples; the graph is traced with 16,000 and 12,000


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


def untrained(folder: Path, family: str, norm: str, pooling: str, layers: str) -> Path:
    """A model folder with random weights, turned up so that clips get different answers."""
    fields = {"id2label": {0: "a", 1: "b", 2: "c"}, "pooling_mode": pooling, "layer_mode": layers}
    save_model_folder(network(family, norm, **fields), load_feature_extractor(None), folder)
    return folder


def clip(row: int) -> np.ndarray:
    """The normalised samples of a clip of `LENGTHS`."""
    return normalise(cry(250.0 + 200 * row, LENGTHS[row] / 16_000, seed=row))


def logits(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """The logits of the clips of `LENGTHS`, in one padded batch and each alone: (clips, labels) twice."""
    values = np.zeros((len(LENGTHS), max(LENGTHS)), np.float32)
    mask = np.zeros(values.shape, np.int64)
    for row, length in enumerate(LENGTHS):
        values[row, :length] = clip(row)
        mask[row, :length] = 1
    alone = [
        network(values[row : row + 1, :length], mask[row : row + 1, :length]) for row, length in enumerate(LENGTHS)
    ]
    return network(values, mask), np.concatenate(alone)


@pytest.mark.parametrize(
    ("family", "norm", "pooling", "layers"),
    [(*kind, *mode) for kind, mode in zip(cycle(KINDS), product(POOLINGS, LAYERS), strict=False)],
)
def test_the_bundle_answers_as_the_checkpoint_does(
    family: str, norm: str, pooling: str, layers: str, tmp_path: Path
) -> None:
    model = untrained(tmp_path / "model", family, norm, pooling, layers)
    made = export_bundle(str(model), tmp_path / "bundle")
    _, truth = logits(torch_network(model, "cpu"))
    together, alone = logits(
        onnx_network(tmp_path / "bundle" / "model.onnx", find_classifier(str(tmp_path / "bundle")))
    )
    assert np.ptp(truth, axis=0).max() > 0.1  # clips that all get one answer would prove nothing
    np.testing.assert_allclose(alone, truth, atol=2e-4, rtol=1e-4)
    np.testing.assert_allclose(together, truth, atol=2e-4, rtol=1e-4)
    assert made.largest_difference < 1e-4


def test_a_graph_that_answers_differently_in_a_long_clip_is_not_exported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As one would whose relative positions end where the traced clip did."""

    def cut_off(self: WavLMSelfAttention, positions: torch.Tensor) -> torch.Tensor:
        return bucket(self, positions.clamp(-60, 60) if torch.jit.is_tracing() else positions)

    bucket = WavLMSelfAttention._relative_positions_bucket
    monkeypatch.setattr(WavLMSelfAttention, "_relative_positions_bucket", cut_off)
    model = untrained(tmp_path / "model", "wavlm", "layer", "mean", "last")
    with pytest.raises(CheckpointError, match="differ"):
        export_bundle(str(model), tmp_path / "bundle")
    assert not list(tmp_path.glob("bundle/**/*"))


def test_a_bundle_is_complete_and_keeps_what_the_checkpoint_says(runs: dict[str, Path], tmp_path: Path) -> None:
    model = Path(shutil.copytree(runs["layer"] / "model", tmp_path / "model"))
    write_json(model / "config.json", {**read_json(model / "config.json"), "window_seconds": 4.5})
    steps: list[Step] = []
    made = export_bundle(str(model), tmp_path / "bundle", on_step=steps.append)
    names = {path.name for path in made.folder.iterdir()}
    parts = {"model.onnx", "labels.json", "preprocessor_config.json", "bundle.json"}
    assert names == parts | {"calibration.json", "known_clips.json"}
    assert json.loads((made.folder / "labels.json").read_text()) == ["high", "low"]
    assert read_json(made.folder / "bundle.json")["window_seconds"] == 4.5
    assert made.megabytes == pytest.approx((made.folder / "model.onnx").stat().st_size / 1e6)
    assert (steps[0].done, steps[-1].done) == (0, steps[-1].total)


@pytest.mark.parametrize("opset", [18, 20])
def test_other_opsets_export_too(opset: int, runs: dict[str, Path], tmp_path: Path) -> None:
    made = export_bundle(str(runs["group"]), tmp_path / "bundle", settings(f"export.opset={opset}"))
    assert made.largest_difference < 1e-4
    assert read_json(tmp_path / "bundle" / "bundle.json")["opset"] == opset


def test_a_bundle_is_not_exported_again(bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="bundle already"):
        export_bundle(str(bundles["layer"]), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_existing_bundle_is_replaced_only_with_force(bundle: Path, runs: dict[str, Path]) -> None:
    (bundle / "notes.txt").write_text("mine")
    before = (bundle / "model.onnx").read_bytes()
    with pytest.raises(OutputError, match="--force"):
        export_bundle(str(runs["group"]), bundle)
    assert (bundle / "model.onnx").read_bytes() == before
    export_bundle(str(runs["group"]), bundle, Config(), force=True)
    assert (bundle / "model.onnx").read_bytes() != before
    assert (bundle / "notes.txt").read_text() == "mine"


def test_a_model_that_cannot_be_loaded_leaves_no_bundle_behind(runs: dict[str, Path], tmp_path: Path) -> None:
    model = Path(shutil.copytree(runs["layer"] / "model", tmp_path / "model"))
    (model / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=str(model)):
        export_bundle(str(model), tmp_path / "bundle")
    assert not list(tmp_path.glob("bundle/**/*"))


@pytest.mark.parametrize("name", ["labels.json", "preprocessor_config.json", "bundle.json"])
def test_a_bundle_that_lacks_a_file_is_refused_by_its_name(
    name: str, bundle: Path, refusal: Callable[[Path], str]
) -> None:
    (bundle / name).write_text("{")
    assert f"{bundle}/{name}" in refusal(bundle)
    (bundle / name).unlink()
    assert f"{bundle}/{name}" in refusal(bundle)


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["a"], [], {"a": 0}])
def test_labels_that_do_not_fit_the_network_are_refused(
    labels: object, bundle: Path, refusal: Callable[[Path], str]
) -> None:
    (bundle / "labels.json").write_text(json.dumps(labels))
    assert str(bundle) in refusal(bundle)


@pytest.mark.parametrize("window", [None, "long", 0, -1.0])
def test_a_window_that_makes_no_sense_is_refused(window: object, bundle: Path, refusal: Callable[[Path], str]) -> None:
    write_json(bundle / "bundle.json", {**read_json(bundle / "bundle.json"), "window_seconds": window})
    assert f"{bundle}/bundle.json" in refusal(bundle)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_graph_is_refused_with_one_line(share: float, bundle: Path, refusal: Callable[[Path], str]) -> None:
    whole = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(whole[: int(len(whole) * share)])
    assert f"{bundle}/model.onnx" in refusal(bundle)


def test_a_graph_that_is_another_is_refused(bundle: Path, refusal: Callable[[Path], str]) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, bundle / "model.onnx")
    assert str(bundle) in refusal(bundle)
