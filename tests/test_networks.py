"""Networks as functions of arrays: what they give, from several threads at once, and what is no network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from crycli.checkpoint import find_classifier, load_model
from crycli.errors import CheckpointError
from crycli.networks import Network, exported_network, onnx_network, torch_network

LENGTHS = (400, 4_000, 16_000, 9_001)


@pytest.fixture(params=["torch", "onnx"])
def network(request: pytest.FixtureRequest, runs: dict[str, Path], bundles: dict[str, Path]) -> Network:
    """That of one run, from its model folder and from its bundle."""
    if request.param == "torch":
        return torch_network(runs["group"] / "model", "cpu")
    classifier = find_classifier(str(bundles["group"]))
    assert classifier.network_file is not None
    return onnx_network(classifier.network_file, classifier)


def clips() -> list[tuple[np.ndarray, np.ndarray]]:
    """Values and mask of single clips of `LENGTHS`."""
    generator = np.random.default_rng(0)
    return [
        (generator.standard_normal((1, length)).astype(np.float32), np.ones((1, length), np.int64))
        for length in LENGTHS
    ]


def test_the_embeddings_are_what_the_head_makes_the_logits_from(network: Network, runs: dict[str, Path]) -> None:
    head = load_model(runs["group"] / "model").classifier
    for values, mask in clips():
        output = network(values, mask)
        assert output.embeddings is not None
        assert output.embeddings.shape == (1, 32)
        with torch.inference_mode():
            np.testing.assert_allclose(head(torch.from_numpy(output.embeddings)), output.logits, atol=1e-5)


def test_calls_from_several_threads_at_once_get_the_answers_of_calls_one_by_one(network: Network) -> None:
    alone = [network(*clip).logits for clip in clips()]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda clip: network(*clip).logits, clips() * 10))
    for number, logits in enumerate(found):
        np.testing.assert_array_equal(logits, alone[number % len(LENGTHS)])


def test_a_call_computes_with_one_thread_and_leaves_the_number_of_others_alone(runs: dict[str, Path]) -> None:
    usual = torch.get_num_threads()
    seen: list[int] = []
    torch.set_num_threads(3)
    try:
        network = torch_network(runs["group"] / "model", "cpu")
        hook = torch.nn.modules.module.register_module_forward_hook(
            lambda module, inputs, output: seen.append(torch.get_num_threads())
        )
        with hook, ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda clip: network(*clip), clips()))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # a thread that torch has not seen
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(usual)


def test_a_call_that_ends_leaves_the_number_of_threads_of_one_in_the_midst_alone() -> None:
    """The longer call is the first that its thread makes, and asks torch for the number only after the other ended."""
    usual = torch.get_num_threads()
    begun, ended = threading.Event(), threading.Event()

    def module(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert ended.wait(60)
        return torch.full((1, 1), float(torch.get_num_threads())), torch.zeros(1, 1)

    torch.set_num_threads(3)
    try:
        network = exported_network(SimpleNamespace(module=lambda: module))
        with ThreadPoolExecutor(1) as pool:
            longer = pool.submit(network, *clips()[0])
            assert begun.wait(60)
            shorter = network(*clips()[0])
            ended.set()
            assert (shorter.logits.item(), longer.result().logits.item()) == (1, 1)
    finally:
        ended.set()
        torch.set_num_threads(usual)


@pytest.fixture
def graph(bundles: dict[str, Path], tmp_path: Path) -> Callable[[onnx.ModelProto], Network]:
    """The network of a graph under the description of a bundle with two labels."""

    def load(model: onnx.ModelProto) -> Network:
        onnx.save(model, tmp_path / "model.onnx")
        return onnx_network(tmp_path / "model.onnx", find_classifier(str(bundles["group"])))

    return load


def a_graph(outputs: tuple[str, ...] = ("logits",), labels: int = 2) -> onnx.ModelProto:
    """One that gives each clip the same logits, and whatever else is asked for."""
    shape = ["batch", "samples"]
    inputs = [
        helper.make_tensor_value_info("input_values", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, shape),
    ]
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [1, labels], [0.5] * labels)
    nodes = [helper.make_node("Identity", ["weights"], [name]) for name in outputs]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, labels]) for name in outputs]
    made = helper.make_graph(nodes, "graph", inputs, values, [weights])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_graph_without_embeddings_gives_none(graph: Callable[[onnx.ModelProto], Network]) -> None:
    output = graph(a_graph())(*clips()[0])
    assert output.embeddings is None
    np.testing.assert_array_equal(output.logits, [[0.5, 0.5]])


@pytest.mark.parametrize("model", [a_graph(("answers",)), a_graph(labels=3)], ids=["other outputs", "more labels"])
def test_a_graph_that_is_another_is_refused(
    model: onnx.ModelProto, graph: Callable[[onnx.ModelProto], Network]
) -> None:
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        graph(model)


@pytest.mark.parametrize("place", ["../secret", "inside"])
def test_a_graph_that_takes_weights_from_other_files_is_refused(
    place: str, graph: Callable[[onnx.ModelProto], Network], tmp_path: Path
) -> None:
    """Wherever they lie: no hash covers them."""
    model = a_graph()
    tensor = model.graph.initializer[0]
    for name in ("inside", "../secret"):
        (tmp_path / name).write_bytes(np.ones(2, np.float32).tobytes())
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", "8")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="weights from other files"):
        graph(model)
