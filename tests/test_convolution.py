"""Convolutions with the channels of a frame side by side: what torch's convolution computes, forwards and backwards."""

from __future__ import annotations

import copy

import torch
from conftest import TINY
from hypothesis import given, settings, strategies
from torch import nn
from transformers import Wav2Vec2Config

from crycli.convolution import TimeMajorConvolution, speed_up_convolutions
from crycli.model import SpeechClassificationConfig, Wav2Vec2ForSpeechClassification


@strategies.composite
def convolutions(draw: strategies.DrawFn) -> tuple[nn.Conv1d, torch.Tensor]:
    """A convolution with random weights, and an input for it."""
    torch.manual_seed(draw(strategies.integers(0, 2**32)))
    channels, outputs = draw(strategies.integers(1, 5)), draw(strategies.integers(1, 5))
    kernel, stride = draw(strategies.integers(1, 6)), draw(strategies.integers(1, 8))
    convolution = nn.Conv1d(channels, outputs, kernel, stride, bias=draw(strategies.booleans()))
    frames = draw(strategies.integers(kernel, kernel + 30))
    return convolution, torch.randn(draw(strategies.integers(1, 3)), channels, frames)


@settings(deadline=None)
@given(case=convolutions())
def test_outputs_and_gradients_are_those_of_torch(case: tuple[nn.Conv1d, torch.Tensor]) -> None:
    convolution, values = case
    found = []
    for layer in (convolution, TimeMajorConvolution(copy.deepcopy(convolution))):
        inputs = values.clone().requires_grad_()
        outputs = layer(inputs)
        (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
        gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
        found.append({"outputs": outputs, "inputs": inputs.grad, **gradients})
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_a_network_keeps_its_answers_its_weights_and_their_names() -> None:
    torch.manual_seed(0)
    config = SpeechClassificationConfig(
        **{**Wav2Vec2Config(**TINY, feat_extract_norm="layer", conv_bias=True).to_dict(), "num_labels": 3}
    )
    network = Wav2Vec2ForSpeechClassification(config).eval()
    clips, mask = torch.randn(2, 4000), torch.ones(2, 4000, dtype=torch.int64)
    mask[1, 3000:] = 0
    before, weights = network(clips, mask).logits, dict(network.named_parameters())
    speed_up_convolutions(network)
    layers = network.backbone.feature_extractor.conv_layers
    assert all(isinstance(layer.conv, TimeMajorConvolution) for layer in layers)
    assert {name: id(weight) for name, weight in network.named_parameters()} == {
        name: id(weight) for name, weight in weights.items()
    }
    torch.testing.assert_close(network(clips, mask).logits, before, rtol=1e-5, atol=1e-6)


def test_a_convolution_without_a_norm_over_channels_stays_what_it_is() -> None:
    network = Wav2Vec2ForSpeechClassification(
        SpeechClassificationConfig(**{**Wav2Vec2Config(**TINY, feat_extract_norm="group").to_dict(), "num_labels": 3})
    )
    speed_up_convolutions(network)
    assert not any(isinstance(module, TimeMajorConvolution) for module in network.modules())
