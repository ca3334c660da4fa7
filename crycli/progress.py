"""How library code reports progress, without knowing who shows it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A report on one step of the work.

    Attributes:
        name: what is being done: "scan", "decode", "train" ...
        done: units finished.
        total: units in all; None where that is not known.
        unit: what is counted, in the plural.
        detail: a few words on the state, such as the loss.
    """

    name: str
    done: int
    total: int | None = None
    unit: str = "clips"
    detail: str = ""


OnStep = Callable[[Step], None]


def silent(step: Step) -> None:
    """Show nothing."""
