"""The network: masked pooling, its loss, what it loads, and what it saves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from conftest import NORMS, TINY, cry
from hypothesis import given, settings, strategies
from safetensors.torch import load_file
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining, Wav2Vec2Model

from crycli.inference import load_predictor
from crycli.model import SpeechClassificationConfig, SpeechClassifierOutput, Wav2Vec2ForSpeechClassification, pool

MODES = ("mean", "sum", "max")
LENGTHS = (16_000, 9_300, 400, 5_555)  # samples; 400 are the fewest that the convolutions take
HEAD = {
    "classifier.dense.weight",
    "classifier.dense.bias",
    "classifier.out_proj.weight",
    "classifier.out_proj.bias",
}
IN_A_CLEAN_PROCESS = """
import json, sys
sys.modules["crycli"] = None  # as where it is not installed
import soundfile
from transformers import pipeline
classify = pipeline("audio-classification", model=sys.argv[1], trust_remote_code=True)
samples, rate = soundfile.read(sys.argv[2], dtype="float32")
print(json.dumps(classify({"raw": samples, "sampling_rate": rate}, top_k=None)))
"""


def network(norm: str = "layer", labels: int = 3, **fields: Any) -> Wav2Vec2ForSpeechClassification:
    """A small network in eval mode, its random head turned up: it answers different clips differently."""
    torch.manual_seed(0)
    config = SpeechClassificationConfig(**TINY, **NORMS[norm], num_labels=labels, **fields)
    model = Wav2Vec2ForSpeechClassification(config)
    with torch.no_grad():
        model.classifier.dense.weight *= 5 if fields.get("pooling_mode") == "sum" else 20
        model.classifier.out_proj.weight *= 50
    return model.eval()


def padded(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cries of so many samples, each normalised, zeros behind them: values and mask, (batch, samples)."""
    values = torch.zeros(len(lengths), max(lengths))
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        samples = torch.from_numpy(cry(200.0 + 150 * row, length / 16_000, seed=row))
        values[row, :length] = (samples - samples.mean()) / samples.std()
        mask[row, :length] = 1
    return values, mask


def furthest_from_alone(model: Wav2Vec2ForSpeechClassification, *, with_mask: bool = True) -> float:
    """The largest difference in any logit between a clip alone and the same clip in a padded batch."""
    values, mask = padded(*LENGTHS)
    with torch.no_grad():
        together = model(values, mask if with_mask else None).logits
        alone = [model(values[row : row + 1, :length]).logits[0] for row, length in enumerate(LENGTHS)]
    return float((together - torch.stack(alone)).abs().max())


@pytest.mark.parametrize("mode", MODES)
@given(lengths=strategies.lists(strategies.integers(1, 9), min_size=1, max_size=5), seed=strategies.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_padding_never_counts_in_any_pooling(mode: str, lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(lengths), max(lengths) + 2, 4, generator=generator)
    valid = torch.arange(hidden.shape[1])[None, :] < torch.tensor(lengths)[:, None]
    hidden[~valid] = 1e6 * (1 - 2 * (seed % 2))  # what lies in the padding, large of either sign
    by_hand = {"mean": lambda clip: clip.mean(0), "sum": lambda clip: clip.sum(0), "max": lambda clip: clip.amax(0)}
    expected = torch.stack([by_hand[mode](hidden[row, :length]) for row, length in enumerate(lengths)])
    torch.testing.assert_close(pool(hidden, valid, mode), expected)


def test_an_unknown_pooling_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="median"):
        pool(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), "median")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", NORMS)
def test_a_clip_gets_the_same_logits_alone_and_in_a_padded_batch(norm: str, mode: str) -> None:
    assert furthest_from_alone(network(norm, pooling_mode=mode)) < 1e-4


def test_the_stock_group_norm_would_give_other_logits_in_a_batch() -> None:
    model = network("group")
    first = model.wav2vec2.feature_extractor.conv_layers[0]
    stock = nn.GroupNorm(first.layer_norm.num_groups, first.layer_norm.num_channels)
    stock.load_state_dict(first.layer_norm.state_dict())
    first.layer_norm = stock
    assert furthest_from_alone(model) > 1e-2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", NORMS)
def test_without_the_mask_the_padding_would_change_the_logits(norm: str, mode: str) -> None:
    assert furthest_from_alone(network(norm, pooling_mode=mode), with_mask=False) > 1e-2


def test_a_mask_of_an_earlier_batch_does_not_linger() -> None:
    model = network("group")
    values, mask = padded(9_000, 3_000)
    with torch.no_grad():
        before = model(values).logits
        model(values, mask)
        assert torch.equal(model(values).logits, before)


@pytest.mark.parametrize(
    ("problem", "labels", "loss"),
    [
        ("single_label_classification", torch.tensor([2, 0]), nn.functional.cross_entropy),
        (
            "multi_label_classification",
            torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
            nn.functional.binary_cross_entropy_with_logits,
        ),
        ("regression", torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, 1.0]]), nn.functional.mse_loss),
    ],
)
def test_the_loss_is_that_of_the_problem(problem: str, labels: torch.Tensor, loss: Any) -> None:
    output = network(problem_type=problem)(*padded(8_000, 6_000), labels=labels)
    torch.testing.assert_close(output.loss, loss(output.logits, labels))


def test_the_problem_is_inferred_where_the_configuration_names_none() -> None:
    values, mask = padded(8_000, 6_000)
    classes, flags, numbers = torch.tensor([2, 0]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), torch.ones(2)
    single, multi = network()(values, mask, labels=classes), network()(values, mask, labels=flags)
    regression = network(labels=1)(values, mask, labels=numbers)
    torch.testing.assert_close(single.loss, nn.functional.cross_entropy(single.logits, classes))
    torch.testing.assert_close(multi.loss, nn.functional.binary_cross_entropy_with_logits(multi.logits, flags))
    torch.testing.assert_close(regression.loss, nn.functional.mse_loss(regression.logits[:, 0], numbers))


@pytest.mark.parametrize("kind", [Wav2Vec2Model, Wav2Vec2ForPreTraining, Wav2Vec2ForCTC])
def test_any_plain_wav2vec2_checkpoint_loads_with_the_head_alone_missing(kind: Any, tmp_path: Path) -> None:
    plain = kind(Wav2Vec2Config(**TINY, **NORMS["group"]))
    plain.save_pretrained(tmp_path)
    model, report = Wav2Vec2ForSpeechClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == HEAD
    backbone = plain if kind is Wav2Vec2Model else plain.wav2vec2
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(model.wav2vec2.state_dict()[name], tensor), name


def test_a_checkpoint_of_2021_with_old_names_in_pytorch_model_bin_loads(tmp_path: Path) -> None:
    plain = Wav2Vec2Model(Wav2Vec2Config(**TINY, **NORMS["group"]))
    plain.config.save_pretrained(tmp_path)
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = plain.state_dict()
    for new, name in old.items():
        state[f"encoder.pos_conv_embed.conv.{name}"] = state.pop(f"encoder.pos_conv_embed.conv.{new}")
    torch.save(state, tmp_path / "pytorch_model.bin")
    model, report = Wav2Vec2ForSpeechClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == HEAD
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.wav2vec2.state_dict()[name], tensor), name


@pytest.mark.parametrize("norm", NORMS)
def test_a_saved_network_comes_back_bit_for_bit(norm: str, tmp_path: Path) -> None:
    model = network(norm, pooling_mode="max")
    model.save_pretrained(tmp_path)
    loaded = Wav2Vec2ForSpeechClassification.from_pretrained(tmp_path).eval()
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    batch = padded(*LENGTHS)
    with torch.no_grad():
        assert torch.equal(model(*batch).logits, loaded(*batch).logits)


def test_the_saved_configuration_keeps_what_is_ours(tmp_path: Path) -> None:
    network(pooling_mode="sum", window_seconds=4.5, id2label={0: "a", 1: "b", 2: "c"}).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["pooling_mode"], stored["window_seconds"]) == ("sum", 4.5)
    assert stored["model_type"] not in {"wav2vec2", ""}
    loaded = SpeechClassificationConfig.from_pretrained(tmp_path)
    assert (loaded.pooling_mode, loaded.window_seconds, loaded.id2label[2]) == ("sum", 4.5, "c")


def test_a_plain_tuple_is_returned_where_asked_for() -> None:
    model, batch, labels = network(), padded(8_000, 6_000), torch.tensor([0, 1])
    whole = model(*batch, labels=labels)
    loss, logits = model(*batch, labels=labels, return_dict=False)
    assert isinstance(whole, SpeechClassifierOutput)
    assert torch.equal(loss, whole.loss)
    assert torch.equal(logits, whole.logits)
    assert len(model(*batch, return_dict=False)) == 1


def test_hidden_states_and_attentions_are_returned_where_asked_for() -> None:
    output = network()(*padded(8_000), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == TINY["num_hidden_layers"] + 1
    assert network()(*padded(8_000)).hidden_states is None


@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_reaches_every_weight(norm: str) -> None:
    model = network(norm).train()
    model(*padded(16_000, 12_000), labels=torch.tensor([0, 1])).loss.backward()
    untouched = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not untouched


def test_freezing_leaves_the_frozen_weights_without_gradient() -> None:
    for freeze, frozen in {
        "freeze_feature_encoder": "wav2vec2.feature_extractor.",
        "freeze_backbone": "wav2vec2.",
    }.items():
        model = network().train()
        getattr(model, freeze)()
        model(*padded(16_000, 12_000), labels=torch.tensor([0, 1])).loss.backward()
        without = {name for name, weight in model.named_parameters() if weight.grad is None}
        assert without == {name for name, _ in model.named_parameters() if name.startswith(frozen)}


def test_the_shortest_clip_has_400_samples() -> None:
    model = network()
    values, _ = padded(400)
    assert torch.isfinite(model(values).logits).all()
    with pytest.raises((RuntimeError, ValueError)):
        model(values[:, :399])


def test_bfloat16_autocast_gives_nearly_the_same_answers() -> None:
    model, batch = network("group"), padded(*LENGTHS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(*batch).logits.float().softmax(-1)
    with torch.no_grad():
        torch.testing.assert_close(half, model(*batch).logits.softmax(-1), atol=0.1, rtol=0)


def test_a_saved_folder_works_in_the_stock_pipeline_without_crycli(runs: dict[str, Path], tmp_path: Path) -> None:
    recording = tmp_path / "cry.wav"
    soundfile.write(recording, cry(440.0, 1.3), 16_000, subtype="FLOAT")
    model = Wav2Vec2ForSpeechClassification.from_pretrained(runs["group"] / "model")
    with torch.no_grad():
        model.classifier.out_proj.weight *= 100
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes((runs["group"] / "model/preprocessor_config.json").read_bytes())
    command = [sys.executable, "-I", "-c", IN_A_CLEAN_PROCESS, str(folder), str(recording)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = {entry["label"]: entry["score"] for entry in json.loads(done.stdout)}
    predictor = load_predictor(str(folder))
    ours = next(predictor.predict([recording]))
    assert answer == pytest.approx(dict(zip(predictor.labels, ours.probabilities, strict=True)), abs=1e-4)
    assert abs(ours.probabilities[0] - 0.5) > 0.01  # turned up, so that another head would show


def test_a_model_folder_holds_no_pickle(runs: dict[str, Path]) -> None:
    names = {path.name for path in (runs["layer"] / "model").iterdir()}
    assert names == {"config.json", "model.py", "model.safetensors", "preprocessor_config.json"}
    assert load_file(runs["layer"] / "model/model.safetensors").keys() > HEAD
