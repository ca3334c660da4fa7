"""The loss of a classifier on skewed data: class weights, focal loss, label smoothing, logit adjustment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from crycli.errors import ConfigError

Weights = npt.NDArray[np.float64]
"""(labels,)."""


def weights_of_labels(
    counts: Sequence[int] | npt.NDArray[np.int64], names: Sequence[str], setting: str | Mapping[str, float]
) -> Weights:
    """What an error on a clip of each label weighs; the mean over the training clips is 1.

    Args:
        counts: (labels,) training clips of each label; one at least has some.
        names: (labels,).
        setting: "none"; "balanced": in inverse proportion to the clips, clips / (labels * clips of the label);
            "effective": in inverse proportion to the effective number of clips, with beta = 1 - 1 / clips (Cui et al.
            2019, arXiv 1901.05555); or a weight for each label.

    Returns:
        (labels,) float64. With "balanced" and "effective" a label without clips weighs 0 and is not counted.

    Raises:
        ConfigError: a label lacks its weight, or a weight is for a label that is not there.
    """
    clips = np.asarray(counts, dtype=np.float64)
    if not isinstance(setting, str):
        weights = _given(names, setting)
    elif setting == "none":
        weights = np.ones(len(clips))
    elif setting == "balanced":
        weights = _inverse(clips)
    elif setting == "effective":
        # beta ** clips by its logarithm, which a single clip in all would make that of 0.
        weights = _inverse(-np.expm1(clips * np.log1p(-1.0 / max(clips.sum(), 2.0))))
    else:
        raise ValueError(f"no such class weights: {setting!r}")
    return np.asarray(weights * clips.sum() / (weights * clips).sum())


def log_prior_of_labels(counts: Sequence[int] | npt.NDArray[np.int64]) -> Weights:
    """(labels,) the logarithm of each label's share of the training clips; one without clips is given one."""
    clips = np.maximum(np.asarray(counts, dtype=np.float64), 1.0)
    return np.asarray(np.log(clips / clips.sum()))


def _inverse(numbers: Weights) -> Weights:
    """1 / number, and 0 for 0."""
    return np.divide(1.0, numbers, out=np.zeros_like(numbers), where=numbers > 0)


def _given(names: Sequence[str], setting: Mapping[str, float]) -> Weights:
    missing = [name for name in names if name not in setting]
    unknown = [name for name in setting if name not in names]
    if missing:
        raise ConfigError(f"train.class_weights: no weight for {', '.join(missing)}: give one for each label")
    if unknown:
        raise ConfigError(
            f"train.class_weights: no clip of the training part is labelled {', '.join(unknown)}: "
            f"the labels are {', '.join(names)}"
        )
    return np.array([setting[name] for name in names], dtype=np.float64)


class ClassificationLoss(nn.Module):
    """Weighted cross entropy, with what helps against imbalance.

    For logits z and the shares t of the labels, spread by label smoothing as in torch.nn.functional.cross_entropy,

        loss of a clip = - sum over labels of weight * t * (1 - p) ** focal_gamma * log p
        p              = softmax(z + logit_adjustment * log_prior)

    The focal loss is that of Lin et al. 2017 (arXiv 1708.02002), the logit adjustment that of Menon et al. 2021
    (arXiv 2007.07314); the latter is for training alone, and answers come from z.

    Args:
        weights: (labels,) from `weights_of_labels`.
        log_prior: (labels,) from `log_prior_of_labels`.
        focal_gamma: the higher, the less a clip weighs that is answered right already; 0: cross entropy.
        label_smoothing: share of each label that is spread over all of them.
        logit_adjustment: how much of the log prior is added to the logits; 0: nothing.
    """

    weights: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        weights: Sequence[float] | Weights,
        log_prior: Sequence[float] | Weights,
        focal_gamma: float = 0.0,
        label_smoothing: float = 0.0,
        logit_adjustment: float = 0.0,
    ) -> None:
        super().__init__()
        shift = logit_adjustment * np.asarray(log_prior) if logit_adjustment else np.zeros(len(log_prior))
        self.register_buffer("weights", torch.as_tensor(np.asarray(weights), dtype=torch.float32), persistent=False)
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.float32), persistent=False)
        self.focal_gamma = focal_gamma
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, clips: int | torch.Tensor) -> torch.Tensor:
        """The share of a batch in the mean loss over the clips of an update.

        The sum is divided by the number of clips, not by the sum of their weights as torch's `reduction="mean"` does:
        that cancels the weights where a batch holds one clip, and makes the loss depend on how an update is cut into
        batches. The weights' mean over the training clips is 1, so the scale of the loss stays the same. The losses of
        all batches of an update, over accumulation and processes, add up to its loss. Where gradients are averaged
        over processes, as DistributedDataParallel does, multiply by their number.

        Args:
            logits: (batch, labels) of any floating type; computed in float32.
            targets: (batch,) int64 class numbers, or (batch, labels) the share of each label.
            clips: of the whole update.

        Returns:
            A float32 scalar.
        """
        if self.weights.device != logits.device:
            self.to(logits.device)
        log_p = torch.log_softmax(logits.float() + self.shift, dim=1)
        labels = log_p.shape[1]
        shares = targets.float() if targets.is_floating_point() else nn.functional.one_hot(targets, labels).float()
        weighted = self.weights * shares.lerp(torch.full_like(shares, 1 / labels), self.label_smoothing)
        if self.focal_gamma:
            # The gradient of 0 ** gamma is infinite for a gamma below 1.
            missed = (-torch.expm1(log_p)).clamp(min=torch.finfo(torch.float32).tiny)
            weighted = weighted * missed**self.focal_gamma
        return -(weighted * log_p).sum() / clips
