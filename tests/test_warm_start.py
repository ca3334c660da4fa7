"""Recipes: the training that the detector starts from, on a few synthetic cries."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from conftest import settings, write_cries
from safetensors.torch import load_file

from crycli import audio
from crycli.checkpoint import build_model
from crycli.manifest import Clip
from crycli.prepare import prepare_dataset_csv

RECIPES = Path(__file__).parent.parent / "recipes"
CONFIG = (
    "data: {max_seconds: 4.0}\nmodel: {pooling: statistics}\nworkers: 2\n"
    "augment: {probability: 0.5, equaliser_db: 6, noise_snr_db: [5, 40]}\n"
)
CRIES = 30  # they take longer than processes take to start, and two do


def recipe(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def hearing() -> ModuleType:
    return recipe("hearing")


@pytest.fixture(scope="module")
def distillation() -> ModuleType:
    return recipe("distillation")


@pytest.fixture(scope="module")
def warm_start() -> ModuleType:
    return recipe("warm_start")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests with the detector's labels in data/, more cries in cries/, and a configuration."""
    folder = tmp_path_factory.mktemp("nursery")
    write_cries(folder / "sounds", babies=6, labels={"cry": 500.0, "not_cry": 120.0})
    prepare_dataset_csv([folder / "sounds"], folder / "data", settings(r"data.group_by=baby-\d+"))
    (folder / "cries").mkdir()
    for number in range(CRIES):
        samples = np.sin(np.arange(64_000) * (0.2 + 0.01 * number)).astype(np.float32)
        soundfile.write(folder / "cries" / f"cry-{number}.flac", 0.5 * samples, 16_000)
    (folder / "recipe.yaml").write_text(CONFIG)
    return folder


def start(nursery: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, RECIPES / "warm_start.py", nursery / "data", "-o", output]
    command += ["-c", nursery / "recipe.yaml", "--steps", "12", *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Silent(torch.nn.Module):
    """In place of a context that adds nothing."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(hidden)


def test_what_it_trains_is_what_the_network_answers(hearing: ModuleType) -> None:
    config = settings("model.backbone=mini-random", "model.pooling=statistics")
    model = build_model(config, None, ["cry", "not_cry"]).eval()
    generator = np.random.default_rng(0)
    lengths = [32_000, 20_000, 8_000]
    clips = [audio.normalise(generator.standard_normal(length).astype(np.float32)) for length in lengths]
    values = torch.from_numpy(np.stack([np.pad(clip, (0, max(lengths) - len(clip))) for clip in clips]))
    mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()
    frozen = model.backbone.feature_extractor.conv_layers[: hearing.FROZEN]
    heard = torch.zeros(3, model.count_frames(max(lengths), hearing.FROZEN), frozen[-1].conv.out_channels)
    with torch.no_grad():
        whole = model(values, attention_mask=mask).logits
        for row, clip in zip(heard, clips, strict=True):
            hidden = torch.from_numpy(clip)[None, None]
            for layer in frozen:
                hidden = layer(hidden)
            row[: hidden.shape[2]] = hidden[0].T
        behind = hearing.behind_the_frozen(model, heard, torch.tensor(lengths))
        alone = hearing.behind_the_frozen(model, heard, torch.tensor(lengths), context=False)
        model.backbone.encoder.pos_conv_embed = Silent()
        without_context = model(values, attention_mask=mask).logits
    torch.testing.assert_close(behind, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, without_context, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone, behind, atol=1e-3)


def test_some_of_what_is_drawn_is_cut_to_a_part_around_its_loudest_moment(
    hearing: ModuleType, distillation: ModuleType
) -> None:
    model = build_model(settings("model.backbone=mini-random", "model.pooling=statistics"), None, ["cry", "not_cry"])
    generator = np.random.default_rng(0)
    lengths = np.tile([80_000, 16_000, 6_000], 200)
    frames = model.count_frames(lengths, hearing.FROZEN)
    values = np.zeros((600, frames.max(), 3), np.float32)
    for row, count in enumerate(frames):
        values[row, :count] = generator.uniform(0.1, 0.5, (count, 3))
    loudest = generator.integers(3, frames - 3)
    for away, loudness in enumerate((50.0, 20.0, 20.0, 20.0)):
        values[np.arange(600), loudest - away] = values[np.arange(600), loudest + away] = loudness
    given = values.copy()
    parts, samples = distillation._shorten(model, values, lengths, generator)
    np.testing.assert_array_equal(values, given)
    changed = samples != lengths
    assert 0.2 < changed[::3].mean() < 0.4
    assert 0.0 < changed[1::3].mean() < 0.1  # of 1 s: few draws are shorter
    assert not changed[2::3].any()  # shorter than any part
    np.testing.assert_array_equal(parts[~changed], values[~changed])
    for row in np.flatnonzero(changed):
        assert 8_000 <= samples[row] <= 64_000
        kept = model.count_frames(int(samples[row]), hearing.FROZEN)
        at = int(parts[row, :, 0].argmax())
        assert parts[row, at, 0] == 50.0
        np.testing.assert_array_equal(parts[row, :kept], values[row, loudest[row] - at :][:kept])
        assert not parts[row, kept:].any()


def test_clips_are_drawn_whole_where_no_parts_are_asked_for(hearing: ModuleType, distillation: ModuleType) -> None:
    model = build_model(settings("model.backbone=mini-random", "model.pooling=statistics"), None, ["cry", "not_cry"])
    features = np.ones((4, 1, model.count_frames(64_000, hearing.FROZEN), 2), np.float16)
    material = distillation.Material(features, np.full((4, 1), 64_000), np.array([0, 1] * 2), np.zeros(4, bool))
    whole, some = (distillation._Batches(model, material, 0, parts).draw() for parts in (False, True))
    assert (whole.lengths == 64_000).all()
    assert (whole.values == 1.0).all()
    assert (some.lengths < 64_000).any()
    assert whole.truth.tolist() == [0] * 32 + [1] * 32


def test_the_last_network_learns_the_teachers_mean_answer_and_no_label(
    distillation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "AVERAGED", 0.5)
    model = build_model(settings("model.backbone=mini-random", "model.pooling=statistics"), None, ["cry", "not_cry"])
    channels = model.backbone.feature_extractor.conv_layers[distillation.FROZEN - 1].conv.out_channels
    frames = model.count_frames(16_000, distillation.FROZEN)
    features = np.random.default_rng(0).uniform(0.0, 1.0, (8, 1, frames, channels)).astype(np.float16)
    truth = np.array([0, 1] * 4)
    material = distillation.Material(features, np.full((8, 1), 16_000), truth, np.zeros(8, bool))
    teachers = [
        lambda values, _: torch.tensor([4.0, 0.0]).expand(len(values), 2),
        lambda values, _: torch.tensor([0.0, 2.0]).expand(len(values), 2),
    ]
    model = distillation._train(model, material, 0, 60, 0, teachers=teachers)
    heard = torch.from_numpy(features[:, 0].astype(np.float32))
    with torch.no_grad():
        said = distillation.behind_the_frozen(model, heard, torch.full((8,), 16_000)).softmax(-1)
    expected = 1.0 / (1.0 + np.exp(-1.0))  # (4 - 2) / 2 between the two
    torch.testing.assert_close(said[:, 0], torch.full((8,), expected, dtype=said.dtype), atol=0.05, rtol=0.0)


def test_laughter_and_what_is_made_like_the_synthesised_cries_is_drawn_more_often(warm_start: ModuleType) -> None:
    made, recorded = "synthetic", "voices"
    kinds = [
        ("laughter", recorded),
        ("laughter", made),
        ("voice", made),
        ("voice", recorded),
        ("music", made),
        ("", ""),
    ]
    clips = [Clip(Path("x"), "not_cry", "g", corpus=corpus, extra={"kind": kind}) for kind, corpus in kinds]
    assert warm_start._are_often(clips).tolist() == [True, True, True, False, False, False]
    assert warm_start._are_often([Clip(Path("x"), "cry", "g")]).tolist() == [False]


def test_it_learns_from_the_training_part_and_more_cries_and_the_same_twice(nursery: Path, tmp_path: Path) -> None:
    more = ("--cries", str(nursery / "cries"), "--heard", str(tmp_path / "heard.npz"))
    done = start(nursery, tmp_path / "one", *more)
    assert (done.returncode, "left out" in done.stdout) == (0, False), done.stderr
    with np.load(tmp_path / "heard.npz") as kept:
        assert kept["features"].shape[:2] == (24 + CRIES, 5)
    again = start(nursery, tmp_path / "two", *more)
    assert "heard" in done.stdout
    assert "heard" not in again.stdout
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    random = build_model(settings("model.backbone=mini-random", "model.pooling=statistics"), None, ["cry", "not_cry"])
    frozen = [name for name in one if re.search(r"conv_layers\.[01]\.", name)]
    assert len(frozen) == 8
    assert all(torch.equal(one[name], random.state_dict()[name]) for name in frozen)
    for learnt in ("wav2vec2.feature_extractor.conv_layers.2.conv.weight", "classifier.dense.weight"):
        assert not torch.equal(one[learnt], random.state_dict()[learnt])


def test_it_says_how_well_it_tells_what_it_left_out(nursery: Path, tmp_path: Path) -> None:
    done = start(nursery, tmp_path / "start", "--without", "group=baby-00,baby-05")
    assert done.returncode == 0, done.stderr
    assert "left out: 8 clips, 4 of them cry; AUC " in done.stdout
    assert start(nursery, tmp_path / "start").returncode == 2  # it is there


def test_a_folder_of_cries_that_is_missing_is_named(nursery: Path, tmp_path: Path) -> None:
    done = start(nursery, tmp_path / "start", "--cries", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "nowhere is no folder" in done.stderr
