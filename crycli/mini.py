"""crycli's own small backbone: a wav2vec2 whose first two convolutions begin as the filters of a spectrogram."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model

MINI_ARCHITECTURE: dict[str, Any] = {
    # 0.65M weights with the head. Layer norm in the convolutions: exact under padding, and stable from a random start.
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "conv_dim": (122, 122, 256),  # 40 bands in 3 phases and 2 constants; 40 bands at 3 levels and 2 constants
    "conv_kernel": (400, 3, 3),  # 25 ms, as in most spectrograms of speech
    "conv_stride": (320, 2, 2),  # a frame every 80 ms
    "hidden_size": 256,
    # Transformer layers fit the recordings they were shown: so it was with ESC-10 left out
    # (recipes/warm_start.py --without corpus=esc10).
    "num_hidden_layers": 0,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    # 1.28 s around each frame: the course of a cry, and its breaths. With ESC-10, 16 packages and two folds' cries left
    # out of 1,400 updates on labels these are told apart with AUC 0.991, without that context 0.987. Its price, ESC-10
    # by itself 0.987 for 0.991, is why recipes/distillation.py has a second teacher without it.
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 16,
    "initializer_range": 0.05,  # 0.02 suits 768 features: the loss after 10 epochs was 1.44, and 1.21 from 0.05
    "mask_time_prob": 0.15,
    "mask_time_length": 2,  # 0.16 s; no longer than the 2 frames of the shortest clip, 0.25 s
    "mask_time_min_masks": 0,  # or the shortest clips would be masked in whole
    "mask_feature_prob": 0.05,
    "layerdrop": 0.0,
    "hidden_dropout": 0.0,  # dropout on a CPU costs a fifth of the time
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}

PHASES = 3  # a third of a period apart: rectified and added up, they give the amplitude of a band at any phase
LEVELS = (0.35, 0.07, 0.014)  # of the amplitude, 14 dB apart: each is a step that is steep where it lies
LOWEST_HZ, HIGHEST_HZ = 60.0, 7600.0
FLOOR = 10.0  # a clip of unit variance has about this much in a band: frames far below it stay faint
STEEPNESS = (4.0, 3.0)  # of the rectification, and of the steps
KEEPING = 32.0  # the encoder's layer norm divides by sqrt(1 + 8) or so, whatever a frame of unit variance holds


def initialise(model: Wav2Vec2Model, sample_rate: int = 16_000) -> None:
    """Start the first two convolutions as a spectrogram's filters; the rest of the weights stays as it is.

    From random weights a few hundred clips are too few to learn what a spectrum is. So the first convolution starts as
    windowed cosines at frequencies that lie evenly on the mel scale, which training then adapts, after SincNet
    (Ravanelli and Bengio 2018, https://arxiv.org/abs/1808.00158) and LEAF (Zeghidour et al. 2021,
    https://arxiv.org/abs/2101.08596). Each band is there in three phases, whose rectified sum is its amplitude. The
    second convolution adds them up, averages over time, and compares the sum with levels, in place of the logarithm
    that the network lacks. Two constants in each make its layer norm divide by the loudness plus a floor, so that
    silence stays silent. Two constants in the projection to the encoder's width do the same for the encoder's layer
    norm, which would otherwise make all frames alike in strength. The result depends on the configuration alone.

    Args:
        model: with layer norm in its convolutions, whose first has three channels a band and two more, and whose
            second has one a band and level and two more.
        sample_rate: Hz, of the clips.
    """
    import torch

    layers: Any = model.feature_extractor.conv_layers
    first, second = layers[:2]
    width, _, kernel = first.conv.weight.shape
    bands = (width - 2) // PHASES
    mel = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), bands)
    hz = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    seconds = (np.arange(kernel) - (kernel - 1) / 2) / sample_rate
    cycles = hz[:, None, None] * seconds + np.arange(PHASES)[:, None] / PHASES
    loudness = np.sqrt(hz / 1000.0)[:, None, None]  # natural sounds fall with frequency
    filters = loudness * np.hanning(kernel + 2)[1:-1] * np.cos(2.0 * math.pi * cycles)
    with torch.no_grad():
        _fill(first, filters.reshape(bands * PHASES, 1, kernel), bias=0.0, constant=FLOOR, gain=STEEPNESS[0])
        mean = np.repeat(np.eye(bands), PHASES, axis=1) / (PHASES * second.conv.weight.shape[2])
        steps = np.stack([-mean / (level * STEEPNESS[0]) for level in LEVELS], axis=1).reshape(-1, bands * PHASES)
        taps = np.repeat(steps[:, :, None], second.conv.weight.shape[2], axis=2)
        _fill(second, taps, bias=1.0, constant=1.0, gain=STEEPNESS[1])
        projection: Any = model.feature_projection.projection
        projection.bias[-2:] = torch.tensor([KEEPING, -KEEPING])


def _fill(layer: Any, weight: npt.NDArray[np.float64], bias: float, constant: float, gain: float) -> None:
    """Set a convolution and its layer norm: the channels of `weight`, and two constants of opposite sign."""
    import torch

    width = layer.conv.weight.shape[0]
    layer.conv.weight.zero_()
    layer.conv.weight[: len(weight), : weight.shape[1]] = torch.from_numpy(weight)
    layer.conv.bias.fill_(bias)
    layer.conv.bias[-2:] = torch.tensor([1.0, -1.0]) * constant * math.sqrt(width / 2)
    layer.layer_norm.weight.fill_(gain)


def _mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)
