"""What `auto` stands for in the settings of a training."""

from __future__ import annotations

from crycli.config import Config
from crycli.mini import MINI

LEARNING_RATES = {"fresh": 1e-3, "lora": 3e-4, "pretrained": 3e-5}
"""From scratch; adapters, as in LoRA (arXiv 2106.09685); fine-tuning, as in wav2vec 2.0 (arXiv 2006.11477)."""

EPOCHS = {"fresh": 60, "pretrained": 10}
"""What starts from nothing learns longer, and an epoch of it costs far less."""


def effective_freeze(config: Config) -> str:
    """What is frozen: "none", "encoder" or "backbone"."""
    if config.model.freeze != "auto":
        return config.model.freeze
    return "none" if config.model.backbone == MINI else "encoder"


def starts_fresh(config: Config) -> bool:
    """Whether all that is trained starts from nothing: mini, or a head alone."""
    return config.model.backbone == MINI or effective_freeze(config) == "backbone"


def learning_rate(config: Config) -> float:
    """The peak learning rate."""
    if config.train.learning_rate != "auto":
        return config.train.learning_rate
    if config.model.lora_rank is not None:
        return LEARNING_RATES["lora"]
    return LEARNING_RATES["fresh" if starts_fresh(config) else "pretrained"]


def epochs(config: Config) -> int:
    """Passes over the training part."""
    if config.train.epochs != "auto":
        return config.train.epochs
    return EPOCHS["fresh" if starts_fresh(config) else "pretrained"]
