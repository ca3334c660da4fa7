"""Trained networks as plain functions of arrays: from a model folder by torch, from a bundle by onnxruntime.

torch and onnxruntime are imported only where they are used: a bundle runs without torch.
"""

from __future__ import annotations

import copy
import mmap
import threading
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from crycli.checkpoint import Classifier, load_model
from crycli.errors import CheckpointError, ConfigError

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


OUTPUTS = ("logits", "embeddings")
"""Of an exported network, by name."""


class Output(NamedTuple):
    """What a network says about a batch.

    Attributes:
        logits: (batch, labels).
        embeddings: (batch, hidden), the pooled vectors from which the head makes the logits; None where the network
            does not give them.
    """

    logits: Array
    embeddings: Array | None


class Network(Protocol):
    """A network that may be called from several threads at once."""

    def __call__(self, values: Array, mask: Mask) -> Output:
        """Take (batch, samples) normalised values, padded with zeros, and their (batch, samples) mask."""


def softmax(logits: Array) -> Probabilities:
    """(batch, labels) logits to probabilities that sum to 1 in each row."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float64)


def pick_device(wanted: str) -> str:
    """The torch device for a setting: "auto" takes a GPU where there is one.

    Raises:
        ConfigError: a device is asked for that is not there.
    """
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[wanted]:
        raise ConfigError(f"device: {wanted} is not available here: use auto or cpu")
    return wanted


def torch_network(folder: Path, device: str) -> Network:
    """The network of a model folder, in float32; on a CPU a call computes with one thread.

    With both cores busy 60 clips of 1 to 7 s took mini 1.2 s from two threads that compute alone, and 35 s from one
    that computes with two: torch's threads wait for each other.

    Raises:
        CheckpointError: as `checkpoint.load_model` does.
    """
    import torch

    loaded: Any = load_model(folder)
    loaded.to(device)
    weights = {id(tensor): tensor for tensor in (*loaded.parameters(), *loaded.buffers())}
    own = threading.local()

    def run(values: Array, mask: Mask) -> Output:
        # The modules remember the lengths of the clips (`model.MaskedGroupNorm`): each thread has its own, and all
        # have the same weights.
        if not hasattr(own, "model"):
            own.model = copy.deepcopy(loaded, dict(weights))
        model = own.model
        with torch.inference_mode():
            pooled = model.weigh(model.embed(torch.from_numpy(values).to(device), torch.from_numpy(mask).to(device)))
            logits = model.classifier(pooled)
        return Output(np.asarray(logits.cpu().numpy()), np.asarray(pooled.cpu().numpy()))

    return _alone(run) if device == "cpu" else run


def exported_network(program: Any) -> Network:
    """The network of a program of torch.export, on the CPU; as in `torch_network`, a call computes with one thread.

    Args:
        program: a `torch.export.ExportedProgram` that crycli made itself. To load one runs what a stranger may have
            hidden in it: torch 2.13 unpickles parts of the file and evaluates its formulas.
    """
    import torch

    module = program.module()

    def run(values: Array, mask: Mask) -> Output:
        with torch.inference_mode():
            logits, pooled = module(torch.from_numpy(values), torch.from_numpy(mask))
        return Output(np.asarray(logits.numpy()), np.asarray(pooled.numpy()))

    return _alone(run)


def _alone(network: Network) -> Network:
    """A network of torch whose calls compute with one thread each, whatever others do."""
    import torch

    usual = torch.get_num_threads()

    def run(values: Array, mask: Mask) -> Output:
        # The number belongs to the calling thread, which gets the last one that any thread set when torch first asks
        # for it: asked here, or another call that ends meanwhile would set it anew in the midst of this one.
        torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return network(values, mask)
        finally:
            torch.set_num_threads(usual)

    return run


def onnx_network(file: Path, classifier: Classifier, threads: int = 1) -> Network:
    """The network of an exported bundle, on the CPU.

    Args:
        file: the ONNX graph, weights and all.
        classifier: what it should be.
        threads: that one call computes with; calls from several threads add up.

    Raises:
        CheckpointError: the file is damaged, or another network than `exporting` writes, or does not have as many
            labels as the classifier.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # A plan of the memory is kept for each length of clip that was met: 880 against 980 MB with base size after 20
    # clips of 1 to 7 s, no slower; the arena, which may stay, neither costs nor saves much.
    options.enable_mem_pattern = False
    # Threads that have nothing to do would otherwise keep a core busy that another call could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    _refuse_other_files(file)
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise CheckpointError(f"cannot load {file}: {str(error).splitlines()[0]}") from None
    names = [name for name in OUTPUTS if name in {output.name for output in session.get_outputs()}]

    def run(values: Array, mask: Mask) -> Output:
        found = dict(zip(names, session.run(names, {"input_values": values, "attention_mask": mask}), strict=True))
        return Output(found["logits"], found.get("embeddings"))

    try:
        size = (1, classifier.shortest_samples)
        shape = run(np.zeros(size, np.float32), np.ones(size, np.int64)).logits.shape
    except Exception as error:
        raise CheckpointError(f"{file} is not a network that crycli exported: {str(error).splitlines()[0]}") from None
    labels = len(classifier.labels)
    if shape != (1, labels):
        raise CheckpointError(f"{file} gives logits of shape {shape} for one clip, and labels.json has {labels} labels")
    return run


def _refuse_other_files(file: Path) -> None:
    """Refuse a graph that takes weights from other files, which no hash covers and which may lie anywhere.

    Such a graph names the file under the key "location", and those of crycli nowhere have the word. onnxruntime 1.32
    keeps within the folder by itself; older ones follow any path.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = content.find(b"location") >= 0
    except (OSError, ValueError) as error:  # ValueError: nothing to map in an empty file
        raise CheckpointError(f"cannot load {file}: {error}") from None
    if found:
        raise CheckpointError(f"{file} takes weights from other files, which crycli does not follow")
