"""crycli: from folders of infant-cry recordings to a classifier that is evaluated honestly.

The public names below are loaded on first use: importing crycli imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Config": "config",
    "load_config": "config",
    "prepare_dataset_csv": "prepare",
    "Wav2Vec2ForSpeechClassification": "model",
    "Wav2Vec2ClassificationHead": "model",
    "SpeechClassifierOutput": "model",
    "DataCollatorCTCWithPadding": "dataset",
    "load_and_prepare_datasets": "dataset",
    "CTCTrainer": "training",
    "train": "training",
    "evaluate": "evaluation",
    "load_predictor": "inference",
    "export_bundle": "exporting",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crycli' has no attribute {name!r}")
    return getattr(importlib.import_module(f"crycli.{_HOMES[name]}"), name)
