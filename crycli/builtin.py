"""What comes with crycli: the names of its models, and where the detector lies. Imports nothing of crycli."""

from __future__ import annotations

import logging
from pathlib import Path

DETECTOR = "detector"
"""Its name wherever a trained model is named. A folder of that name in the current one is ./detector."""

MINI = "mini"
"""The name in `model.backbone` of the small backbone that starts from the detector's weights."""

MINI_RANDOM = "mini-random"
"""Its name where it starts from scratch."""

FOLDER = Path(__file__).parent / "detector"
MODEL = FOLDER / "model"
"""The network in torch's form, which `model.backbone: mini` starts from."""
BUNDLE = FOLDER / "bundle"
"""The same network for onnxruntime, which answers."""

logger = logging.getLogger(__name__)


def resolve(name: str, folder: Path = BUNDLE) -> str:
    """What a model's name stands for: of the detector its own folder, of any other what is given.

    Args:
        name: as the user gives it.
        folder: which of the detector's folders is wanted.
    """
    if name != DETECTOR:
        return name
    if Path(name).exists():
        logger.warning("%s is the detector that comes with crycli: the folder here is ./%s", name, name)
    return str(folder)
