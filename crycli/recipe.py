"""What the settings of a training stand for: `auto`, and those of a fold."""

from __future__ import annotations

from typing import Literal

from crycli.builtin import MINI, MINI_RANDOM
from crycli.config import Config

Start = Literal["fresh", "mini", "pretrained"]

LEARNING_RATES = {"fresh": 1e-3, "mini": 5e-4, "lora": 3e-4, "pretrained": 3e-5}
"""From scratch; from the detector's weights; adapters, as in LoRA (arXiv 2106.09685); fine-tuning, as in wav2vec 2.0
(arXiv 2006.11477)."""

EPOCHS = {"fresh": 60, "mini": 60, "pretrained": 10}
"""What starts from nothing learns longer, and an epoch of it, and of any mini, costs far less."""


def _is_mini(config: Config) -> bool:
    return config.model.backbone in (MINI, MINI_RANDOM)


def effective_freeze(config: Config) -> str:
    """What is frozen: "none", "encoder" or "backbone".

    With LoRA not the whole backbone, whose adapters are trained: what stands beside them is frozen anyway.
    """
    if config.model.freeze == "backbone" and config.model.lora_rank is not None:
        return "encoder"
    if config.model.freeze != "auto":
        return config.model.freeze
    return "none" if _is_mini(config) else "encoder"


def pooling(config: Config) -> str:
    """How frames become one vector, as `crycli.model.PoolingMode`."""
    if config.model.pooling != "auto":
        return config.model.pooling
    return "statistics" if _is_mini(config) else "mean"


def start(config: Config) -> Start:
    """What is trained starts from: nothing ("fresh": mini-random, or a head alone), mini's or other weights."""
    if config.model.backbone == MINI_RANDOM or effective_freeze(config) == "backbone":
        return "fresh"
    return "mini" if config.model.backbone == MINI else "pretrained"


def learning_rate(config: Config) -> float:
    """The peak learning rate."""
    if config.train.learning_rate != "auto":
        return config.train.learning_rate
    if config.model.lora_rank is not None:
        return LEARNING_RATES["lora"]
    return LEARNING_RATES[start(config)]


def epochs(config: Config) -> int:
    """Passes over the training part."""
    if config.train.epochs != "auto":
        return config.train.epochs
    return EPOCHS[start(config)]


def of_fold(config: Config, fold: int) -> Config:
    """The configuration of a fold's run: "{fold}" in the name of the backbone becomes its number."""
    backbone = config.model.backbone.replace("{fold}", str(fold))
    return config.model_copy(update={"model": config.model.model_copy(update={"backbone": backbone})})
