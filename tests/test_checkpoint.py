"""Backbones, model folders and the hub: what is found, what is refused, and in which words."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import Outcome, settings
from safetensors.torch import load_file, save_file
from test_model import KINDS, PLAIN, architecture
from transformers import Wav2Vec2Model

from crycli.checkpoint import (
    BACKBONES,
    build_model,
    fetch,
    find_classifier,
    load_feature_extractor,
    load_model,
    locate_backbone,
    save_model_folder,
    shortest_clip,
)
from crycli.errors import CheckpointError
from crycli.model import FAMILIES, play
from crycli.outputs import write_json

FETCH = """
import time
import crycli.checkpoint, huggingface_hub
started = time.monotonic()
try:
    crycli.checkpoint.fetch("nobody/no-such-model", offline=False)
except crycli.checkpoint.CheckpointError as error:
    print(f"{time.monotonic() - started:.2f} {error}")
"""


class Trap:
    """What a hostile pickle holds: unpickling it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.fixture
def folder(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A trained model folder to be damaged."""
    return Path(shutil.copytree(runs["layer"] / "model", tmp_path / "model"))


@pytest.fixture
def backbone(backbones: dict[str, Path], tmp_path: Path) -> Path:
    """A backbone folder to be damaged."""
    return Path(shutil.copytree(backbones["layer"], tmp_path / "backbone"))


@pytest.fixture
def predict_refusal(crycli: Callable[..., Outcome], cries: Path) -> Callable[[Path], str]:
    """The one line that `predict` refuses a model with."""

    def refusal(model: Path) -> str:
        done = crycli("-q", "predict", cries / "high", "-m", model)
        lines = done.err.splitlines()
        assert (done.code, done.out, len(lines)) == (1, "", 1), done
        return lines[0]

    return refusal


@pytest.fixture
def train_refusal(crycli: Callable[..., Outcome], data: Path, tmp_path: Path) -> Callable[..., str]:
    """The error line that `train` refuses a backbone with; nothing is left behind."""

    def refusal(backbone: object, *options: str) -> str:
        done = crycli("train", data, "-o", tmp_path / "refused", "--backbone", backbone, *options)
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert (done.code, done.out, len(errors)) == (1, "", 1), done
        assert not (tmp_path / "refused").exists()
        return errors[0]

    return refusal


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def edit(file: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def online(hub: str) -> dict[str, str]:
    """The environment of a process that may ask a hub, which is at this address."""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    return {**environment, "HF_ENDPOINT": hub, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def cache(name: str, folder: Path) -> None:
    """Put a folder into the hub's local cache, as a download would."""
    home = Path(os.environ["HF_HOME"]) / "hub" / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, home / "snapshots" / ("0" * 40))


def test_a_classifier_is_found_by_its_run_its_model_folder_and_its_bundle(
    runs: dict[str, Path], bundles: dict[str, Path]
) -> None:
    by_run, by_folder = find_classifier(str(runs["group"])), find_classifier(str(runs["group"] / "model"))
    bundle = find_classifier(str(bundles["group"]))
    assert by_run == by_folder
    assert (by_run.kind, bundle.kind) == ("checkpoint", "bundle")
    assert (by_run.form, by_run.network_file) == ("model", None)
    assert (bundle.form, bundle.network_file) == ("onnx", bundles["group"] / "model.onnx")
    assert by_run.labels == bundle.labels == ("high", "low")
    assert by_run.window_seconds == bundle.window_seconds == 10.0
    assert (by_run.sample_rate, by_run.normalise) == (bundle.sample_rate, bundle.normalise) == (16_000, True)


def test_a_path_without_a_model_is_refused(predict_refusal: Callable[[Path], str], cries: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    recording = cries / "high" / "baby-00-0.wav"
    assert f"{tmp_path}/nowhere does not exist" in predict_refusal(tmp_path / "nowhere")
    assert f"{recording} is a file" in predict_refusal(recording)
    assert str(empty) in predict_refusal(empty)


def test_a_bare_backbone_is_no_classifier(predict_refusal: Callable[[Path], str], backbones: dict[str, Path]) -> None:
    message = predict_refusal(backbones["layer"])
    assert str(backbones["layer"]) in message
    assert "backbone" in message


def test_an_unfinished_run_says_how_to_finish_it(
    predict_refusal: Callable[[Path], str], runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["layer"], run, ignore=shutil.ignore_patterns("model"))
    message = predict_refusal(run)
    assert str(run) in message
    assert "--resume" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "hubert"},
        {"model_type": "crycli_whisper"},
        {"layer_mode": "first"},
        {"model_type": None},
        {"problem_type": "regression"},
        {"id2label": None},
        {"id2label": {}},
        {"id2label": {"0": "a", "2": "b"}},
        {"id2label": {"0": "a", "1": "b", "2": "c"}},
        {"id2label": ["a", "b"]},
        {"window_seconds": None},
        {"window_seconds": "long"},
        {"window_seconds": 0},
        {"window_seconds": -3.0},
        {"pooling_mode": "median"},
        {"hidden_size": 48},
        {"hidden_size": "wide"},
    ],
    ids=str,
)
def test_a_config_json_that_fits_no_classifier_is_refused(
    changes: dict[str, object], folder: Path, predict_refusal: Callable[[Path], str]
) -> None:
    edit(folder / "config.json", **changes)
    assert str(folder) in predict_refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00"])
def test_a_damaged_json_file_is_refused_by_name(
    name: str, content: bytes, folder: Path, predict_refusal: Callable[[Path], str]
) -> None:
    (folder / name).write_bytes(content)
    assert f"{folder}/{name}" in predict_refusal(folder)


@pytest.mark.parametrize("changes", [{"sampling_rate": "fast"}, {"sampling_rate": 0}, {"sampling_rate": -1}], ids=str)
def test_a_preprocessor_that_makes_no_sense_is_refused(
    changes: dict[str, object], folder: Path, predict_refusal: Callable[[Path], str]
) -> None:
    edit(folder / "preprocessor_config.json", **changes)
    assert f"{folder}/preprocessor_config.json" in predict_refusal(folder)


def test_a_missing_file_is_refused_by_name(folder: Path, predict_refusal: Callable[[Path], str]) -> None:
    (folder / "preprocessor_config.json").unlink()
    assert f"{folder}/preprocessor_config.json" in predict_refusal(folder)


def test_missing_weights_are_refused(folder: Path, predict_refusal: Callable[[Path], str]) -> None:
    (folder / "model.safetensors").unlink()
    message = predict_refusal(folder)
    assert str(folder) in message
    assert "model.safetensors" in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(share: float, folder: Path, predict_refusal: Callable[[Path], str]) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: int(len(whole) * share)])
    assert str(folder) in predict_refusal(folder)


def test_weights_that_are_something_else_are_refused(folder: Path, predict_refusal: Callable[[Path], str]) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights at all " * 100)
    assert str(folder) in predict_refusal(folder)


@pytest.mark.parametrize("name", ["wav2vec2.encoder.layers.1.attention.k_proj.weight", "classifier.out_proj.bias"])
def test_a_classifier_that_lacks_a_tensor_is_refused(
    name: str, folder: Path, predict_refusal: Callable[[Path], str]
) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = predict_refusal(folder)
    assert str(folder) in message
    assert name in message


def test_a_classifier_with_a_tensor_of_another_shape_is_refused(
    folder: Path, predict_refusal: Callable[[Path], str]
) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.dense.weight"] = torch.zeros(7, 7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "classifier.dense.weight" in predict_refusal(folder)


def test_a_trained_folder_with_a_pickle_alone_is_refused_unopened(
    folder: Path, predict_refusal: Callable[[Path], str]
) -> None:
    torch.save({**load_file(folder / "model.safetensors"), "x": Trap(folder / "sprung")}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert str(folder) in predict_refusal(folder)
    assert not (folder / "sprung").exists()


def test_a_hostile_pickle_in_a_backbone_runs_no_code(backbone: Path, train_refusal: Callable[..., str]) -> None:
    content = {**load_file(backbone / "model.safetensors"), "x": Trap(backbone / "sprung")}
    torch.save(content, backbone / "pytorch_model.bin")
    (backbone / "model.safetensors").unlink()
    assert str(backbone) in train_refusal(backbone)
    assert not (backbone / "sprung").exists()


def test_a_backbone_that_lacks_a_tensor_is_refused(backbone: Path, train_refusal: Callable[..., str]) -> None:
    weights = load_file(backbone / "model.safetensors")
    del weights["encoder.layers.0.attention.k_proj.weight"]
    save_file(weights, backbone / "model.safetensors", metadata={"format": "pt"})
    message = train_refusal(backbone)
    assert str(backbone) in message
    assert "encoder.layers.0.attention.k_proj.weight" in message


@pytest.mark.parametrize("content", [b"", b"damaged" * 50])
def test_a_backbone_with_damaged_weights_is_refused(
    content: bytes, backbone: Path, train_refusal: Callable[..., str]
) -> None:
    (backbone / "model.safetensors").unlink()
    (backbone / "pytorch_model.bin").write_bytes(content)
    assert str(backbone) in train_refusal(backbone)


def test_a_backbone_with_a_damaged_preprocessor_is_refused(backbone: Path, train_refusal: Callable[..., str]) -> None:
    (backbone / "preprocessor_config.json").write_text("{")
    assert f"{backbone}/preprocessor_config.json" in train_refusal(backbone)


def test_what_is_no_backbone_is_refused(
    backbone: Path, cries: Path, tmp_path: Path, train_refusal: Callable[..., str]
) -> None:
    assert "mini nor mini-random" in train_refusal("minni")
    assert str(tmp_path / "nowhere") in train_refusal(tmp_path / "nowhere")
    assert str(cries) in train_refusal(cries)
    edit(backbone / "config.json", model_type="whisper")
    assert "whisper" in train_refusal(backbone)


def test_augmentation_that_cannot_be_done_is_refused_before_a_folder_is_claimed(
    train_refusal: Callable[..., str], tmp_path: Path
) -> None:
    message = train_refusal("mini", "--set", f"augment.background={tmp_path / 'nowhere'}")
    assert f"augment.background: no folder {tmp_path / 'nowhere'}" in message


@pytest.mark.parametrize(("setting", "reason"), [("add_adapter", "adapter"), ("conv_pos_batch_norm", "batch norm")])
def test_a_backbone_that_mixes_padding_in_is_refused(
    setting: str, reason: str, backbone: Path, train_refusal: Callable[..., str]
) -> None:
    edit(backbone / "config.json", **{setting: True})
    message = train_refusal(backbone)
    assert str(backbone) in message
    assert reason in message


def test_the_families_are_known_without_importing_torch() -> None:
    assert set(BACKBONES) == set(FAMILIES)


@pytest.mark.parametrize(("family", "norm"), KINDS)
def test_a_backbone_of_any_family_becomes_a_classifier(family: str, norm: str, tmp_path: Path) -> None:
    backbone, run = tmp_path / "backbone", tmp_path / "run"
    kind = getattr(transformers, PLAIN[family][0])
    plain = kind(kind.config_class(**architecture(family, norm)))
    plain.save_pretrained(backbone)
    config = settings(f"model.backbone={backbone}", "model.pooling=attention", "model.layers=weighted")
    model = build_model(config, locate_backbone(config), ["a", "b"])
    assert isinstance(model, FAMILIES[family])
    assert (model.config.pooling_mode, model.config.layer_mode) == ("attention", "weighted")
    kept = model.backbone.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in plain.state_dict().items())
    with pytest.raises(CheckpointError, match=f"bare {family} backbone"):
        find_classifier(str(backbone))
    save_model_folder(model, load_feature_extractor(backbone), run / "model")
    found = find_classifier(str(run))
    assert found.labels == ("a", "b")
    loaded = load_model(found.folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    plainly = settings(f"model.backbone={backbone}")
    assert build_model(plainly, backbone, ["a", "b"]).config.pooling_mode == "mean"
    again = build_model(config, locate_backbone(settings(f"model.backbone={run}")), ["c", "d", "e"])
    assert all(torch.equal(again.backbone.state_dict()[name], kept[name]) for name in kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_made_without_masks_can_be_trained_with_them(family: str, tmp_path: Path) -> None:
    kind = getattr(transformers, PLAIN[family][0])
    plain = kind(kind.config_class(**architecture(family), mask_time_prob=0.0))
    plain.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("masked_spec_embed", None)  # unispeech-sat has it in any case
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = settings(f"model.backbone={tmp_path}", "augment.time_mask=0.3")
    masks = [build_model(config, tmp_path, ["a", "b"]).backbone.masked_spec_embed for _ in range(2)]
    assert torch.equal(*masks)  # from the seed
    assert 0 <= masks[0].min() < 0.5 < masks[0].max() <= 1


@pytest.mark.parametrize(
    ("own", "wanted", "time", "feature"),
    [
        ({}, (), 0.05, 0.0),
        ({"mask_time_prob": 0.2, "mask_feature_prob": 0.1}, (), 0.2, 0.1),
        ({"mask_time_prob": 0.2, "mask_feature_prob": 0.1}, ("augment.time_mask=0.0",), 0.0, 0.1),
        ({"mask_time_prob": 0.2}, ("augment.time_mask=0.4", "augment.feature_mask=0.3"), 0.4, 0.3),
        ({"apply_spec_augment": False}, (), 0.0, 0.0),
        ({"apply_spec_augment": False}, ("augment.feature_mask=0.3",), 0.0, 0.3),
        ({"apply_spec_augment": False}, ("augment.time_mask=0.3",), 0.3, 0.0),
    ],
)
@pytest.mark.parametrize("family", ["wav2vec2", "data2vec-audio"])
def test_masks_are_the_wanted_ones_and_otherwise_the_backbones_own(
    family: str, own: dict[str, Any], wanted: tuple[str, ...], time: float, feature: float, tmp_path: Path
) -> None:
    kind = getattr(transformers, PLAIN[family][0])
    kind(kind.config_class(**architecture(family))).save_pretrained(tmp_path)
    edit(tmp_path / "config.json", **own)
    found = build_model(settings(f"model.backbone={tmp_path}", *wanted), tmp_path, ["a", "b"]).config
    applied = getattr(found, "apply_spec_augment", True)
    assert (found.mask_time_prob * applied, found.mask_feature_prob * applied) == (time, feature)


def test_a_wanted_share_of_masked_frames_is_the_share_that_is_masked(backbone: Path) -> None:
    config = settings(f"model.backbone={backbone}", "augment.time_mask=0.1")
    model = build_model(config, backbone, ["a", "b"]).train()
    seen: list[torch.Tensor] = []
    model.backbone.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    np.random.seed(0)
    for _ in range(150):
        model(torch.randn(1, 16_000))
    masked = (torch.cat(seen) == model.backbone.masked_spec_embed).all(dim=-1)
    assert 0.08 < masked.float().mean() < 0.12  # two spans at least, as by default, would be 0.37


def test_masks_fit_into_the_shortest_clip_and_into_the_features(backbone: Path) -> None:
    edit(backbone / "config.json", mask_time_length=64, mask_feature_length=64)
    config = settings(f"model.backbone={backbone}", "data.min_seconds=0.25", "augment.feature_mask=0.9")
    model = build_model(config, backbone, ["a", "b"]).train()
    for _ in range(5):
        model(torch.randn(2, 4_000))
    assert (model.config.mask_time_length, model.config.mask_feature_length) == (12, 32)


def test_a_cross_validation_names_its_folds(predict_refusal: Callable[[Path], str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "fold-1").mkdir(parents=True)
    write_json(run / "folds.json", {})
    assert f"{run} is a cross-validation: give one of its folds, such as {run}/fold-1" in predict_refusal(run)


def test_a_half_precision_checkpoint_is_loaded_as_float32(folder: Path, tmp_path: Path) -> None:
    whole = load_model(folder)
    whole.half().save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = load_model(folder).state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[name], stored[name].float()) for name in stored)


def test_a_half_precision_backbone_is_trained_in_float32(backbone: Path) -> None:
    Wav2Vec2Model.from_pretrained(backbone).to(torch.bfloat16).save_pretrained(backbone)
    model = build_model(settings(f"model.backbone={backbone}"), backbone, ["a", "b"])
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_mini_has_at_most_a_million_and_a_half_weights() -> None:
    model = build_model(settings("model.backbone=mini-random"), None, ["a", "b"])
    assert 300_000 < sum(weight.numel() for weight in model.parameters()) <= 1_500_000


def test_the_seed_decides_the_starting_weights(backbones: dict[str, Path]) -> None:
    def start(folder: Path | None, seed: int) -> dict[str, torch.Tensor]:
        name = "mini-random" if folder is None else str(folder)
        torch.rand(seed + 7)  # what was drawn before does not matter
        config = settings(f"model.backbone={name}", f"train.seed={seed}")
        return build_model(config, folder, ["a", "b"]).state_dict()

    for folder in (None, backbones["layer"]):
        first, again, other = start(folder, 1), start(folder, 1), start(folder, 2)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["classifier.out_proj.weight"], other["classifier.out_proj.weight"])
        same = torch.equal(
            first["wav2vec2.feature_projection.projection.weight"],
            other["wav2vec2.feature_projection.projection.weight"],
        )
        assert same == (folder is not None)


def test_the_shortest_clip_makes_a_frame_at_the_highest_speed(runs: dict[str, Path]) -> None:
    about = json.loads((runs["layer"] / "model" / "config.json").read_text())
    model = load_model(runs["layer"] / "model")
    for speed in (1.0, 1.01, 1.04, 1.4):
        samples = shortest_clip(about | {"speeds": [0.96, speed]})
        clip = torch.ones(1, samples)
        assert model.count_frames(int(play(clip, clip.long(), speed)[1].sum())) >= 1
        assert samples <= shortest_clip(about) * speed + 1


def test_a_kept_head_goes_on_at_the_speeds_of_its_model_and_a_new_one_does_not(tmp_path: Path) -> None:
    at_two = settings("model.backbone=mini-random", "model.speeds=[0.9, 1.1]")
    save_model_folder(build_model(at_two, None, ["a", "b"]), load_feature_extractor(None), tmp_path / "model")
    for more, speeds in (
        ((), [1.0]),
        (("model.keep_head=true",), [0.9, 1.1]),
        (("model.keep_head=true", "model.speeds=[1.0]"), [1.0]),
    ):
        config = settings(f"model.backbone={tmp_path}/model", "model.pooling=statistics", *more)
        assert list(build_model(config, locate_backbone(config), ["a", "b"]).config.speeds) == speeds


def test_a_kept_head_may_be_trained_with_masks_that_its_model_was_made_without(tmp_path: Path) -> None:
    plain = settings("model.backbone=mini-random", "augment.time_mask=0", "augment.feature_mask=0")
    save_model_folder(build_model(plain, None, ["a", "b"]), load_feature_extractor(None), tmp_path / "model")
    kept = (f"model.backbone={tmp_path}/model", "model.pooling=statistics", "model.keep_head=true")
    masked = settings(*kept, "augment.time_mask=0.2")
    model = build_model(masked, locate_backbone(masked), ["a", "b"])
    assert model.backbone.masked_spec_embed is not None
    assert torch.equal(model.classifier.dense.weight, load_model(tmp_path / "model").classifier.dense.weight)


@pytest.mark.parametrize("labels", [["high", "low"], ["a", "b", "c"]])
def test_a_trained_run_serves_as_backbone_for_other_labels(labels: list[str], runs: dict[str, Path]) -> None:
    config = settings(f"model.backbone={runs['layer']}", "model.pooling=max", "model.final_dropout=0.3")
    model = build_model(config, locate_backbone(config), labels)
    earlier, now = load_model(runs["layer"] / "model").state_dict(), model.state_dict()
    assert all(torch.equal(now[name], earlier[name]) for name in earlier if name.startswith("wav2vec2."))
    assert now["classifier.out_proj.weight"].shape[0] == len(labels)
    assert not torch.equal(now["classifier.dense.weight"], earlier["classifier.dense.weight"])
    assert list(model.config.id2label.values()) == labels
    assert (model.config.pooling_mode, model.classifier.dropout.p) == ("max", 0.3)


@pytest.mark.parametrize("options", [(), ("--set", "offline=true")])
def test_offline_an_unknown_hub_name_says_what_to_do(
    options: tuple[str, ...], train_refusal: Callable[..., str]
) -> None:
    message = train_refusal("nobody/no-such-model", *options)
    assert "nobody/no-such-model" in message
    assert "offline" in message
    assert "download it" in message


def test_offline_an_unknown_hub_name_is_no_classifier(predict_refusal: Callable[[Path], str]) -> None:
    assert "nobody/no-such-model" in predict_refusal(Path("nobody/no-such-model"))


def test_a_hub_that_never_answers_is_given_up_within_five_seconds(silent_hub: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FETCH], capture_output=True, text=True, timeout=60, env=online(silent_hub)
    )
    assert done.returncode == 0, done.stderr
    seconds, _, message = done.stdout.strip().partition(" ")
    assert float(seconds) < 5.0, done
    assert "nobody/no-such-model" in message
    assert "download it" in message
    assert done.stdout.count("\n") == 1


def test_training_from_a_hub_out_of_reach_ends_soon_with_one_line(
    process: Callable[..., Outcome], data: Path, tmp_path: Path, silent_hub: str
) -> None:
    started = time.monotonic()
    done = process("-q", "train", data, "-o", tmp_path / "run", env=online(silent_hub))
    assert time.monotonic() - started < 20  # the imports of a busy machine among them
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("error: no folder facebook/wav2vec2-base-100k-voxpopuli")
    assert done.err.count("\n") == 1


def test_a_backbone_in_the_local_cache_is_used_without_a_network(backbones: dict[str, Path]) -> None:
    cache("someone/backbone", backbones["layer"])
    config = settings("model.backbone=someone/backbone", "offline=true")
    found = locate_backbone(config)
    model = build_model(config, found, ["a", "b"])
    plain = load_file(backbones["layer"] / "model.safetensors")
    assert all(torch.equal(model.wav2vec2.state_dict()[name], plain[name]) for name in plain)


def test_a_classifier_in_the_local_cache_is_used_without_a_network(runs: dict[str, Path]) -> None:
    cache("someone/classifier", runs["layer"] / "model")
    assert find_classifier("someone/classifier", offline=True).labels == ("high", "low")


def test_half_a_download_in_the_local_cache_is_not_taken_for_a_model(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(backbones["layer"], tmp_path / "half", ignore=shutil.ignore_patterns("*.safetensors"))
    cache("someone/half", tmp_path / "half")
    with pytest.raises(CheckpointError, match="someone/half"):
        fetch("someone/half", offline=True)
