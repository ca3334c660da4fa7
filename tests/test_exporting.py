"""Bundles: they answer as the checkpoint does, or there is none."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from conftest import cry, settings
from safetensors.torch import load_file, save_file
from test_model import KINDS, LAYERS, POOLINGS, network

from crycli.audio import Excerpt, load, normalise
from crycli.checkpoint import find_classifier, load_feature_extractor, load_model, read_json, save_model_folder
from crycli.config import Config
from crycli.errors import CheckpointError, ConfigError, DataError, OutputError
from crycli.exporting import export_bundle
from crycli.inference import load_predictor
from crycli.manifest import Clip, read_manifest
from crycli.model import MaskedGroupNorm, WavLMSelfAttention
from crycli.networks import Network, Output, exported_network, onnx_network, softmax, torch_network
from crycli.outputs import write_json
from crycli.progress import Step

LENGTHS = (7_001, 400, 90_123, 16_000)  # samples; the graph is traced with 16,000 and 12,000
LONG_ENOUGH = (7_001, 720, 90_123, 16_000)  # for torch.export, which needs two frames


@pytest.fixture
def bundle(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A bundle to be damaged."""
    return Path(shutil.copytree(bundles["layer"], tmp_path / "bundle"))


def untrained(
    folder: Path, family: str, norm: str, pooling: str, layers: str, labels: Sequence[str] = ("a", "b", "c")
) -> Path:
    """A model folder with random weights, turned up so that clips get different answers."""
    fields = {"id2label": dict(enumerate(labels)), "pooling_mode": pooling, "layer_mode": layers}
    save_model_folder(network(family, norm, labels=len(labels), **fields), load_feature_extractor(None), folder)
    return folder


def outputs(network: Network, lengths: Sequence[int] = LENGTHS) -> tuple[Output, Output]:
    """The answers for clips of so many samples, in one padded batch and each alone."""
    values = np.zeros((len(lengths), max(lengths)), np.float32)
    mask = np.zeros(values.shape, np.int64)
    alone = []
    for row, length in enumerate(lengths):
        values[row, :length] = normalise(cry(250.0 + 200 * row, length / 16_000, seed=row))
        mask[row, :length] = 1
        alone.append(network(values[row : row + 1, :length], mask[row : row + 1, :length]))
    logits, embeddings = zip(*alone, strict=True)
    return network(values, mask), Output(np.concatenate(logits), np.concatenate(embeddings))


@pytest.mark.parametrize(
    ("family", "norm", "pooling", "layers"),
    [(*kind, *mode) for kind, mode in zip(cycle(KINDS), product(POOLINGS, LAYERS), strict=False)],
)
def test_the_bundle_answers_as_the_checkpoint_does(
    family: str, norm: str, pooling: str, layers: str, tmp_path: Path
) -> None:
    model = untrained(tmp_path / "model", family, norm, pooling, layers)
    made = export_bundle(str(model), tmp_path / "bundle")
    _, truth = outputs(torch_network(model, "cpu"))
    classifier = find_classifier(str(tmp_path / "bundle"))
    assert (classifier.form, classifier.network_file) == ("onnx", tmp_path / "bundle" / "model.onnx")
    assert np.ptp(truth.logits, axis=0).max() > 0.1  # clips that all get one answer would prove nothing
    for found in outputs(onnx_network(tmp_path / "bundle" / "model.onnx", classifier)):
        np.testing.assert_allclose(found.logits, truth.logits, atol=2e-4, rtol=1e-4)
        np.testing.assert_allclose(found.embeddings, truth.embeddings, atol=2e-4, rtol=1e-4)
    assert made.check.largest_difference < 1e-4
    assert made.check.flipped == 0


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_what_hears_clips_at_two_speeds_does_so_in_the_export_too(form: str, tmp_path: Path) -> None:
    model = network(labels=2, pooling_mode="statistics", speeds=(0.96, 1.04), id2label={0: "a", 1: "b"})
    save_model_folder(model, load_feature_extractor(None), tmp_path / "model")
    export_bundle(str(tmp_path / "model"), tmp_path / "bundle", settings(f"export.format={form}"))
    lengths = (7_001, 750, 90_123, 16_000)
    truth, alone = outputs(torch_network(tmp_path / "model", "cpu"), lengths)
    if form == "onnx":
        classifier = find_classifier(str(tmp_path / "bundle"))
        assert classifier.shortest_samples == 416
        found, _ = outputs(onnx_network(tmp_path / "bundle" / "model.onnx", classifier), lengths)
    else:
        found, _ = outputs(exported_network(torch.export.load(tmp_path / "bundle" / "model.pt2")), lengths)
    for one in (truth, alone):
        np.testing.assert_allclose(found.logits, one.logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "norm", "pooling", "layers"),
    [("wav2vec2", "group", "mean", "last"), ("data2vec-audio", "layer", "attention", "weighted")],
)
def test_the_int8_bundle_answers_much_as_the_checkpoint_does(
    family: str, norm: str, pooling: str, layers: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = untrained(tmp_path / "model", family, norm, pooling, layers)
    handlers = list(logging.getLogger().handlers)
    made = export_bundle(str(model), tmp_path / "bundle", settings("export.format=onnx-int8"))
    classifier = find_classifier(str(tmp_path / "bundle"))
    assert classifier.form == "onnx-int8"
    _, truth = outputs(torch_network(model, "cpu"))
    _, found = outputs(onnx_network(tmp_path / "bundle" / "model.onnx", classifier))
    difference = np.abs(softmax(found.logits) - softmax(truth.logits)).max()
    assert 1e-6 < difference < 0.1
    assert 1e-6 < made.check.largest_difference < 0.2
    graph = onnx.load(tmp_path / "bundle" / "model.onnx").graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["MatMulInteger"] >= 12  # six weights in each of two layers
    assert kinds["ConvInteger"] == 0
    assert kinds["Conv"] >= 7
    assert logging.getLogger().handlers == handlers
    assert not [record for record in caplog.records if record.name == "root"]  # the library's advice


@pytest.fixture(scope="module")
def program(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of `runs["group"]` by torch.export, which takes 5 s. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("program") / "bundle"
    export_bundle(str(runs["group"]), folder, settings("export.format=torch"))
    return folder


def hold_against_checkpoint(program: Path, model: Path) -> None:
    """Clips of several lengths get the same answers from a program of torch.export and from the checkpoint."""
    found, truth = exported_network(torch.export.load(program / "model.pt2")), torch_network(model, "cpu")
    assert read_json(program / "bundle.json")["shortest_samples"] == 720  # two frames
    for length in (720, 5_000, 90_123):
        values = normalise(cry(400.0, length / 16_000))[None]
        mask = np.ones(values.shape, np.int64)
        for one, other in zip(found(values, mask), truth(values, mask), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4, rtol=1e-4)
    for one, other in zip(outputs(found, LONG_ENOUGH), outputs(truth, LONG_ENOUGH), strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=2e-4, rtol=1e-4)


def test_the_torch_program_answers_as_the_checkpoint_does(program: Path, runs: dict[str, Path]) -> None:
    hold_against_checkpoint(program, runs["group"] / "model")
    assert read_json(program / "bundle.json")["check"]["largest_difference"] < 1e-4
    with pytest.raises(CheckpointError, match="may run code"):
        find_classifier(str(program))


@pytest.mark.parametrize(
    ("family", "norm", "pooling", "layers"),
    [  # the first with the pooling whose arithmetic asks most of the tracer
        pytest.param(*kind, *mode, marks=[pytest.mark.slow] if number else [])
        for number, (kind, mode) in enumerate(zip(KINDS, product(reversed(POOLINGS), LAYERS), strict=False))
    ],
)
def test_the_torch_program_of_any_family_answers_as_the_checkpoint_does(
    family: str, norm: str, pooling: str, layers: str, tmp_path: Path
) -> None:
    model = untrained(tmp_path / "model", family, norm, pooling, layers)
    export_bundle(str(model), tmp_path / "bundle", settings("export.format=torch"))
    hold_against_checkpoint(tmp_path / "bundle", model)


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


def test_a_graph_in_which_padding_counts_is_not_exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Clips of one length each, as the synthetic ones are, would not tell."""

    def unmasked(self: MaskedGroupNorm, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.GroupNorm.forward(self, hidden) if torch.onnx.is_in_onnx_export() else masked(self, hidden)

    masked = MaskedGroupNorm.forward
    monkeypatch.setattr(MaskedGroupNorm, "forward", unmasked)
    model = untrained(tmp_path / "model", "wav2vec2", "group", "mean", "last")
    with pytest.raises(CheckpointError, match="max_difference"):
        export_bundle(str(model), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("export.max_difference=1e-12", "max_difference"),
        ("export.max_flipped=0.0", "max_flipped"),
    ],
)
def test_over_its_limits_an_export_fails_and_leaves_no_bundle(
    assignment: str, message: str, tmp_path: Path, data: Path
) -> None:
    """The clips of the data are close calls for an untrained network, so that int8 calls some of them otherwise."""
    model = untrained(tmp_path / "model", "wav2vec2", "layer", "mean", "last", labels=("high", "low"))
    balance(model, read_manifest(data / "test.csv"))
    with pytest.raises(CheckpointError, match=message):
        export_bundle(str(model), tmp_path / "bundle", settings("export.format=onnx-int8", assignment), data=data)
    assert not list(tmp_path.glob("bundle/**/*"))


def balance(model: Path, clips: Sequence[Clip]) -> None:
    """Shift the logits of a model folder so that half of the clips get each of its two labels, by a hair."""
    loaded: Any = load_model(model)
    with torch.inference_mode():
        logits = torch.cat([loaded(torch.from_numpy(normalise(load(clip.path)))[None]).logits for clip in clips])
        loaded.classifier.out_proj.bias[1] += (logits[:, 0] - logits[:, 1]).median()
    save_model_folder(loaded, load_feature_extractor(None), model)


def test_the_score_before_and_after_is_that_of_the_test_part(runs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    made = export_bundle(str(runs["layer"]), tmp_path / "bundle", data=data)
    truth = [clip.label for clip in read_manifest(data / "test.csv")]
    predictor = load_predictor(str(tmp_path / "bundle"))
    answers = [found.label for found in predictor.predict([clip.path for clip in read_manifest(data / "test.csv")])]
    assert made.check.scores is not None
    before, after = made.check.scores
    assert before.clips == after.clips == made.check.clips == len(truth)
    assert after.accuracy == pytest.approx(np.mean([one == other for one, other in zip(answers, truth, strict=True)]))
    assert before.confusion == after.confusion
    assert not made.check.synthetic
    assert [row[0] for row in made.rows()][-3:] == ["balanced accuracy", "macro F1", "accuracy"]


def test_given_clips_are_compared_window_by_window_and_damaged_ones_left_out(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "long.wav", cry(300.0, 2.5), 16_000)
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    clips = [Excerpt(tmp_path / "long.wav"), Excerpt(tmp_path / "bad.wav"), Excerpt(tmp_path / "long.wav", 0.5, 1.0)]
    config = settings("predict.window=1", "predict.hop=0.5")
    made = export_bundle(str(runs["layer"]), tmp_path / "bundle", config, clips=clips)
    assert (made.check.clips, made.check.synthetic, made.check.scores) == (2, False, None)
    assert "bad.wav" in caplog.text
    with pytest.raises(DataError, match="can be read"):
        export_bundle(str(runs["layer"]), tmp_path / "other", clips=clips[1:2])
    assert not list(tmp_path.glob("other/**/*"))


def test_test_clips_with_labels_that_the_model_lacks_are_refused(runs: dict[str, Path], small: Path) -> None:
    manifest = small / "test.csv"
    manifest.write_text(manifest.read_text().replace(",high,", ",hungry,"))
    with pytest.raises(DataError, match="hungry"):
        export_bundle(str(runs["layer"]), small / "bundle", data=small)


def test_a_bundle_is_complete_and_keeps_what_the_checkpoint_says(runs: dict[str, Path], tmp_path: Path) -> None:
    model = Path(shutil.copytree(runs["layer"] / "model", tmp_path / "model"))
    write_json(model / "config.json", {**read_json(model / "config.json"), "window_seconds": 4.5})
    steps: list[Step] = []
    made = export_bundle(str(model), tmp_path / "bundle", on_step=steps.append)
    names = {path.name for path in made.folder.iterdir()}
    parts = {"model.onnx", "labels.json", "preprocessor_config.json", "bundle.json", "README.md"}
    assert names == parts | {"calibration.json", "known_clips.json"}
    assert json.loads((made.folder / "labels.json").read_text()) == ["high", "low"]
    about = read_json(made.folder / "bundle.json")
    assert about["window_seconds"] == 4.5
    assert {"python", "torch", "onnx", "onnxruntime"} <= set(about["versions"])
    assert about["check"] == {
        "clips": 24,
        "synthetic": True,
        "largest_difference": made.check.largest_difference,
        "flipped": 0,
    }
    found = find_classifier(str(made.folder))
    assert (found.hop_seconds, found.threshold, dict(found.events), found.combine) == (None, None, {}, "mean")
    assert made.megabytes[1] == pytest.approx((made.folder / "model.onnx").stat().st_size / 1e6)
    assert min(made.check.milliseconds) > 0
    assert (steps[0].done, steps[-1].done) == (0, steps[-1].total)
    card = (model / "README.md").read_text()
    assert card.partition("## Training data")[2].strip() in (made.folder / "README.md").read_text()


def test_a_bundle_keeps_what_the_settings_say_about_windows_events_and_unsure(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    wanted = ("predict.window=2", "predict.hop=0.5", "predict.event_onset=0.6", "predict.event_labels=[low]")
    config = settings(*wanted, "predict.coverage=0.5", "predict.event_gap_seconds=0.2", "predict.combine=max")
    export_bundle(str(runs["layer"]), tmp_path / "bundle", config)
    found = find_classifier(str(tmp_path / "bundle"))
    assert (found.window_seconds, found.hop_seconds) == (2.0, 0.5)
    assert dict(found.events) == {"labels": ("low",), "onset": 0.6, "gap_seconds": 0.2}
    assert found.combine == "max"
    assert "the probability of low is the highest" in (tmp_path / "bundle" / "README.md").read_text()
    asked = load_predictor(str(runs["layer"]), config).policy
    assert found.threshold == pytest.approx(asked.unsure_below)
    export_bundle(str(runs["layer"]), tmp_path / "hopping", settings("predict.window=2", "predict.event_hop=0.5"))
    assert dict(find_classifier(str(tmp_path / "hopping")).events) == {"window": 2.0, "hop": 0.5}
    with pytest.raises(ConfigError, match=r"predict.event_hop: 5 s is longer than the window of 2 s"):
        export_bundle(str(runs["layer"]), tmp_path / "gaps", settings("predict.window=2", "predict.event_hop=5"))
    assert not (tmp_path / "gaps").exists()
    assert load_predictor(str(tmp_path / "bundle")).policy == asked


@pytest.mark.parametrize("form", ["onnx", "onnx-int8", "torch"])
def test_the_lines_of_the_readme_give_the_answer_of_predict(
    form: str, runs: dict[str, Path], program: Path, tmp_path: Path
) -> None:
    """In a process that has nothing of crycli, for a stereo recording at another rate."""
    bundle, recording = tmp_path / "the bundle", tmp_path / "recording.wav"
    if form == "torch":
        shutil.copytree(program, bundle)
    else:
        export_bundle(str(runs["group"]), bundle, settings(f"export.format={form}"))
    soundfile.write(recording, np.stack([cry(500.0, 1.3, rate=44_100), cry(310.0, 1.3, rate=44_100)], axis=1), 44_100)
    (block,) = re.findall(r"```python\n(import json.*?)```", (bundle / "README.md").read_text(), flags=re.DOTALL)
    assert len(block.splitlines()) == 10
    for wrong in ("crycli", "FOLDER/model.onnx" if form == "torch" else "torch"):
        assert wrong not in block
    lines = block.replace("FOLDER", str(bundle)).replace("recording.wav", str(recording))
    done = subprocess.run(
        [sys.executable, "-I", "-c", lines], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    label, _, shown = done.stdout.strip().partition(" ")
    names, values = zip(*re.findall(r"'(\w+)': np\.float64\(([-+.e\d]+)\)", shown), strict=True)
    (expected,) = load_predictor(str(runs["group"] if form == "torch" else bundle)).predict([recording])
    assert (label, names) == (expected.label, ("high", "low"))
    np.testing.assert_allclose([float(value) for value in values], expected.probabilities, atol=1e-6)


def test_a_model_in_half_precision_becomes_a_bundle_of_half_the_size_with_its_answers(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    model = Path(shutil.copytree(runs["layer"] / "model", tmp_path / "model"))
    whole = export_bundle(str(model), tmp_path / "whole")
    stored = [item for item in onnx.load(tmp_path / "whole" / "model.onnx").graph.initializer if ".half" in item.name]
    assert stored == []
    halves = {name: tensor.half() for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(halves, model / "model.safetensors", metadata={"format": "pt"})
    made = export_bundle(str(model), tmp_path / "half")
    assert made.check.largest_difference < 1e-5
    weights = sum(tensor.numel() for tensor in halves.values())
    assert made.megabytes[1] < whole.megabytes[1] - 1e-6 * weights


@pytest.mark.parametrize("opset", [18, 20])
def test_other_opsets_export_too(opset: int, runs: dict[str, Path], tmp_path: Path) -> None:
    made = export_bundle(str(runs["group"]), tmp_path / "bundle", settings(f"export.opset={opset}"))
    assert made.check.largest_difference < 1e-4
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
