"""The detector that comes with crycli: it is there, small, safe and one model in both forms, and `mini` starts from it.

How good it is on sounds that it has not heard is measured in benchmarks/detector.py.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, cry, settings, write_cries
from safetensors.torch import load_file, save_file

from crycli.builtin import BUNDLE, DETECTOR, FOLDER, MODEL
from crycli.checkpoint import build_model, find_classifier, load_model, locate_backbone, read_json
from crycli.errors import CheckpointError, ConfigError
from crycli.inference import load_predictor
from crycli.inputs import find_inputs
from crycli.mini import MINI_ARCHITECTURE, initialise
from crycli.networks import onnx_network, torch_network
from crycli.prepare import prepare_dataset_csv
from crycli.training import train

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|mnt|srv|var|opt|Users|private|content)/|[A-Z]:\\\\?\w")
"""How paths begin that only one machine has."""
ABOUT = "Model: the built-in detector (cry or not_cry), not a medical device; -m takes another.\n"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of synthetic sounds with the detector's labels. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("nursery")
    write_cries(folder / "sounds", babies=4, labels={"cry": 500.0, "not_cry": 120.0})
    prepare_dataset_csv([folder / "sounds"], folder, settings(r"data.group_by=baby-\d+"), force=True)
    return folder


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Let the weights that `mini` starts from be a little other ones, as in another version of crycli."""

    def change() -> None:
        folder = Path(shutil.copytree(MODEL, tmp_path / "another-version" / "model"))
        weights = load_file(folder / "model.safetensors")
        save_file(
            {name: tensor * 1.01 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
        )
        monkeypatch.setattr("crycli.checkpoint.MODEL", folder)

    return change


def test_it_has_its_two_labels_and_is_small_and_holds_no_code() -> None:
    for folder in (MODEL, BUNDLE):
        assert find_classifier(str(folder)).labels == ("cry", "not_cry")
    weights = load_file(MODEL / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) <= 2_000_000
    assert sum(path.stat().st_size for path in FILES) <= 8_000_000
    assert {path.suffix for path in FILES} <= {".safetensors", ".onnx", ".json", ".md"}
    needed = {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"}
    assert needed <= {path.name for path in MODEL.iterdir()}


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix in (".json", ".md")], ids=lambda path: path.name
)
def test_no_file_of_it_names_a_path_of_a_machine(path: Path) -> None:
    assert OF_A_MACHINE.findall("see /home/anna/x and C:\\Users and https://a.b/home/x") == ["/home/", "C:\\U"]
    assert OF_A_MACHINE.findall(path.read_text(encoding="utf-8")) == []


def test_its_architecture_is_the_one_of_mini() -> None:
    stored = read_json(MODEL / "config.json")
    sizes = {name: value for name, value in MINI_ARCHITECTURE.items() if not re.search("mask|drop|initializer", name)}
    assert len(sizes) >= 10
    assert {name: stored[name] for name in sizes} == json.loads(json.dumps(sizes))


def test_both_forms_of_it_give_the_same_answers() -> None:
    generator = np.random.default_rng(0)
    bundle = onnx_network(BUNDLE / "model.onnx", find_classifier(str(BUNDLE)))
    model = torch_network(MODEL, "cpu")
    for length in (4_000, 16_000, 64_000):
        for samples in (cry(450.0, length / 16_000), generator.standard_normal(length).astype(np.float32)):
            values = ((samples - samples.mean()) / samples.std())[None]
            mask = np.ones(values.shape, np.int64)
            for one, other in zip(bundle(values, mask), model(values, mask), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)
    kept = [
        read_json(folder / "calibration.json") for folder in (MODEL, BUNDLE) if (folder / "calibration.json").exists()
    ]
    assert kept in ([], [kept[0], kept[0]])


def test_predict_without_a_model_asks_it_and_says_so(
    crycli: Callable[..., Outcome], cries: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = crycli("predict", cries / "high")
    assert (done.code, done.err) == (0, ABOUT)
    found = rows(done.out)
    assert len(found) == 16
    assert all(float(row["p_cry"]) + float(row["p_not_cry"]) == pytest.approx(1.0, abs=2e-6) for row in found)
    assert {row["label"] for row in found} <= {"cry", "not_cry"}
    for given in (("-q", "predict", cries / "high"), ("predict", cries / "high", "-m", DETECTOR)):
        again = crycli(*given)
        assert (again.code, again.err, again.out) == (0, "", done.out)


def test_a_folder_of_its_name_is_told_from_it(
    crycli: Callable[..., Outcome], cries: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "detector").symlink_to(runs["layer"])
    clip = cries / "high" / "baby-00-0.wav"
    own = crycli("predict", clip, "-m", "./detector")
    assert (own.code, own.err) == (0, f"loading {Path('detector/model')} ...\n")
    assert list(rows(own.out)[0])[-2:] == ["p_high", "p_low"]
    named = crycli("predict", clip, "-m", "detector")
    assert named.err == "warning: detector is the detector that comes with crycli: the folder here is ./detector\n"
    assert list(rows(named.out)[0])[-2:] == ["p_cry", "p_not_cry"]
    assert crycli("predict", clip).err == ABOUT


def test_it_is_evaluated_and_exported_by_its_name(
    crycli: Callable[..., Outcome], nursery: Path, tmp_path: Path
) -> None:
    report, bundle = tmp_path / "report", tmp_path / "bundle"
    brief = ["--set", "eval.draws=100", "--set", "eval.baselines=false", "--set", "eval.examples=0"]
    assert crycli("-q", "eval", DETECTOR, nursery, "-o", report, *brief).code == 0
    scored = rows((report / "predictions.csv").read_text())
    predictor = load_predictor(DETECTOR)
    for row, answer in zip(scored, predictor.predict(find_inputs([nursery / "test.csv"])), strict=True):
        assert (float(row["p_cry"]), float(row["p_not_cry"])) == pytest.approx(answer.probabilities, abs=1e-6)
    wanted = ("predict.window=3", "predict.hop=1", "predict.event_onset=0.6", "predict.combine=max")
    assert (
        crycli("-q", "export", DETECTOR, "-o", bundle, *(part for item in wanted for part in ("--set", item))).code == 0
    )
    exported, asked = load_predictor(str(bundle)).policy, load_predictor(DETECTOR, settings(*wanted)).policy
    assert (exported.window_seconds, exported.hop_seconds, exported.combine) == (3.0, 1.0, "max")
    assert (exported.events.labels, exported.events.onset) == (("cry",), 0.6)
    assert exported.combine == asked.combine


def test_training_from_its_name_is_refused_with_what_to_write(
    crycli: Callable[..., Outcome], data: Path, tmp_path: Path
) -> None:
    done = crycli("train", data, "-o", tmp_path / "run", "--backbone", DETECTOR)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "write mini" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pooling", "layers"),
    list(product(["mean", "sum", "max", "attention", "mean_std", "statistics"], ["last", "weighted"])),
)
def test_mini_starts_from_its_weights_whatever_its_head_is(pooling: str, layers: str) -> None:
    config = settings("model.backbone=mini", f"model.pooling={pooling}", f"model.layers={layers}")
    model = build_model(config, locate_backbone(config), ["a", "b", "c"])
    assert same(model.backbone.state_dict(), load_model(MODEL).backbone.state_dict())
    assert list(model.config.id2label.values()) == ["a", "b", "c"]
    assert model(torch.randn(2, 8_000)).logits.shape == (2, 3)


@pytest.mark.parametrize("backbone", ["mini", "mini-random"])
def test_both_minis_pool_as_the_detector_does_unless_told_otherwise(backbone: str) -> None:
    for told, mode in ((), "statistics"), (("model.pooling=mean",), "mean"):
        config = settings(f"model.backbone={backbone}", *told)
        assert build_model(config, locate_backbone(config), ["a", "b"]).config.pooling_mode == mode


def test_its_head_can_be_kept_whatever_the_order_of_the_labels() -> None:
    settings_of_it = ("model.backbone=mini", "model.keep_head=true")
    sound = torch.randn(2, 8_000)
    with torch.no_grad():
        expected = load_model(MODEL)(sound).logits
        for labels in (["cry", "not_cry"], ["not_cry", "cry"]):
            config = settings(*settings_of_it)
            model = build_model(config, locate_backbone(config), labels).eval()
            assert list(model.config.id2label.values()) == labels
            order = [("cry", "not_cry").index(label) for label in labels]
            torch.testing.assert_close(model(sound).logits, expected[:, order])


@pytest.mark.parametrize(
    ("assignments", "labels", "words"),
    [
        ((), ["hungry", "tired"], "tells cry, not_cry apart, and the data bear hungry, tired"),
        (("model.pooling=mean",), ["cry", "not_cry"], "made with model.pooling=statistics: set it"),
        (("model.layers=weighted",), ["cry", "not_cry"], "made with model.layers=last: set it"),
        (("model.backbone=mini-random",), ["cry", "not_cry"], "mini-random has no head"),
    ],
)
def test_a_head_that_cannot_be_kept_is_refused_with_the_reason(
    assignments: Sequence[str], labels: list[str], words: str
) -> None:
    config = settings("model.backbone=mini", "model.keep_head=true", *assignments)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        build_model(config, locate_backbone(config), labels)


def test_mini_random_starts_from_scratch() -> None:
    config = settings("model.backbone=mini-random")
    assert locate_backbone(config) is None
    model = build_model(config, None, ["a", "b"])
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    initialise(model.backbone)
    assert same(before, model.backbone.state_dict())
    trained = load_model(MODEL).backbone.state_dict()
    assert before.keys() - {"masked_spec_embed"} == trained.keys()  # the detector was trained without masks
    assert not same(before, trained)


def test_a_run_from_mini_is_a_complete_model_that_needs_no_detector(
    crycli: Callable[..., Outcome], data: Path, cries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert crycli("-q", "train", data, "-o", run, "--backbone", "mini", "--epochs", "1").code == 0
    names = {path.name for path in (run / "model").iterdir()}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md", "model.py"} <= names
    card = (run / "model" / "README.md").read_text()
    assert "mini, with the weights of crycli's own cry detector" in card
    for name in names & {"README.md", "config.json"}:
        assert str(FOLDER) not in (run / "model" / name).read_text()
    monkeypatch.setattr("crycli.checkpoint.MODEL", tmp_path / "gone")
    (answer,) = load_predictor(str(run)).predict([cries / "low" / "baby-00-0.wav"])
    assert answer.label in ("high", "low")


def test_a_run_is_not_resumed_from_a_mini_with_other_weights(
    data: Path, tmp_path: Path, elsewhere: Callable[..., None]
) -> None:
    config = settings("model.backbone=mini", "model.freeze=backbone", "train.epochs=1")
    train(data, tmp_path / "run", config)
    train(data, tmp_path / "run", config, resume=True)
    elsewhere()
    with pytest.raises(
        ConfigError, match=r"the weights of mini \(model.backbone\) are not those that it was begun with"
    ):
        train(data, tmp_path / "run", config, resume=True)


def test_what_a_frozen_mini_says_is_computed_anew_with_other_weights(
    data: Path, tmp_path: Path, elsewhere: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    config = settings("model.backbone=mini", "model.freeze=backbone", "train.epochs=1", f"cache={tmp_path / 'cache'}")
    caplog.set_level("INFO", logger="crycli")
    for run, kept in (("first", False), ("second", True), ("third", False)):
        if run == "third":
            elsewhere()
        caplog.clear()
        train(data, tmp_path / run, config)
        assert ("is kept from before" in caplog.text) == kept


def test_a_package_without_its_files_says_where_they_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("crycli.checkpoint.MODEL", tmp_path / "gone")
    with pytest.raises(CheckpointError, match="gone"):
        locate_backbone(settings("model.backbone=mini"))


def test_the_wheel_contains_it(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")  # what pyproject.toml asks for
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    shutil.copytree(ROOT / "crycli", source / "crycli", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for path in FILES:
            assert archive.read(f"crycli/{path.relative_to(FOLDER.parent).as_posix()}") == path.read_bytes()


def answered(recordings: Sequence[Path], label: str) -> float:
    """The share of recordings that get an answer."""
    found = [answer.label for answer in load_predictor(DETECTOR).predict(recordings)]
    return sum(one == label for one in found) / len(found)


@pytest.mark.slow
def test_cries_and_other_sounds_that_it_has_learnt_from_are_told_apart(real_data: Path) -> None:
    """A plausibility check that the files are those of a detector: these recordings are in its training."""
    cries = sorted((real_data / "donateacry").rglob("*.wav"))
    others = sorted(path for path in (real_data / "esc10").rglob("*.ogg") if "Baby cry" not in path.parent.name)
    assert answered(cries[:: len(cries) // 100][:100], "cry") >= 0.9
    assert answered(others, "not_cry") >= 0.9
