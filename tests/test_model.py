"""The network: masked pooling, its loss, what it loads, and what it saves; for every family of backbones."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from conftest import NORMS, TINY, cry
from hypothesis import given, settings, strategies
from safetensors.torch import load_file
from scipy.signal import resample_poly
from torch import nn

from crycli.checkpoint import load_feature_extractor
from crycli.inference import load_predictor
from crycli.model import (
    FAMILIES,
    AttentivePooling,
    LayerSum,
    MaskedActivation,
    SpeechClassification,
    SpeechClassificationConfig,
    SpeechClassifierOutput,
    Wav2Vec2ForSpeechClassification,
    play,
    pool,
)

KINDS = [(family, norm) for family in FAMILIES for norm in NORMS if (family, norm) != ("data2vec-audio", "group")]
"""Families, and the norms that their convolutions come with."""
POOLINGS = ("mean", "sum", "max", "attention", "mean_std", "statistics")
LAYERS = ("last", "weighted")
LENGTHS = (9_300, 6_000, 400, 3_555)  # samples; 400 are the fewest that the convolutions take
HEAD = {
    "classifier.dense.weight",
    "classifier.dense.bias",
    "classifier.out_proj.weight",
    "classifier.out_proj.bias",
}
PLAIN = {
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2ForPreTraining", "Wav2Vec2ForCTC"),
    "hubert": ("HubertModel", "HubertForCTC"),
    "wavlm": ("WavLMModel", "WavLMForCTC"),
    "data2vec-audio": ("Data2VecAudioModel", "Data2VecAudioForCTC"),
    "unispeech-sat": ("UniSpeechSatModel", "UniSpeechSatForPreTraining", "UniSpeechSatForCTC"),
}
IN_A_CLEAN_PROCESS = """
import json, sys
sys.modules["crycli"] = None  # as where it is not installed
import soundfile
from transformers import pipeline
samples, rate = soundfile.read(sys.argv[1], dtype="float32")
for folder in sys.argv[2:]:
    classify = pipeline("audio-classification", model=folder, trust_remote_code=True)
    print(json.dumps(classify({"raw": samples, "sampling_rate": rate}, top_k=None)))
"""


def architecture(family: str, norm: str = "layer") -> dict[str, Any]:
    """The fields of a tiny configuration of a family."""
    if family == "data2vec-audio":
        return {**TINY, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}
    return {**TINY, **NORMS[norm]}


def network(family: str = "wav2vec2", norm: str = "layer", labels: int = 3, **fields: Any) -> SpeechClassification:
    """A small network in eval mode, turned up: it attends sharply, and answers different clips differently."""
    torch.manual_seed(0)
    kind = FAMILIES[family]
    model = kind(kind.config_class(**{**architecture(family, norm), **fields}, num_labels=labels))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # of which nothing is zero: the padding does not stay silent
                weight += 0.3 * torch.randn_like(weight)
            elif name.endswith(("q_proj.weight", "k_proj.weight", "rel_attn_embed.weight", "score.weight")):
                weight *= 20
        model.classifier.dense.weight *= 2 if fields.get("pooling_mode") == "sum" else 10
        model.classifier.out_proj.weight *= 20
    return model.eval()


def padded(*lengths: int, rest: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cries of so many samples, each normalised, and noise of this level behind them: values and mask."""
    values = rest * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        samples = torch.from_numpy(cry(200.0 + 150 * row, length / 16_000, seed=row))
        values[row, :length] = (samples - samples.mean()) / samples.std()
        mask[row, :length] = 1
    return values, mask


def furthest_from_alone(
    model: SpeechClassification, lengths: tuple[int, ...] = LENGTHS, *, with_mask: bool = True
) -> float:
    """The largest difference in any logit between a clip alone and the same clip in a padded batch."""
    values, mask = padded(*lengths, rest=1.0)
    with torch.no_grad():
        together = model(values, mask if with_mask else None).logits
        alone = [model(values[row : row + 1, :length]).logits[0] for row, length in enumerate(lengths)]
    assert torch.stack(alone).std(dim=0).max() > 0.1  # clips that all got one answer would prove nothing
    return float((together - torch.stack(alone)).abs().max())


def gradients(
    model: SpeechClassification, values: torch.Tensor, mask: torch.Tensor | None, labels: torch.Tensor
) -> list[torch.Tensor]:
    """Of the sum of the clips' losses: for `values`, and for every weight."""
    values = values.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(values, mask).logits, labels, reduction="sum")
    weights = [weight for name, weight in model.named_parameters() if not name.endswith("masked_spec_embed")]
    return list(torch.autograd.grad(loss, [values, *weights]))


@pytest.mark.parametrize("mode", [mode for mode in POOLINGS if mode != "attention"])
@given(lengths=strategies.lists(strategies.integers(1, 9), min_size=1, max_size=5), seed=strategies.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_padding_never_counts_in_any_pooling(mode: str, lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(lengths), max(lengths) + 2, 4, generator=generator)
    valid = torch.arange(hidden.shape[1])[None, :] < torch.tensor(lengths)[:, None]
    hidden[~valid] = 1e6 * (1 - 2 * (seed % 2))  # what lies in the padding, large of either sign
    by_hand: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "mean": lambda clip: clip.mean(0),
        "sum": lambda clip: clip.sum(0),
        "max": lambda clip: clip.amax(0),
        "mean_std": lambda clip: torch.cat([clip.mean(0), clip.var(0, correction=0).clamp(min=1e-5).sqrt()]),
        "statistics": lambda clip: torch.cat(
            [
                clip.mean(0),
                clip.var(0, correction=0).clamp(min=1e-5).sqrt(),
                clip.amin(0),
                clip.amax(0),
                (clip.diff(dim=0).square().sum(0) / max(1, len(clip) - 1)).clamp(min=1e-5).sqrt(),
            ]
        ),
    }
    expected = torch.stack([by_hand[mode](hidden[row, :length]) for row, length in enumerate(lengths)])
    torch.testing.assert_close(pool(hidden, valid, mode), expected)


@given(lengths=strategies.lists(strategies.integers(1, 9), min_size=1, max_size=5), seed=strategies.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_padding_never_counts_in_attentive_pooling(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    pooling = AttentivePooling(4)
    hidden = torch.randn(len(lengths), max(lengths) + 2, 4)
    valid = torch.arange(hidden.shape[1])[None, :] < torch.tensor(lengths)[:, None]
    hidden[~valid] = 1e6 * (1 - 2 * (seed % 2))
    pooled = pooling(hidden, valid)
    for row, length in enumerate(lengths):
        clip = hidden[row, :length]
        scores = torch.tanh(clip @ pooling.dense.weight.T + pooling.dense.bias) @ pooling.score.weight[0]
        torch.testing.assert_close(pooled[row], scores.softmax(0) @ clip)


def test_an_unknown_pooling_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="median"):
        pool(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), "median")


@pytest.mark.parametrize("hidden", [torch.randn(2, 1, 3), torch.full((2, 5, 3), 0.7)], ids=["one frame", "constant"])
def test_the_standard_deviation_of_what_does_not_vary_has_a_finite_gradient(hidden: torch.Tensor) -> None:
    hidden = hidden.clone().requires_grad_()
    pooled = pool(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool), "mean_std")
    (gradient,) = torch.autograd.grad(pooled.sum(), hidden)
    assert torch.isfinite(pooled).all()
    torch.testing.assert_close(gradient, torch.full_like(hidden, 1 / hidden.shape[1]))  # the mean's alone


def test_statistics_are_computed_in_float32_where_the_network_is_in_half_precision() -> None:
    hidden = (3 + 0.5 * torch.randn(2, 1500, 4, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    valid = torch.ones(2, 1500, dtype=torch.bool)
    pooled = pool(hidden, valid, "mean_std")
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), pool(hidden.float(), valid, "mean_std"), rtol=0.004, atol=0)


@pytest.mark.parametrize(("pooling", "layers"), product(POOLINGS, LAYERS))
@pytest.mark.parametrize(("family", "norm"), KINDS)
def test_a_clip_gets_the_same_logits_alone_and_in_a_padded_batch(
    family: str, norm: str, pooling: str, layers: str
) -> None:
    assert furthest_from_alone(network(family, norm, pooling_mode=pooling, layer_mode=layers)) < 1e-5


@pytest.mark.parametrize(("family", "norm"), KINDS)
@given(
    lengths=strategies.lists(strategies.integers(400, 6000), min_size=2, max_size=4),
    pooling=strategies.sampled_from(POOLINGS),
    layers=strategies.sampled_from(LAYERS),
)
@settings(max_examples=8, deadline=None)
def test_a_clip_gives_the_same_gradient_alone_and_in_a_padded_batch(
    family: str, norm: str, lengths: list[int], pooling: str, layers: str
) -> None:
    model = network(family, norm, pooling_mode=pooling, layer_mode=layers).double()
    values, mask = padded(*lengths, rest=1.0)
    values, labels = values.double(), torch.arange(len(lengths)) % 3
    of_values, *of_weights = gradients(model, values, mask, labels)
    assert not of_values[mask == 0].any()  # the padding has no influence at all
    alone = [
        gradients(model, values[row : row + 1, :length], None, labels[row : row + 1])
        for row, length in enumerate(lengths)
    ]
    for together, parts in zip(of_weights, zip(*(one[1:] for one in alone), strict=True), strict=True):
        torch.testing.assert_close(together, torch.stack(parts).sum(0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("family", "norm"), KINDS)
def test_a_clip_heard_at_two_speeds_gets_the_same_logits_alone_and_in_a_padded_batch(family: str, norm: str) -> None:
    model = network(family, norm, pooling_mode="statistics", speeds=[0.96, 1.04])
    assert furthest_from_alone(model, (9_300, 6_000, 416, 3_555)) < 2e-5


@pytest.mark.parametrize("layers", LAYERS)
def test_what_is_heard_at_each_speed_is_averaged_before_the_head(layers: str) -> None:
    model = network(layer_mode=layers, speeds=(0.9, 1.0, 1.2))
    values, mask = padded(9_300, 6_000)
    with torch.no_grad():
        found = model.embed(values, mask)
        alone = []
        for speed in (0.9, 1.0, 1.2):
            model.config.speeds = (speed,)
            alone.append(model.embed(values, mask))
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
    torch.testing.assert_close(found, torch.stack(alone).mean(0))


@pytest.mark.parametrize(("speed", "up", "down"), [(0.96, 25, 24), (1.04, 25, 26), (0.97, 100, 97), (1.4, 5, 7)])
@pytest.mark.parametrize("samples", [1_000, 4_321])
def test_another_speed_is_that_of_a_resampled_clip(speed: float, up: int, down: int, samples: int) -> None:
    values, mask = padded(samples, 5_000, rest=1.0)
    played, inside = play(values, mask, speed)
    expected = resample_poly(values[0, :samples].numpy(), up, down)
    assert inside[0].sum() == len(expected)
    np.testing.assert_allclose(played[0, : len(expected)], expected, atol=0.01)
    assert not played[0, len(expected) :].any()


def test_at_its_own_speed_a_clip_is_what_it_was() -> None:
    values, mask = padded(1_000, 800)
    played, inside = play(values, mask, 1.0)
    torch.testing.assert_close(played, values)
    assert torch.equal(inside, mask)


def test_the_stock_group_norm_would_give_other_logits_in_a_batch() -> None:
    model = network(norm="group")
    first = model.backbone.feature_extractor.conv_layers[0]
    stock = nn.GroupNorm(first.layer_norm.num_groups, first.layer_norm.num_channels)
    stock.load_state_dict(first.layer_norm.state_dict())
    first.layer_norm = stock
    assert furthest_from_alone(model) > 1e-2


def test_the_stock_positions_of_data2vec_would_give_other_logits_in_a_batch() -> None:
    model = network("data2vec-audio")
    for layer in model.backbone.encoder.pos_conv_embed.layers:
        assert isinstance(layer.activation, MaskedActivation)
        layer.activation = layer.activation.activation
    assert furthest_from_alone(model) > 1e-3


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("family", "norm"), KINDS)
def test_without_the_mask_the_padding_would_change_the_logits(family: str, norm: str, pooling: str) -> None:
    assert furthest_from_alone(network(family, norm, pooling_mode=pooling), with_mask=False) > 1e-2


@pytest.mark.parametrize(("family", "norm"), KINDS)
def test_a_mask_of_an_earlier_batch_does_not_linger(family: str, norm: str) -> None:
    model = network(family, norm)
    values, mask = padded(9_000, 3_000)
    with torch.no_grad():
        before = model(values).logits
        model(values, mask)
        assert torch.equal(model(values).logits, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_clip_is_masked_within_itself(family: str) -> None:
    """SpecAugment promises two spans at least, and spans in the padding would be none."""
    fields = {"mask_time_prob": 1e-6, "mask_time_length": 5, "mask_time_min_masks": 2, "hidden_dropout": 0.0}
    model = network(family, **fields).train()
    seen: list[torch.Tensor] = []
    model.backbone.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    model(*padded(32_000, 4_000, 4_000, 4_000))
    masked = (seen[0] == model.backbone.masked_spec_embed).all(dim=-1)  # (batch, frames)
    assert masked[:, : model.count_frames(4_000)][1:].any(dim=1).all()
    assert masked[0].sum() <= 10


def test_features_are_masked_too() -> None:
    for family in FAMILIES:
        model = network(family, mask_feature_prob=0.5, mask_feature_length=4, mask_time_prob=0.0).train()
        model(*padded(8_000, 4_000), labels=torch.tensor([0, 1])).loss.backward()


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


@pytest.mark.parametrize(("pooling", "layers"), product(POOLINGS, LAYERS))
def test_what_is_embedded_is_classified_as_by_the_whole_network(pooling: str, layers: str) -> None:
    model = network(pooling_mode=pooling, layer_mode=layers)
    batch = padded(8_000, 6_000)
    with torch.no_grad():
        embedded = model.embed(*batch)
        assert torch.equal(model.classify(embedded), model(*batch).logits)
    apart = layers == "weighted" and pooling in {"mean", "sum"}
    width = 32 * {"mean_std": 2, "statistics": 5}.get(pooling, 1)
    assert embedded.shape == ((2, TINY["num_hidden_layers"] + 1, 32) if apart else (2, width))


@pytest.mark.parametrize(("pooling", "layers"), product(POOLINGS, LAYERS))
def test_what_is_embeddable_does_not_change_with_what_is_learnt_outside_the_backbone(pooling: str, layers: str) -> None:
    model = network(pooling_mode=pooling, layer_mode=layers)
    batch = padded(8_000, 6_000)
    with torch.no_grad():
        before = model.embed(*batch)
        for name, weight in model.named_parameters():
            if not name.startswith("wav2vec2."):
                weight += torch.randn_like(weight)
        assert torch.equal(model.embed(*batch), before) == model.embeddable
        torch.testing.assert_close(model.classify(model.embed(*batch)), model(*batch).logits)


@pytest.mark.parametrize(("pooling", "layers"), product(POOLINGS, LAYERS))
def test_layers_are_pooled_alike_in_a_tuple_and_stacked(pooling: str, layers: str) -> None:
    model = network(pooling_mode=pooling, layer_mode=layers)
    states = tuple(torch.randn(3, 2, 6, 32))
    valid = torch.arange(6)[None, :] < torch.tensor([6, 2])[:, None]
    assert torch.equal(model.pool_layers(states, valid), model.pool_layers(torch.stack(states), valid))


def test_the_weighted_sum_starts_as_the_mean_over_the_layers() -> None:
    layers = torch.randn(5, 2, 3)
    torch.testing.assert_close(LayerSum(5)(layers), layers.mean(0))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("family", "norm"), KINDS)
def test_all_weight_on_the_last_layer_is_the_last_layer(family: str, norm: str, pooling: str) -> None:
    last, weighted = (network(family, norm, pooling_mode=pooling, layer_mode=layers) for layers in LAYERS)
    missing, unexpected = weighted.load_state_dict(last.state_dict(), strict=False)
    assert (missing, unexpected) == (["layer_sum.weight"], [])
    batch = padded(8_000, 6_000)
    with torch.no_grad():
        weighted.layer_sum.weight[-1] = 100.0  # type: ignore[union-attr]
        torch.testing.assert_close(weighted(*batch).logits, last(*batch).logits)


def test_layers_that_are_weighed_are_not_dropped() -> None:
    model = network(layer_mode="weighted", layerdrop=0.9).train()
    for _ in range(5):
        model(*padded(8_000, 6_000))


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in PLAIN.items() for name in names])
def test_a_plain_checkpoint_loads_with_the_head_alone_missing(family: str, name: str, tmp_path: Path) -> None:
    kind = getattr(transformers, name)
    plain = kind(kind.config_class(**architecture(family, "group"))).eval()
    plain.save_pretrained(tmp_path)
    model, report = FAMILIES[family].from_pretrained(tmp_path, output_loading_info=True, layer_mode="weighted")
    assert set(report["missing_keys"]) == {*HEAD, "layer_sum.weight"}
    assert not model.layer_sum.weight.any()
    backbone = plain.base_model
    assert backbone.state_dict().keys() == model.backbone.state_dict().keys()
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], tensor), key
    values, _ = padded(9_000)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(values)[0], backbone(values)[0])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "data2vec-audio"])
def test_a_checkpoint_of_2021_with_old_names_loads_and_is_saved_with_present_ones(family: str, tmp_path: Path) -> None:
    kind = getattr(transformers, PLAIN[family][0])
    plain = kind(kind.config_class(**architecture(family, "group")))
    plain.config.save_pretrained(tmp_path)
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = plain.state_dict()
    for new, name in old.items():
        state[f"encoder.pos_conv_embed.conv.{name}"] = state.pop(f"encoder.pos_conv_embed.conv.{new}")
    torch.save(state, tmp_path / "pytorch_model.bin")
    model, report = FAMILIES[family].from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == HEAD
    for key, tensor in plain.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], tensor), key
    model.save_pretrained(tmp_path / "saved")  # as the Trainer does, which loads by present names alone
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == model.state_dict().keys()


@pytest.mark.parametrize(("family", "norm"), KINDS)
def test_a_saved_network_comes_back_bit_for_bit(family: str, norm: str, tmp_path: Path) -> None:
    model = network(family, norm, pooling_mode="attention", layer_mode="weighted")
    with torch.no_grad():
        model.layer_sum.weight += torch.tensor([0.5, -1.0, 2.0])  # type: ignore[union-attr]
    model.save_pretrained(tmp_path)
    loaded = FAMILIES[family].from_pretrained(tmp_path).eval()
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    batch = padded(*LENGTHS)
    with torch.no_grad():
        assert torch.equal(model(*batch).logits, loaded(*batch).logits)


def test_a_copied_network_masks_its_own_padding() -> None:
    for family in FAMILIES:
        assert furthest_from_alone(copy.deepcopy(network(family))) < 1e-5


def test_the_saved_configuration_keeps_what_is_ours(tmp_path: Path) -> None:
    fields = {"pooling_mode": "sum", "layer_mode": "weighted", "window_seconds": 4.5}
    network(**fields, id2label={0: "a", 1: "b", 2: "c"}).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert fields.items() <= stored.items()
    loaded = SpeechClassificationConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert loaded.id2label[2] == "c"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_a_model_type_of_its_own(family: str, tmp_path: Path) -> None:
    FAMILIES[family].config_class().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == f"crycli_{family}"


def test_a_folder_made_before_layers_could_be_weighed_still_loads(tmp_path: Path) -> None:
    model = network()
    model.save_pretrained(tmp_path)
    # Loaded as well: a file's weights lie elsewhere in memory than made ones, and the last bits hang on that.
    whole = Wav2Vec2ForSpeechClassification.from_pretrained(tmp_path).eval()
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["layer_mode"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    loaded = Wav2Vec2ForSpeechClassification.from_pretrained(tmp_path).eval()
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    batch = padded(8_000)
    with torch.no_grad():
        assert torch.equal(loaded(*batch).logits, whole(*batch).logits)


def test_a_plain_tuple_is_returned_where_asked_for() -> None:
    model, batch, labels = network(), padded(8_000, 6_000), torch.tensor([0, 1])
    whole = model(*batch, labels=labels)
    loss, logits = model(*batch, labels=labels, return_dict=False)
    assert isinstance(whole, SpeechClassifierOutput)
    assert torch.equal(loss, whole.loss)
    assert torch.equal(logits, whole.logits)
    assert len(model(*batch, return_dict=False)) == 1


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_returned_where_asked_for(family: str, layers: str) -> None:
    model = network(family, layer_mode=layers)
    output = model(*padded(8_000), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == TINY["num_hidden_layers"] + 1
    assert model(*padded(8_000)).hidden_states is None


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize(("family", "norm"), KINDS)
def test_the_gradient_reaches_every_weight(family: str, norm: str, layers: str) -> None:
    model = network(family, norm, pooling_mode="attention", layer_mode=layers).train()
    model(*padded(16_000, 12_000), labels=torch.tensor([0, 1])).loss.backward()
    untouched = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not untouched


@pytest.mark.parametrize("family", FAMILIES)
def test_freezing_leaves_the_frozen_weights_without_gradient(family: str) -> None:
    for freeze, frozen in {"freeze_feature_encoder": ".feature_extractor.", "freeze_backbone": "."}.items():
        model = network(family).train()
        getattr(model, freeze)()
        model(*padded(16_000, 12_000), labels=torch.tensor([0, 1])).loss.backward()
        without = {name for name, weight in model.named_parameters() if weight.grad is None}
        prefix = model.base_model_prefix + frozen
        assert without == {name for name, _ in model.named_parameters() if name.startswith(prefix)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_backbone_says_in_training_what_it_says_in_evaluation(family: str) -> None:
    model = network(family, hidden_dropout=0.5, layerdrop=0.5, mask_time_prob=0.5).train()
    batch = padded(8_000, 6_000)
    with torch.no_grad():
        evaluated = model.eval().embed(*batch)
    model.train().freeze_backbone()
    for _ in range(2):  # at once, and after the Trainer's own call
        embedded = model.embed(*batch)
        assert not embedded.requires_grad  # a forward pass alone
        assert torch.equal(embedded, evaluated)
        model.train()
    assert model.classifier.training
    assert not torch.equal(model(*batch).logits, model(*batch).logits)  # the head's dropout


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_can_be_unfrozen_from_the_top(family: str) -> None:
    model = network(family).train()
    model.freeze_backbone()
    first, *others = model.layers_from_top()
    assert [*reversed(others), first] == list(model.backbone.encoder.layers)
    for weight in first.parameters():
        weight.requires_grad = True
    model.train()
    assert first.training
    model(*padded(16_000, 12_000), labels=torch.tensor([0, 1])).loss.backward()
    reached = {name for name, weight in model.backbone.named_parameters() if weight.grad is not None}
    assert reached == {name for name, _ in model.backbone.named_parameters() if name.startswith("encoder.layers.1.")}


def test_a_new_head_depends_on_the_random_state_alone() -> None:
    model = network(pooling_mode="attention", layer_mode="weighted")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1.0
    heads = []
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        torch.manual_seed(5)
        model.reset_head()
        heads.append(model.state_dict())
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in before)
    assert not heads[1]["layer_sum.weight"].any()
    kept = {name for name in before if torch.equal(before[name], heads[1][name])}
    assert kept == {name for name in before if name.startswith("wav2vec2.")}


def test_the_shortest_clip_has_400_samples() -> None:
    model = network()
    values, _ = padded(400)
    assert torch.isfinite(model(values).logits).all()
    with pytest.raises((RuntimeError, ValueError)):
        model(values[:, :399])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_autocast_gives_nearly_the_same_answers(family: str, pooling: str) -> None:
    model, batch = network(family, "group", pooling_mode=pooling, layer_mode="weighted"), padded(*LENGTHS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(*batch).logits.float().softmax(-1)
    with torch.no_grad():
        torch.testing.assert_close(half, model(*batch).logits.softmax(-1), atol=0.1, rtol=0)


def test_saved_folders_of_all_families_work_in_the_stock_pipeline_without_crycli(tmp_path: Path) -> None:
    recording = tmp_path / "cry.wav"
    soundfile.write(recording, cry(440.0, 1.3), 16_000, subtype="FLOAT")
    folders = [tmp_path / family for family in FAMILIES]
    for folder, pooling in zip(folders, islice(cycle(POOLINGS), len(folders)), strict=True):
        model = network(folder.name, "group", pooling_mode=pooling, layer_mode="weighted")
        model.save_pretrained(folder)
        load_feature_extractor(None).save_pretrained(folder)
    command = [sys.executable, "-I", "-c", IN_A_CLEAN_PROCESS, str(recording), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for folder, line in zip(folders, done.stdout.splitlines(), strict=True):
        answer = {entry["label"]: entry["score"] for entry in json.loads(line)}
        predictor = load_predictor(str(folder))
        ours = next(predictor.predict([recording]))
        assert answer == pytest.approx(dict(zip(predictor.labels, ours.probabilities, strict=True)), abs=1e-4)
        assert np.ptp(ours.probabilities) > 0.1  # turned up, so that another head would show


def test_a_model_folder_holds_no_pickle(runs: dict[str, Path]) -> None:
    names = {path.name for path in (runs["layer"] / "model").iterdir()}
    about = {"README.md", "calibration.json", "known_clips.json"}
    assert names == about | {"config.json", "model.py", "model.safetensors", "preprocessor_config.json"}
    assert load_file(runs["layer"] / "model/model.safetensors").keys() > HEAD
