"""The network: a pretrained speech backbone, masked pooling over layers and time, and a small head.

Nothing of crycli is imported here. `save_pretrained` copies this file into every model folder, so that
`transformers.pipeline(..., trust_remote_code=True)` can load the folder where crycli is not installed.

To add a backbone of the wav2vec2 kind (convolutions over samples, then a transformer over as many frames as they
make), add

1. a subclass of its configuration and `ClassifierFields`, with the `model_type` "crycli_" and the plain type;
2. a subclass of `SpeechClassification` and its `...PreTrainedModel`, with `config_class` and `backbone_class`;
3. a line in `FAMILIES`, the plain type in `checkpoint.BACKBONES`, and in tests/test_model.py the plain classes, and
   the fields of a tiny one where they are not wav2vec2's;
4. the names of its projections in `lora.ADAPTED`, where they are others, and its own where the families are told:
   `backbone` in config.py, README.md, CHANGELOG.md.

The tests run over `FAMILIES` and say what is missing. Most likely it is that padding counts somewhere: override
`_adapt_backbone` and `_tell_lengths`, as the classes for data2vec and HuBERT do. A `MaskedActivation` before a
convolution over frames, for one, is all that a Conformer needs.
"""

# Without `from __future__ import annotations`: it makes strings of types, and `strict` looks into types alone.
import functools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    Data2VecAudioPreTrainedModel,
    HubertConfig,
    HubertModel,
    HubertPreTrainedModel,
    PreTrainedModel,
    UniSpeechSatConfig,
    UniSpeechSatModel,
    UniSpeechSatPreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    Wav2Vec2PreTrainedModel,
    WavLMConfig,
    WavLMModel,
    WavLMPreTrainedModel,
    initialization,
)
from transformers.models.wavlm.modeling_wavlm import WavLMAttention
from transformers.utils.generic import ModelOutput

PoolingMode = Literal["mean", "sum", "max", "attention", "mean_std", "statistics"]
POOLED = {"mean_std": 2, "statistics": 5}  # numbers for each feature; one otherwise
LayerMode = Literal["last", "weighted"]

ATTENTION_WIDTH = 128
"""Of the hidden layer that scores the frames in attentive pooling, as in ECAPA-TDNN (Desplanques et al. 2020)."""
LEAST_VARIANCE = 1e-5
"""Below it the standard deviation of a feature over time is held constant: the root's slope at 0 is infinite."""
LARGEST_DENOMINATOR = 100
"""Of the fraction that a speed is taken for: so many filters are applied."""
CROSSINGS, KAISER = 10, 5.0
"""Of the sinc that resamples: zeros on each side, and the shape of its window; as in scipy.signal.resample_poly."""


@dataclass
class ClassifierFields:
    """What a finished classifier has to remember, beside its backbone's configuration.

    Each family's configuration has a `model_type` of its own: under the plain one the stock audio-classification
    pipeline would load the folder with a random head and no more than a warning.

    Attributes:
        pooling_mode: how frames become one vector: "mean", "sum", "max", "attention", "mean_std" or
            "statistics".
        layer_mode: what is pooled: the "last" layer, or a learned "weighted" sum of all.
        speeds: at which a clip is heard, as `play` does; the pooled vectors are averaged.
        window_seconds: longer recordings are classified in windows of this length.
        backbone: the checkpoint that training started from.
        crycli_version: the crycli that made the folder.
    """

    pooling_mode: PoolingMode = "mean"
    layer_mode: LayerMode = "last"
    speeds: list[float | int] | tuple[float | int, ...] = (1.0,)
    window_seconds: float | int = 10.0
    backbone: str = ""
    crycli_version: str = ""


@strict
class SpeechClassificationConfig(ClassifierFields, Wav2Vec2Config):
    """Of `Wav2Vec2ForSpeechClassification`."""

    model_type = "crycli_wav2vec2"


@strict
class HubertClassificationConfig(ClassifierFields, HubertConfig):
    """Of `HubertForSpeechClassification`."""

    model_type = "crycli_hubert"


@strict
class WavLMClassificationConfig(ClassifierFields, WavLMConfig):
    """Of `WavLMForSpeechClassification`."""

    model_type = "crycli_wavlm"

    mask_feature_min_masks: int = 0  # `WavLMModel` asks for it, and `WavLMConfig` lacks it


@strict
class Data2VecAudioClassificationConfig(ClassifierFields, Data2VecAudioConfig):
    """Of `Data2VecAudioForSpeechClassification`."""

    model_type = "crycli_data2vec-audio"

    apply_spec_augment: bool = True  # `Data2VecAudioModel` looks for it, and `Data2VecAudioConfig` lacks it


@strict
class UniSpeechSatClassificationConfig(ClassifierFields, UniSpeechSatConfig):
    """Of `UniSpeechSatForSpeechClassification`."""

    model_type = "crycli_unispeech-sat"


@dataclass
class SpeechClassifierOutput(ModelOutput):
    """What `SpeechClassification` returns.

    Attributes:
        loss: scalar, where labels were given.
        logits: (batch, labels), before softmax or sigmoid.
        hidden_states: (batch, frames, hidden) for each layer, where asked for.
        attentions: (batch, heads, frames, frames) for each layer, where asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class MaskedGroupNorm(nn.GroupNorm):
    """`GroupNorm` with one group a channel whose statistics leave the padding out.

    The first convolution of wav2vec2-base and its kin is normalised over time. Over a padded clip the stock layer
    counts the padding in, and the same clip gets another answer in another batch. The parameters are the stock
    layer's, so checkpoints load unchanged. `valid_frames` ((batch,) integers, or None for no padding) is set by
    `SpeechClassification` before each pass.
    """

    valid_frames: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise `hidden`, (batch, channels, frames), over its valid frames."""
        if self.valid_frames is None:
            return super().forward(hidden)
        if hidden.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export():
            return self._clip_by_clip(hidden, self.valid_frames.tolist())
        valid = mask_of(self.valid_frames, hidden.shape[-1])[:, None, :]  # (batch, 1, frames)
        count = self.valid_frames[:, None, None]
        values = widen(hidden)
        mean = values.masked_fill(~valid, 0.0).sum(-1, keepdim=True) / count
        centred = (values - mean).masked_fill(~valid, 0.0)
        variance = centred.square().sum(-1, keepdim=True) / count
        normalised = centred * torch.rsqrt(variance + self.eps)
        return (normalised * self.weight[:, None] + self.bias[:, None]).to(hidden.dtype)

    def _clip_by_clip(self, hidden: torch.Tensor, valid_frames: list[int]) -> torch.Tensor:
        """The same by torch's own group norm, which reads 180 MB of a batch of base size twice and not eight times."""
        if all(frames == hidden.shape[-1] for frames in valid_frames):
            return super().forward(hidden)
        clips = [
            super(MaskedGroupNorm, self).forward(clip[None, :, :frames])
            for clip, frames in zip(hidden, valid_frames, strict=True)
        ]
        return torch.cat([nn.functional.pad(clip, (0, hidden.shape[-1] - clip.shape[-1])) for clip in clips])


class MaskedActivation(nn.Module):
    """An activation whose output is zero in the padding.

    data2vec finds positions by five convolutions over the frames, one upon the other. Each spills over the end of a
    clip, where a clip alone has zeros, and the next one would bring that back in. `valid_frames` is set as in
    `MaskedGroupNorm`.
    """

    valid_frames: torch.Tensor | None = None

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Activate `hidden`, (batch, channels, frames)."""
        activated: torch.Tensor = self.activation(hidden)
        if self.valid_frames is None:
            return activated
        return activated.masked_fill(~mask_of(self.valid_frames, hidden.shape[-1])[:, None, :], 0.0)


class AttentivePooling(nn.Module):
    """Self-attentive pooling: the mean over frames, weighted by a learned score v tanh(W h + b) of each.

    From Okabe et al. 2018, "Attentive statistics pooling for deep speaker embedding" (arXiv 1803.10963), without the
    standard deviation.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, ATTENTION_WIDTH)
        self.score = nn.Linear(ATTENTION_WIDTH, 1, bias=False)  # a constant would cancel in the softmax

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Pool `hidden`, (batch, frames, hidden), over its `valid` frames, (batch, frames): (batch, hidden)."""
        scores = widen(self.score(torch.tanh(self.dense(hidden)))[..., 0])
        weights = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(dim=1)
        pooled: torch.Tensor = (weights[..., None] * widen(hidden)).sum(dim=1)
        return pooled.to(hidden.dtype)


class LayerSum(nn.Module):
    """A learned weighted sum of a backbone's layers, uniform at the start.

    From Yang et al. 2021, "SUPERB: Speech processing universal performance benchmark" (arXiv 2105.01051).
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers))  # before the softmax

    def forward(self, layers: Iterable[torch.Tensor]) -> torch.Tensor:
        """The weighted sum of tensors of equal shape, one a layer."""
        weights = widen(self.weight).softmax(dim=0)
        # One by one: all layers stacked would double the memory.
        scaled = (weight * widen(layer) for weight, layer in zip(weights, layers, strict=True))
        total: torch.Tensor = functools.reduce(torch.add, scaled)
        return total.to(self.weight.dtype)


class Wav2Vec2ClassificationHead(nn.Module):
    """Dropout, dense, tanh, dropout, projection: pooled vectors to (batch, labels)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size * POOLED.get(config.pooling_mode, 1)
        self.dense = nn.Linear(width, config.hidden_size)
        self.dropout = nn.Dropout(config.final_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels or 1)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, labels), of pooled features, (batch, width)."""
        hidden = torch.tanh(self.dense(self.dropout(pooled)))
        logits: torch.Tensor = self.out_proj(self.dropout(hidden))
        return logits


def mask_of(valid_frames: torch.Tensor, frames: int) -> torch.Tensor:
    """(batch, frames), true for the first so many frames of each clip as `valid_frames`, (batch,), says."""
    return torch.arange(frames, device=valid_frames.device)[None, :] < valid_frames[:, None]


def play(values: torch.Tensor, mask: torch.Tensor, speed: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips as a tape sounds at another speed: the pitch follows.

    Each sample is a sum over windowed sincs, of which there is one for each place between two samples that occurs.

    Args:
        values: (batch, samples).
        mask: (batch, samples), 1 for samples of the clip and 0 for padding.
        speed: above 1 the clips become shorter, and what would then lie above half the sample rate is lost. Taken for
            the nearest fraction whose denominator is no more than `LARGEST_DENOMINATOR`.

    Returns:
        Values and mask of the clips, ceil(samples / speed) of each, zeros after its end.
    """
    taken, given = Fraction(speed).limit_denominator(LARGEST_DENOMINATOR).as_integer_ratio()
    filters = torch.from_numpy(_sincs(taken, given)).to(values)[:, None]
    reach = (filters.shape[-1] - taken) // 2
    padded = nn.functional.pad(values * mask, (reach, reach + taken - 1))[:, None]
    played = nn.functional.conv1d(padded, filters, stride=taken).transpose(1, 2).flatten(1)
    counts = (mask.sum(-1) * given + taken - 1) // taken
    inside = mask_of(counts, played.shape[1])
    return played * inside, inside.to(mask.dtype)


@functools.lru_cache
def _sincs(taken: int, given: int) -> npt.NDArray[np.float32]:
    """The filters that make of so many samples so many others, (given, taken + 2 * reach).

    The first one's middle lies on the first of the samples that are taken, which `reach` others precede.
    """
    cutoff = min(1.0, given / taken)  # of half the sample rate
    reach = math.ceil(CROSSINGS / cutoff)
    offsets = np.arange(-reach, taken + reach) - np.arange(given)[:, None] * taken / given
    window = np.i0(KAISER * np.sqrt(np.clip(1.0 - (offsets * cutoff / CROSSINGS) ** 2, 0.0, 1.0))) / np.i0(KAISER)
    inside = np.abs(offsets * cutoff) <= CROSSINGS
    return np.asarray(np.where(inside, cutoff * np.sinc(cutoff * offsets) * window, 0.0), np.float32)


def widen(values: torch.Tensor) -> torch.Tensor:
    """The values in float32 at least: a sum over 20,000 frames loses its digits in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pool(hidden: torch.Tensor, valid: torch.Tensor, mode: str) -> torch.Tensor:
    """One vector a clip from its valid frames, without learned weights.

    "mean_std" is statistics pooling (Snyder et al. 2018, "X-vectors: robust DNN embeddings for speaker recognition");
    "statistics" adds the extremes, which tell a short cry in a long clip, and the change, which tells its rhythm. Of
    one frame the change is that of a constant.

    Args:
        hidden: (batch, frames, hidden).
        valid: (batch, frames), true where a frame belongs to the clip and not to the padding.
        mode: "mean", "sum", "max", "mean_std" or "statistics".

    Returns:
        (batch, hidden); for "mean_std" (batch, 2 * hidden), the means before the standard deviations; for "statistics"
        (batch, 5 * hidden), followed by the least and the greatest values and the root mean square of the differences
        between consecutive frames.

    Raises:
        ValueError: for another mode.
    """
    outside = ~valid[:, :, None]
    if mode == "max":
        return _greatest(hidden, outside)
    values = widen(hidden)
    total = values.masked_fill(outside, 0.0).sum(dim=1)
    if mode == "sum":
        return total.to(hidden.dtype)
    count = valid.sum(dim=1, keepdim=True)
    mean = total / count
    if mode == "mean":
        return mean.to(hidden.dtype)
    if mode in POOLED:
        squares = (values - mean[:, None, :]).square().masked_fill(outside, 0.0)
        deviation = (squares.sum(dim=1) / count).clamp(min=LEAST_VARIANCE).sqrt()
        statistics = [mean, deviation]
        if mode == "statistics":
            # Not values[:, 1:]: torch.export would take a clip of two frames, of one change, for another case.
            first = torch.arange(values.shape[1], device=values.device)[None, :, None] == 0
            changes = (values - values.roll(1, dims=1)).square().masked_fill(outside | first, 0.0)
            change = (changes.sum(dim=1) / (count - 1).clamp(min=1)).clamp(min=LEAST_VARIANCE).sqrt()
            statistics += [-_greatest(-hidden, outside), _greatest(hidden, outside), change]
        return torch.cat([number.to(hidden.dtype) for number in statistics], dim=1)
    raise ValueError(f"pool takes mean, sum, max, mean_std or statistics, not {mode!r}")


def _greatest(hidden: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
    return hidden.masked_fill(outside, torch.finfo(hidden.dtype).min).amax(dim=1)


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, problem_type: str) -> torch.Tensor:
    """The loss that fits the problem: a scalar.

    Args:
        logits: (batch, labels).
        labels: (batch,) class numbers for "single_label_classification"; (batch, labels) zeros and ones for
            "multi_label_classification"; (batch,) or (batch, labels) values for "regression".
        problem_type: one of the three.
    """
    if problem_type == "regression":
        return nn.functional.mse_loss(logits.reshape(labels.shape), labels.to(logits.dtype))
    if problem_type == "multi_label_classification":
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return nn.functional.cross_entropy(logits, labels.reshape(-1))


def infer_problem_type(num_labels: int, labels: torch.Tensor) -> str:
    """The problem type that Transformers infers where a configuration names none."""
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


class SpeechClassification(PreTrainedModel):
    """A backbone, pooled over layers and time, with a classification head: what the families below share.

    `from_pretrained` takes a folder that crycli saved, or any plain checkpoint of the family (the bare model,
    ForPreTraining or ForCTC), whose head then starts from random weights.
    """

    backbone_class: ClassVar[type[PreTrainedModel]]
    # Trainer would otherwise take forward's signature as a promise that the loss is normalised over the
    # accumulated batches, and multiply it by their number.
    accepts_loss_kwargs = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.layer_mode == "weighted":
            config.layerdrop = 0.0  # a layer that is dropped has no state to be weighed
        setattr(self, self.base_model_prefix, self.backbone_class(config))
        self._adapt_backbone()
        # The stock encoder takes the gradient down to the waveform, for a kind of checkpointing that crycli does not
        # use. Without it an update of mini takes a tenth less.
        self.backbone.feature_extractor._requires_grad = False
        self._make_head()
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def backbone(self) -> Any:
        """The base model, such as a `Wav2Vec2Model`."""
        return getattr(self, self.base_model_prefix)

    @property
    def backbone_is_frozen(self) -> bool:
        """Whether none of the backbone's weights is trained."""
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    @property
    def embeddable(self) -> bool:
        """Whether nothing that is learnt stands between a frozen backbone and `embed`, which can then be kept."""
        pooling = self.config.pooling_mode
        return pooling != "attention" and (self.config.layer_mode == "last" or self._sums_after_pooling)

    @property
    def _sums_after_pooling(self) -> bool:
        """Whether layers are pooled first and weighed afterwards, which comes to the same where pooling is linear."""
        return self.config.layer_mode == "weighted" and self.config.pooling_mode in ("mean", "sum")

    def _make_head(self) -> None:
        config = self.config
        self.attentive_pooling = AttentivePooling(config.hidden_size) if config.pooling_mode == "attention" else None
        # The input of the first layer, and the output of each.
        self.layer_sum = LayerSum(config.num_hidden_layers + 1) if config.layer_mode == "weighted" else None
        self.classifier = Wav2Vec2ClassificationHead(config)

    def reset_head(self) -> None:
        """Start all but the backbone anew, from the state of torch's random numbers."""
        self._make_head()
        for module in (self.attentive_pooling, self.layer_sum, self.classifier):
            if module is not None:
                module.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, LayerSum):
            initialization.zeros_(module.weight)

    def _adapt_backbone(self) -> None:
        """Replace the parts of the backbone in which padding counts. Override where there are others."""
        first = self.backbone.feature_extractor.conv_layers[0]
        norm = getattr(first, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            first.layer_norm = MaskedGroupNorm(norm.num_groups, norm.num_channels, eps=norm.eps, affine=norm.affine)

    def _tell_lengths(self, attention_mask: torch.Tensor | None) -> None:
        """Tell the parts that `_adapt_backbone` put in how long each clip is, before each pass."""
        norm = getattr(self.backbone.feature_extractor.conv_layers[0], "layer_norm", None)
        if isinstance(norm, MaskedGroupNorm):
            norm.valid_frames = self._frame_counts(attention_mask, layers=1)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write config.json, the weights and this file into a folder, the weights under their present names.

        A checkpoint of 2021 has other names for two of them. transformers would write those again, and the Trainer,
        which reads its checkpoints without converting names, would leave the two out without a word.
        """
        super().save_pretrained(save_directory, *args, **{"save_original_format": False, **kwargs})

    def freeze_feature_encoder(self) -> None:
        """Train all but the convolutions; they are then left out of the backward pass too."""
        self.backbone.feature_extractor._freeze_parameters()

    def freeze_backbone(self) -> None:
        """Train the head alone. The backbone costs its forward pass: where nothing is trained, no graph is built."""
        self.freeze_feature_encoder()
        for parameter in self.backbone.parameters():
            parameter.requires_grad = False
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen backbone stays as in eval: no dropout, no layer drop, no SpecAugment."""
        super().train(mode)
        if self.backbone_is_frozen:
            self.backbone.eval()
        return self

    def layers_from_top(self) -> list[nn.Module]:
        """The transformer layers, the last one first, for gradual unfreezing (Howard and Ruder 2018, ULMFiT)."""
        return list(reversed(self.backbone.encoder.layers))

    def count_frames(self, samples: Any, layers: int | None = None) -> Any:
        """How many frames so many samples become, integers or a tensor of them.

        Args:
            samples: of the clip, at the sample rate of the network.
            layers: after so many convolutions; None: after all.
        """
        geometry = list(zip(self.config.conv_kernel, self.config.conv_stride, strict=True))
        for kernel, stride in geometry[:layers]:
            samples = (samples - kernel) // stride + 1
        return samples

    def embed(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """What `classify` takes, of a batch of clips.

        Args:
            input_values: (batch, samples), as in `forward`.
            attention_mask: (batch, samples), as in `forward`.

        Returns:
            As `pool_layers` says.
        """
        return self._hear(input_values, attention_mask)[1]

    def pool_layers(self, hidden_states: Sequence[torch.Tensor] | torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Pool the layers of a backbone over time.

        Args:
            hidden_states: (batch, frames, hidden) for each layer, in a tuple or stacked: the input of the first
                transformer layer, the output of each, and last what the backbone returns. For layer_mode "last" the
                last one is enough.
            valid: (batch, frames), true where a frame belongs to the clip and not to the padding.

        Returns:
            (batch, layers, hidden), each layer by itself, for layer_mode "weighted" with "mean" or "sum"; (batch,
            width) otherwise, where width is the hidden size, twice that for "mean_std", five times for "statistics".
        """
        if self._sums_after_pooling:
            return torch.stack([pool(layer, valid, self.config.pooling_mode) for layer in hidden_states], dim=1)
        hidden = hidden_states[-1] if self.layer_sum is None else self.layer_sum(hidden_states)
        if self.attentive_pooling is not None:
            return cast(torch.Tensor, self.attentive_pooling(hidden, valid))
        return pool(hidden, valid, self.config.pooling_mode)

    def classify(self, embedded: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, labels), of what `embed` returned: weighs the layers where they are apart, and the head."""
        return cast(torch.Tensor, self.classifier(self.weigh(embedded)))

    def weigh(self, embedded: torch.Tensor) -> torch.Tensor:
        """The vectors that the head takes, (batch, width), of what `embed` returned: the layers in one."""
        if self.layer_sum is not None and self._sums_after_pooling:
            return cast(torch.Tensor, self.layer_sum(embedded.unbind(dim=1)))
        return embedded

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SpeechClassifierOutput | tuple[torch.Tensor, ...]:
        """Classify a batch of clips.

        Args:
            input_values: (batch, samples), each clip normalised by itself and padded with zeros at its end.
            attention_mask: (batch, samples), 1 for samples of the clip and 0 for padding; None: no padding.
            labels: see `classification_loss`.
            output_hidden_states: return the hidden states too, of the first of the speeds.
            output_attentions: return the attentions too, of the same.
            return_dict: False for a plain tuple.

        Returns:
            A `SpeechClassifierOutput`. The padding has no influence on it.
        """
        outputs, pooled = self._hear(input_values, attention_mask, output_hidden_states, output_attentions)
        logits = self.classify(pooled)
        loss = None
        if labels is not None:
            problem_type = self.config.problem_type or infer_problem_type(self.config.num_labels or 1, labels)
            loss = classification_loss(logits, labels, problem_type)
        output = SpeechClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
        )
        return output.to_tuple() if return_dict is False else output

    def _hear(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> tuple[Any, torch.Tensor]:
        """The backbone's output at the first of the speeds, and the pooled vectors, averaged over all of them."""
        heard = []
        for values, mask in self._play(input_values, attention_mask):
            self._tell_lengths(mask)
            outputs = self.backbone(
                values,
                attention_mask=mask,
                output_hidden_states=output_hidden_states or self.layer_sum is not None,
                output_attentions=output_attentions,
            )
            heard.append((outputs, self._pool(outputs, mask)))
        if len(heard) == 1:
            return heard[0]
        return heard[0][0], torch.stack([pooled for _, pooled in heard]).mean(dim=0)

    def _play(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """The batch at each of the speeds, with its mask."""
        if tuple(self.config.speeds) == (1.0,):
            return [(input_values, attention_mask)]
        mask = torch.ones_like(input_values, dtype=torch.int64) if attention_mask is None else attention_mask
        return [play(input_values, mask, speed) for speed in self.config.speeds]

    def _pool(self, outputs: Any, attention_mask: torch.Tensor | None) -> torch.Tensor:
        last = outputs.last_hidden_state
        # Where layers are normalised at their input, the last state lacks the norm that the backbone ends with.
        states = (last,) if self.layer_sum is None else (*outputs.hidden_states[:-1], last)
        return self.pool_layers(states, self._valid_frames(last, attention_mask))

    def _frame_counts(self, attention_mask: torch.Tensor | None, layers: int | None = None) -> torch.Tensor | None:
        """The valid frames of each clip, (batch,), as `count_frames` has them; None for no padding."""
        if attention_mask is None:
            return None
        return cast(torch.Tensor, self.count_frames(attention_mask.sum(-1), layers))

    def _valid_frames(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames), true for the frames of `hidden` that belong to the clip."""
        counts = self._frame_counts(attention_mask)
        if counts is None:
            return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        return mask_of(counts, hidden.shape[1])


class Wav2Vec2ForSpeechClassification(SpeechClassification, Wav2Vec2PreTrainedModel):
    """On wav2vec 2.0 (Baevski et al. 2020), XLS-R, MMS and their kin."""

    config_class = SpeechClassificationConfig
    backbone_class = Wav2Vec2Model


class MaskedHubertModel(HubertModel):
    """HuBERT whose SpecAugment draws its spans within the clip: the stock model draws them over the padding too.

    `valid_frames` is set as in `MaskedGroupNorm`.
    """

    valid_frames: torch.Tensor | None = None

    def _mask_hidden_states(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.training and self.valid_frames is not None:
            kwargs["attention_mask"] = mask_of(self.valid_frames, hidden_states.shape[1])
        return cast(torch.Tensor, super()._mask_hidden_states(hidden_states, *args, **kwargs))


class HubertForSpeechClassification(SpeechClassification, HubertPreTrainedModel):
    """On HuBERT (Hsu et al. 2021) and DistilHuBERT."""

    config_class = HubertClassificationConfig
    backbone_class = MaskedHubertModel

    def _tell_lengths(self, attention_mask: torch.Tensor | None) -> None:
        super()._tell_lengths(attention_mask)
        self.backbone.valid_frames = self._frame_counts(attention_mask)


class WavLMSelfAttention(WavLMAttention):
    """WavLM's attention, through its projections and torch's fused kernel.

    The stock layer hands the projections' weights to torch's old attention, past the modules themselves, so that
    adapters (LoRA) on them have no effect; it mixes two kinds of masks, which torch warns of; and it is slower (a layer
    of base size, four clips of 7 s, one CPU core: 218 against 167 ms). The weights and the answers are the same.
    """

    def torch_multi_head_self_attention(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, gated_position_bias: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """Attend over the valid frames.

        Args:
            hidden_states: (batch, frames, hidden).
            attention_mask: (batch, frames), true where a frame belongs to the clip; None: no padding.
            gated_position_bias: (batch * heads, frames, frames), added to the scores.

        Returns:
            (batch, frames, hidden), and None in place of the attention weights.
        """
        batch, frames, _ = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch, frames, self.num_heads, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = gated_position_bias.view(batch, self.num_heads, frames, frames).to(query.dtype)
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask.bool()[:, None, None, :], torch.finfo(bias.dtype).min)
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(attended.transpose(1, 2).reshape(batch, frames, -1)), None


class WavLMForSpeechClassification(SpeechClassification, WavLMPreTrainedModel):
    """On WavLM (Chen et al. 2022)."""

    config_class = WavLMClassificationConfig
    backbone_class = WavLMModel

    def _adapt_backbone(self) -> None:
        super()._adapt_backbone()
        for layer in self.backbone.encoder.layers:
            stock = layer.attention
            layer.attention = WavLMSelfAttention(
                embed_dim=stock.embed_dim,
                num_heads=stock.num_heads,
                dropout=stock.dropout,
                num_buckets=stock.num_buckets,
                max_distance=stock.max_distance,
                has_relative_position_bias=hasattr(stock, "rel_attn_embed"),
            )


class Data2VecAudioForSpeechClassification(SpeechClassification, Data2VecAudioPreTrainedModel):
    """On data2vec (Baevski et al. 2022)."""

    config_class = Data2VecAudioClassificationConfig
    backbone_class = Data2VecAudioModel

    def _adapt_backbone(self) -> None:
        super()._adapt_backbone()
        for layer in self.backbone.encoder.pos_conv_embed.layers:
            layer.activation = MaskedActivation(layer.activation)

    def _tell_lengths(self, attention_mask: torch.Tensor | None) -> None:
        super()._tell_lengths(attention_mask)
        for layer in self.backbone.encoder.pos_conv_embed.layers:
            layer.activation.valid_frames = self._frame_counts(attention_mask)


class UniSpeechSatForSpeechClassification(SpeechClassification, UniSpeechSatPreTrainedModel):
    """On UniSpeech-SAT (Chen et al. 2022)."""

    config_class = UniSpeechSatClassificationConfig
    backbone_class = UniSpeechSatModel


FAMILIES: dict[str, type[SpeechClassification]] = {
    "wav2vec2": Wav2Vec2ForSpeechClassification,
    "hubert": HubertForSpeechClassification,
    "wavlm": WavLMForSpeechClassification,
    "data2vec-audio": Data2VecAudioForSpeechClassification,
    "unispeech-sat": UniSpeechSatForSpeechClassification,
}
"""By the `model_type` of a plain checkpoint."""

for _family in FAMILIES.values():
    cast(Any, _family.config_class).register_for_auto_class()
    _family.register_for_auto_class("AutoModelForAudioClassification")  # type: ignore[no-untyped-call]
