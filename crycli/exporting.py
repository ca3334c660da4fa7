"""A trained classifier to an ONNX bundle that runs without torch, checked against the checkpoint."""

from __future__ import annotations

import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crycli import __version__
from crycli.calibration import CALIBRATION_FILE
from crycli.checkpoint import Classifier, find_classifier, load_model
from crycli.config import Config
from crycli.errors import CheckpointError
from crycli.leakage import KNOWN_FILE
from crycli.networks import Array, Mask, onnx_network, softmax, torch_network
from crycli.outputs import claim_folder, refuse_existing, write_json
from crycli.progress import OnStep, Step, silent

BUNDLE_FILES = ("model.onnx", "labels.json", "preprocessor_config.json", "bundle.json")
CARRIED_FILES = (CALIBRATION_FILE, KNOWN_FILE)
"""Of the model folder, copied where they are there."""
TOLERANCE = 1e-4  # in any probability

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Export:
    """What `export_bundle` made.

    Attributes:
        folder: the bundle.
        megabytes: of model.onnx.
        largest_difference: in any probability, between checkpoint and bundle, over the clips of the check.
    """

    folder: Path
    megabytes: float
    largest_difference: float


def export_bundle(
    model: str, output: Path, config: Config | None = None, *, force: bool = False, on_step: OnStep = silent
) -> Export:
    """Write model.onnx, labels.json, preprocessor_config.json and bundle.json.

    The ONNX graph takes input_values (batch, samples) float32, normalised and padded with zeros, and attention_mask
    (batch, samples) int64, and gives logits (batch, labels).

    Raises:
        CheckpointError: `model` is no checkpoint, or the exported network answers differently.
        OutputError: the output exists and `force` is false, or it cannot be written.
    """
    config = config or Config()
    refuse_existing(output, force=force)
    classifier = find_classifier(model, offline=config.offline)
    if classifier.kind != "checkpoint":
        raise CheckpointError(f"{model} is an exported bundle already: export from the run or its model folder")
    claim_folder(output, force=force)
    partial = output / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        on_step(Step("export", 0, 2, "stages", "tracing the network"))
        _trace(classifier.folder, partial / "model.onnx", config.export.opset)
        on_step(Step("export", 1, 2, "stages", "comparing with the checkpoint"))
        difference = _largest_difference(classifier, partial / "model.onnx")
        if not difference <= TOLERANCE:  # NaN is refused too
            raise CheckpointError(
                f"the exported network's probabilities differ from the checkpoint's by {difference:.1e}, more than "
                f"{TOLERANCE:.0e}: nothing was exported; try another export.opset"
            )
        write_json(partial / "labels.json", list(classifier.labels))
        shutil.copyfile(classifier.folder / "preprocessor_config.json", partial / "preprocessor_config.json")
        about = {
            "crycli_version": __version__,
            "window_seconds": classifier.window_seconds,
            "shortest_samples": classifier.shortest_samples,
            "opset": config.export.opset,
            "largest_difference": difference,
        }
        write_json(partial / "bundle.json", about)
        for name in BUNDLE_FILES:
            (partial / name).replace(output / name)
        for name in CARRIED_FILES:
            (output / name).unlink(missing_ok=True)
            if (classifier.folder / name).is_file():
                shutil.copyfile(classifier.folder / name, output / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    on_step(Step("export", 2, 2, "stages"))
    return Export(output, (output / "model.onnx").stat().st_size / 1e6, difference)


def _trace(folder: Path, file: Path, opset: int) -> None:
    import torch

    network = load_model(folder)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(input_values, attention_mask).logits
            return logits

    # The second clip is padded, so that the mask's path is traced.
    mask = torch.ones(2, 16_000, dtype=torch.int64)
    mask[1, 12_000:] = 0
    values = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)) * mask
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that stay dynamic: the check below decides
        torch.onnx.export(
            # Set to eval itself: the wrapper's own mode is what the exporter restores.
            Logits().eval(),
            (values, mask),
            str(file),
            input_names=["input_values", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={
                "input_values": {0: "batch", 1: "samples"},
                "attention_mask": {0: "batch", 1: "samples"},
                "logits": {0: "batch"},
            },
            opset_version=opset,
            dynamo=False,
        )


def _largest_difference(classifier: Classifier, file: Path) -> float:
    """Over noise from the shortest clip to a whole window, each alone, and all but the window in one padded batch."""
    checkpoint = torch_network(classifier.folder, "cpu")
    bundle = onnx_network(file, classifier)
    generator = np.random.default_rng(0)
    rate = classifier.sample_rate
    lengths = [classifier.shortest_samples, *(round(seconds * rate) for seconds in (0.5, 1.37, 3.0))]
    window = round(classifier.window_seconds * rate)  # the longest clip that the bundle will see
    batches = [_noise(lengths, generator), *(_noise([length], generator) for length in (*lengths, window))]
    return max(
        float(np.abs(softmax(checkpoint(*batch).logits) - softmax(bundle(*batch).logits)).max()) for batch in batches
    )


def _noise(lengths: list[int], generator: np.random.Generator) -> tuple[Array, Mask]:
    """Values and mask, (clips, samples), of clips with so many samples, padded with zeros."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return (generator.standard_normal(mask.shape) * mask).astype(np.float32), mask
