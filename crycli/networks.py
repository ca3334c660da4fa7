"""Trained networks as plain functions of arrays: from a model folder by torch, from a bundle by onnxruntime.

torch and onnxruntime are imported only where they are used: a bundle runs without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from crycli.checkpoint import Classifier, load_model
from crycli.errors import CheckpointError, ConfigError

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


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
    """The network of a model folder, in float32."""
    import torch

    model: Any = load_model(folder)
    model.to(device)

    def run(values: Array, mask: Mask) -> Output:
        with torch.inference_mode():
            output: Any = model(torch.from_numpy(values).to(device), torch.from_numpy(mask).to(device))
        return Output(np.asarray(output.logits.float().cpu().numpy()), None)

    return run


def onnx_network(file: Path, classifier: Classifier) -> Network:
    """The network of an exported bundle, on the CPU.

    Raises:
        CheckpointError: the file is damaged, or another network than `exporting` writes, or does not have as many
            labels as the classifier.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise CheckpointError(f"cannot load {file}: {str(error).splitlines()[0]}") from None

    def run(values: Array, mask: Mask) -> Output:
        return Output(np.asarray(session.run(["logits"], {"input_values": values, "attention_mask": mask})[0]), None)

    try:
        size = (1, classifier.shortest_samples)
        shape = run(np.zeros(size, np.float32), np.ones(size, np.int64)).logits.shape
    except Exception as error:
        raise CheckpointError(f"{file} is not a network that crycli exported: {str(error).splitlines()[0]}") from None
    labels = len(classifier.labels)
    if shape != (1, labels):
        raise CheckpointError(f"{file} gives logits of shape {shape} for one clip, and labels.json has {labels} labels")
    return run
