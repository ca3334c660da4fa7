"""The network: a wav2vec2 backbone, masked pooling over time, and a small head.

Nothing of crycli is imported here. `save_pretrained` copies this file into every model folder, so that
`transformers.pipeline(..., trust_remote_code=True)` can load the folder where crycli is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model, Wav2Vec2PreTrainedModel
from transformers.utils.generic import ModelOutput

PoolingMode = Literal["mean", "sum", "max"]


@strict
class SpeechClassificationConfig(Wav2Vec2Config):
    """A `Wav2Vec2Config` with what a finished classifier has to remember.

    It has a `model_type` of its own: under plain "wav2vec2" the stock audio-classification pipeline would load the
    folder with a random head and no more than a warning.

    Attributes:
        pooling_mode: how frames become one vector: "mean", "sum" or "max".
        window_seconds: longer recordings are classified in windows of this length.
        backbone: the checkpoint that training started from.
        crycli_version: the crycli that made the folder.
    """

    model_type = "crycli_wav2vec2"

    pooling_mode: PoolingMode = "mean"
    window_seconds: float = 10.0
    backbone: str = ""
    crycli_version: str = ""


@dataclass
class SpeechClassifierOutput(ModelOutput):
    """What `Wav2Vec2ForSpeechClassification` returns.

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
    `Wav2Vec2ForSpeechClassification.forward` before each pass.
    """

    valid_frames: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise `hidden`, (batch, channels, frames), over its valid frames."""
        if self.valid_frames is None:
            return super().forward(hidden)
        frames = torch.arange(hidden.shape[-1], device=hidden.device)
        valid = (frames[None, :] < self.valid_frames[:, None])[:, None, :]  # (batch, 1, frames)
        count = self.valid_frames[:, None, None].to(torch.float32)
        # float32 throughout: a mean over 20,000 frames loses its digits in half precision.
        values = hidden.to(torch.float32)
        mean = values.masked_fill(~valid, 0.0).sum(-1, keepdim=True) / count
        centred = (values - mean).masked_fill(~valid, 0.0)
        variance = centred.square().sum(-1, keepdim=True) / count
        normalised = centred * torch.rsqrt(variance + self.eps)
        return (normalised * self.weight[:, None] + self.bias[:, None]).to(hidden.dtype)


class Wav2Vec2ClassificationHead(nn.Module):
    """Dropout, dense, tanh, dropout, projection: (batch, hidden) to (batch, labels)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.final_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels or 1)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, labels), of pooled features, (batch, hidden)."""
        hidden = torch.tanh(self.dense(self.dropout(pooled)))
        logits: torch.Tensor = self.out_proj(self.dropout(hidden))
        return logits


def pool(hidden: torch.Tensor, valid: torch.Tensor, mode: str) -> torch.Tensor:
    """One vector a clip from its valid frames.

    Args:
        hidden: (batch, frames, hidden).
        valid: (batch, frames), true where a frame belongs to the clip and not to the padding.
        mode: "mean", "sum" or "max".

    Returns:
        (batch, hidden).

    Raises:
        ValueError: for another mode.
    """
    outside = ~valid[:, :, None]
    if mode == "max":
        return hidden.masked_fill(outside, torch.finfo(hidden.dtype).min).amax(dim=1)
    total = hidden.masked_fill(outside, 0.0).sum(dim=1)
    if mode == "sum":
        return total
    if mode == "mean":
        return total / valid.sum(dim=1, keepdim=True).to(hidden.dtype)
    raise ValueError(f"pooling_mode must be mean, sum or max, not {mode!r}")


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


class Wav2Vec2ForSpeechClassification(Wav2Vec2PreTrainedModel):
    """wav2vec2, pooled over time, with a classification head.

    `from_pretrained` takes a folder that crycli saved, or any plain wav2vec2 checkpoint (Wav2Vec2Model, ForPreTraining
    or ForCTC), whose head then starts from random weights.
    """

    config_class = SpeechClassificationConfig
    # Trainer would otherwise take forward's signature as a promise that the loss is normalised over the
    # accumulated batches, and multiply it by their number.
    accepts_loss_kwargs = False

    def __init__(self, config: SpeechClassificationConfig) -> None:
        super().__init__(config)
        if config.pooling_mode not in get_args(PoolingMode):
            raise ValueError(f"pooling_mode must be mean, sum or max, not {config.pooling_mode!r}")
        self.wav2vec2 = Wav2Vec2Model(config)
        first = self.wav2vec2.feature_extractor.conv_layers[0]
        if isinstance(first.layer_norm, nn.GroupNorm):
            norm = first.layer_norm
            first.layer_norm = MaskedGroupNorm(norm.num_groups, norm.num_channels, eps=norm.eps, affine=norm.affine)
        self.classifier = Wav2Vec2ClassificationHead(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def freeze_feature_encoder(self) -> None:
        """Train all but the convolutions; they are then left out of the backward pass too."""
        self.wav2vec2.freeze_feature_encoder()

    def freeze_backbone(self) -> None:
        """Train the head alone."""
        self.freeze_feature_encoder()
        for parameter in self.wav2vec2.parameters():
            parameter.requires_grad = False

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
            output_hidden_states: return the hidden states too.
            output_attentions: return the attentions too.
            return_dict: False for a plain tuple.

        Returns:
            A `SpeechClassifierOutput`. The padding has no influence on it.
        """
        norm = self.wav2vec2.feature_extractor.conv_layers[0].layer_norm
        if isinstance(norm, MaskedGroupNorm):
            norm.valid_frames = self._first_layer_frames(attention_mask)
        outputs = self.wav2vec2(
            input_values,
            attention_mask=attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        hidden = outputs.last_hidden_state  # (batch, frames, hidden)
        valid = self._valid_frames(hidden, attention_mask)
        logits = self.classifier(pool(hidden, valid, self.config.pooling_mode))
        loss = None
        if labels is not None:
            problem_type = self.config.problem_type or infer_problem_type(self.config.num_labels or 1, labels)
            loss = classification_loss(logits, labels, problem_type)
        output = SpeechClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return output.to_tuple() if return_dict is False else output

    def _first_layer_frames(self, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Valid frames, (batch,), after the first convolution."""
        if attention_mask is None:
            return None
        samples = attention_mask.sum(-1)
        return (samples - self.config.conv_kernel[0]) // self.config.conv_stride[0] + 1

    def _valid_frames(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames), true for the frames of `hidden` that belong to the clip."""
        if attention_mask is None:
            return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        samples: Any = attention_mask.sum(-1)
        lengths: Any = self._get_feat_extract_output_lengths(samples)
        valid: torch.Tensor = torch.arange(hidden.shape[1], device=hidden.device)[None, :] < lengths[:, None]
        return valid


SpeechClassificationConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
Wav2Vec2ForSpeechClassification.register_for_auto_class("AutoModelForAudioClassification")  # type: ignore[no-untyped-call]
