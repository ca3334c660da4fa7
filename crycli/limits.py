"""What a recording may be: beyond these limits it is damaged or hostile, and is refused before it costs anything."""

from dataclasses import dataclass

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz; what a damaged header says beyond them would fill the memory
MAX_HOURS = 25.0  # a day, and the hour that clocks are put back
MAX_CHANNELS = 64


@dataclass(frozen=True)
class Limits:
    """What decoding accepts.

    Attributes:
        max_hours: of sound.
        max_channels: in a file.
    """

    max_hours: float = MAX_HOURS
    max_channels: int = MAX_CHANNELS
