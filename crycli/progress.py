"""How library code reports progress, without knowing who shows it."""

from collections.abc import Callable, Mapping
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
        row: what is to stay on view of a finished unit, column to cell; a table grows from these.
    """

    name: str
    done: int
    total: int | None = None
    unit: str = "clips"
    detail: str = ""
    row: Mapping[str, str] | None = None


OnStep = Callable[[Step], None]


def silent(step: Step) -> None:
    """Show nothing."""
