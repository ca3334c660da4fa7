"""A trained classifier to a bundle that stands by itself, checked against the checkpoint."""

from __future__ import annotations

import logging
import platform
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from crycli import __version__, pages
from crycli.audio import Excerpt
from crycli.builtin import MODEL, resolve
from crycli.bundles import BUNDLE_FILE, NETWORK_FILES, hash_files
from crycli.calibration import CALIBRATION_FILE
from crycli.checkpoint import EVENT_SETTINGS, Classifier, find_classifier, load_model, read_json, shortest_clip
from crycli.config import Config
from crycli.errors import CheckpointError
from crycli.exportcheck import Clip, Comparison, Sounds, compare
from crycli.inference import WindowPolicy, event_windows, read_calibration, read_policy
from crycli.leakage import KNOWN_FILE
from crycli.manifest import read_manifest
from crycli.networks import OUTPUTS, Network, exported_network, onnx_network, torch_network
from crycli.outputs import claim_folder, refuse_existing, write_json, write_text
from crycli.progress import OnStep, Step, silent

LABELS_FILE, PREPROCESSOR_FILE, README_FILE = "labels.json", "preprocessor_config.json", "README.md"
CARRIED_FILES = (PREPROCESSOR_FILE, CALIBRATION_FILE, KNOWN_FILE)
"""Of the model folder, copied where they are there."""
OWNED_FILES = {*NETWORK_FILES.values(), LABELS_FILE, README_FILE, *CARRIED_FILES, BUNDLE_FILE}

EXACT = {"max_difference": 1e-4, "max_flipped": 0.0}
INT8 = {"max_difference": 0.2, "max_flipped": 0.05}
"""The limits of the check where the settings leave them to crycli; of labels for recordings alone."""

FEWEST_HALVES = 1024  # weights of a tensor: for fewer a cast is not worth its node

VERSIONS = ("torch", "transformers", "onnx", "onnxruntime", "numpy", "soundfile", "soxr")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Export:
    """What `export_bundle` made.

    Attributes:
        folder: the bundle.
        format: "onnx", "onnx-int8" or "torch".
        megabytes: of the weights before and of the file with the network after.
        check: how the bundle compares with the checkpoint.
    """

    folder: Path
    format: str
    megabytes: tuple[float, float]
    check: Comparison

    def rows(self) -> list[tuple[str, str, str]]:
        """A table of what is measured, of the checkpoint and of the bundle."""
        check = self.check
        kind = "synthetic clips" if check.synthetic else "clips"
        rows = [
            ("size in MB", *_pair(self.megabytes, ".1f")),
            ("ms a window, one thread", *_pair(check.milliseconds, ".1f")),
            ("largest difference of a probability", "", f"{check.largest_difference:.1e}"),
            (f"other labels, of {check.clips} {kind}", "", f"{check.flipped}"),
        ]
        if check.scores:
            before, after = check.scores
            rows += [
                ("balanced accuracy", *_pair((before.balanced_accuracy, after.balanced_accuracy), ".3f")),
                ("macro F1", *_pair((before.macro_f1, after.macro_f1), ".3f")),
                ("accuracy", *_pair((before.accuracy, after.accuracy), ".3f")),
            ]
        return rows


def _pair(values: tuple[float, float], form: str) -> tuple[str, str]:
    return format(values[0], form), format(values[1], form)


def export_bundle(
    model: str,
    output: Path,
    config: Config | None = None,
    *,
    clips: Sequence[Excerpt] = (),
    data: Path | None = None,
    force: bool = False,
    on_step: OnStep = silent,
) -> Export:
    """Write a bundle: the network, its labels, preprocessing, calibration, window policy and model card.

    Every format takes input_values (batch, samples) float32, normalised and padded with zeros, and attention_mask
    (batch, samples) int64, and gives logits (batch, labels) and embeddings (batch, width), the pooled vectors. int8 is
    the dynamic quantization of onnxruntime, of the weights of MatMul and Gemm for each channel.

    What `config.predict` says about windows, events and the answer `unsure` becomes the bundle's own.

    Args:
        model: a run, a model folder, a hub name, or "detector" for the one that comes with crycli.
        output: the folder of the bundle.
        config: its `export`, `predict` and `limits` are used.
        clips: recordings to compare the bundle with the checkpoint on.
        data: a folder that `crycli prepare` wrote; the test part is compared on too, and scored before and after.
        force: replace a bundle that is there.
        on_step: told of the progress.

    Raises:
        CheckpointError: `model` is no checkpoint, or the exported network answers differently. No bundle is left then.
        ConfigError: a setting does not fit the model.
        DataError: the test part cannot be read, or has labels that the model lacks.
        OutputError: the output exists and `force` is false, or it cannot be written.
    """
    config = config or Config()
    refuse_existing(output, force=force)
    classifier = find_classifier(resolve(model, MODEL), offline=config.offline)
    if classifier.kind != "checkpoint":
        raise CheckpointError(f"{model} is an exported bundle already: export from the run or its model folder")
    calibration = read_calibration(classifier.folder)
    policy = read_policy(classifier, config.predict, calibration)
    config = _with_event_windows(config, classifier)
    temperature = 1.0 if calibration is None else calibration.temperature
    known = _test_clips(data) + [Clip(excerpt) for excerpt in clips]
    claim_folder(output, force=force)
    partial = output / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        on_step(Step("export", 0, 2, "stages", "making the network"))
        file, shortest = _write_network(classifier, config, partial)
        on_step(Step("export", 1, 2, "stages", "comparing with the checkpoint"))
        sounds = _sounds(classifier, policy, config, shortest, temperature)
        after = _load_network(classifier, config.export.format, file)
        check = compare(torch_network(classifier.folder, "cpu"), after, sounds, known, on_step)
        _refuse_different(check, config)
        _describe(classifier, config, policy, sounds, check, partial)
        _move(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    on_step(Step("export", 2, 2, "stages"))
    before = (classifier.folder / "model.safetensors").stat().st_size
    sizes = (before / 1e6, (output / file.name).stat().st_size / 1e6)
    return Export(output, config.export.format, sizes, check)


def _with_event_windows(config: Config, classifier: Classifier) -> Config:
    """The configuration with the windows of events that it stands for: a bundle keeps both the window and the hop."""
    windows = event_windows(classifier, config.predict)
    if windows is None:
        return config
    window, hop = windows
    predict = config.predict.model_copy(update={"event_window": window, "event_hop": hop})
    return config.model_copy(update={"predict": predict})


def _test_clips(data: Path | None) -> list[Clip]:
    if data is None:
        return []
    rows = read_manifest(data / "test.csv")
    return [Clip(Excerpt(row.path, row.start, row.end), row.label, row.group) for row in rows]


def _sounds(classifier: Classifier, policy: WindowPolicy, config: Config, shortest: int, temperature: float) -> Sounds:
    rate = classifier.sample_rate
    return Sounds(
        labels=classifier.labels,
        sample_rate=rate,
        normalise=classifier.normalise,
        window=round(policy.window_seconds * rate),
        hop=max(1, round(policy.hop_seconds * rate)),
        shortest=shortest,
        temperature=temperature,
        limits=config.limits.to_limits(),
        events=policy.events.labels,
        combine=policy.combine,
    )


def _write_network(classifier: Classifier, config: Config, folder: Path) -> tuple[Path, int]:
    """The file with the network, and the samples of the shortest clip that it takes."""
    file = folder / NETWORK_FILES[config.export.format]
    if config.export.format == "torch":
        return file, _write_program(classifier, file)
    _trace(classifier.folder, file, config.export.opset)
    if config.export.format == "onnx-int8":
        _quantize(file)
    _store_halves(file)
    return file, classifier.shortest_samples


def _load_network(classifier: Classifier, form: str, file: Path) -> Network:
    if form != "torch":
        return onnx_network(file, classifier)
    import torch

    return exported_network(torch.export.load(file))  # made a moment ago


def _head_and_pooling(folder: Path) -> Any:
    """The network of a model folder as a module that gives logits and embeddings, in eval mode itself.

    The exporters restore the mode of the module that they are given: a wrapper in training mode would take the network
    with it, and its probabilities were off by 3.4 logits.
    """
    import torch

    network = load_model(folder)

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self, input_values: torch.Tensor, attention_mask: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            pooled = self.network.weigh(self.network.embed(input_values, attention_mask))
            return self.network.classifier(pooled), pooled

    return Outputs().eval()


def _example() -> tuple[Any, Any]:
    """Values and mask of two clips, the second padded, so that the mask's path is traced."""
    import torch

    mask = torch.ones(2, 16_000, dtype=torch.int64)
    mask[1, 12_000:] = 0
    return torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)) * mask, mask


def _trace(folder: Path, file: Path, opset: int) -> None:
    import torch

    sizes = {0: "batch", 1: "samples"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that stay dynamic: the check decides
        torch.onnx.export(
            _head_and_pooling(folder),
            _example(),
            str(file),
            input_names=["input_values", "attention_mask"],
            output_names=list(OUTPUTS),
            dynamic_axes={"input_values": sizes, "attention_mask": sizes, **{name: {0: "batch"} for name in OUTPUTS}},
            opset_version=opset,
            dynamo=False,
        )


def _quantize(file: Path) -> None:
    """Replace a graph by its int8 version: base size 380 to 123 MB, and 1.6 times as fast.

    The weights have 7 bits (`reduce_range`): on processors without VNNI the sums of products of 8 bits overflow, so
    that one bundle would answer differently on another machine. That takes no time, and the embeddings of untrained
    networks were off by 1.5% in place of 0.9% (mini) and 3.5% in place of 1.9% (base size). Convolutions stay as they
    are: quantised, they are slower than in float32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    smaller = file.with_suffix(".int8.onnx")
    with _quiet_root_logger():
        quantize_dynamic(
            str(file),
            str(smaller),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    smaller.replace(file)


def _store_halves(file: Path) -> None:
    """Store weights that half precision holds exactly in it: half the size, and the same answers.

    Such are those of a model that was saved in half precision. onnxruntime casts them to float32 once, when it loads
    them.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(file)
    casts = []
    for weights in list(model.graph.initializer):
        values = numpy_helper.to_array(weights)
        if values.dtype != np.float32 or values.size < FEWEST_HALVES:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.array_equal(halves.astype(np.float32), values):
            stored = f"{weights.name}.half"
            model.graph.initializer.remove(weights)
            model.graph.initializer.append(numpy_helper.from_array(halves, stored))
            casts.append(onnx.helper.make_node("Cast", [stored], [weights.name], to=onnx.TensorProto.FLOAT))
    if casts:
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        onnx.save(model, file)


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep what a library logs on the root logger, which is advice for its own developers, from being shown.

    The handler keeps `logging.warning` from setting up handlers of its own.
    """
    root = logging.getLogger()
    handler = logging.NullHandler()

    def refuse(record: logging.LogRecord) -> bool:
        return False

    root.addHandler(handler)
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(handler)


def _write_program(classifier: Classifier, file: Path) -> int:
    """Write a .pt2 file; the samples of the shortest clip that it takes, which is one of two frames.

    torch.export takes a size of 1 for a constant, so that a program for any length has two frames at least. That a
    clip of so many samples has them is left to be seen when it runs: with several speeds torch cannot work it out.
    """
    import torch

    shortest = shortest_clip(read_json(classifier.folder / "config.json"), frames=2)
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=shortest)
    sizes = {0: batch, 1: samples}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that lengths of clips are kept in attributes, which the trace has resolved
        program = torch.export.export(
            _head_and_pooling(classifier.folder),
            _example(),
            dynamic_shapes=(sizes, sizes),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        torch.export.save(program, file)
    return shortest


def _refuse_different(check: Comparison, config: Config) -> None:
    """Raise `CheckpointError` where the exported network is not the checkpoint's."""
    export = config.export
    usual = INT8 if export.format == "onnx-int8" else EXACT
    difference = usual["max_difference"] if export.max_difference == "auto" else export.max_difference
    share = usual["max_flipped"] if export.max_flipped == "auto" else export.max_flipped
    advice = "nothing was exported"
    if check.synthetic:
        advice += "; these were synthetic clips: compare on recordings with --data or --clips"
    if not check.largest_difference <= difference:  # NaN is refused too
        raise CheckpointError(
            f"the exported network's probabilities differ from the checkpoint's by {check.largest_difference:.1e}, "
            f"more than {difference:g} (export.max_difference): {advice}"
        )
    # What a network says to synthetic sounds is often a close call: int8 gave an untrained mini 3 other labels of 24.
    counts = not check.synthetic or export.max_flipped != "auto"
    if counts and check.flipped > share * check.clips:
        raise CheckpointError(
            f"the exported network gives {check.flipped} of {check.clips} clips another label than the checkpoint, "
            f"more than a share of {share:g} (export.max_flipped): {advice}"
        )


def _describe(
    classifier: Classifier, config: Config, policy: WindowPolicy, sounds: Sounds, check: Comparison, folder: Path
) -> None:
    """Write all of the bundle but the network."""
    write_json(folder / LABELS_FILE, list(classifier.labels))
    for name in CARRIED_FILES:
        if (classifier.folder / name).is_file():
            shutil.copyfile(classifier.folder / name, folder / name)
    about = _about(classifier, config, policy, sounds, check)
    hashes = hash_files(folder, [file.name for file in folder.iterdir()])
    _write_readme(classifier, about, sounds, hashes, folder / README_FILE)
    about["files"] = hash_files(folder, [file.name for file in folder.iterdir()])
    write_json(folder / BUNDLE_FILE, about)


def _about(
    classifier: Classifier, config: Config, policy: WindowPolicy, sounds: Sounds, check: Comparison
) -> dict[str, Any]:
    predict, form = config.predict, config.export.format
    unsure = any(value is not None for value in (predict.threshold, predict.precision, predict.coverage))
    events = {name: getattr(predict, f"event_{name}") for name in EVENT_SETTINGS}
    return {
        "crycli_version": __version__,
        "format": form,
        "opset": None if form == "torch" else config.export.opset,
        "window_seconds": policy.window_seconds,
        "hop_seconds": None if predict.hop == "auto" else policy.hop_seconds,
        "shortest_samples": sounds.shortest,
        "threshold": policy.unsure_below if unsure else None,
        "events": {name: value for name, value in events.items() if value != "auto"},
        "combine": policy.combine,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        "check": {
            "clips": check.clips,
            "synthetic": check.synthetic,
            "largest_difference": check.largest_difference,
            "flipped": check.flipped,
        },
    }


def _write_readme(
    classifier: Classifier, about: dict[str, Any], sounds: Sounds, hashes: dict[str, str], file: Path
) -> None:
    source = classifier.folder / README_FILE
    card = _without_front_matter(source.read_text(encoding="utf-8")) if source.is_file() else ""
    context = {
        "about": about,
        "labels": classifier.labels,
        "sounds": sounds,
        "hashes": hashes,
        "network": NETWORK_FILES[about["format"]],
        "has_card": bool(card),
    }
    parts = [pages.render("bundle.md", context).rstrip(), card]  # the template would make one line of the card
    write_text(file, "\n\n".join(filter(None, parts)) + "\n")


def _without_front_matter(card: str) -> str:
    """A model card without the fields for model hubs, which are those of the model folder."""
    if card.startswith("---\n"):
        _, _, rest = card[4:].partition("\n---\n")
        return rest.strip()
    return card.strip()


def _move(partial: Path, output: Path) -> None:
    """Put the finished files into place, bundle.json last: until then an older one refuses the new files."""
    names = {file.name for file in partial.iterdir()}
    for name in OWNED_FILES - names:
        (output / name).unlink(missing_ok=True)
    for name in sorted(names - {BUNDLE_FILE}):
        (partial / name).replace(output / name)
    (partial / BUNDLE_FILE).replace(output / BUNDLE_FILE)
