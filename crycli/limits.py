"""What a recording may be: beyond these limits it is damaged or hostile, and is refused before it costs anything."""

from dataclasses import dataclass

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz; what a damaged header says beyond them would fill the memory
MAX_HOURS = 25.0  # a day, and the hour that clocks are put back
VALUES_PER_SECOND = 192_000  # of all channels together, over the longest time; 60 million are decoded in a second
MAX_CHANNELS = 64
MAX_SAMPLES = 2**29  # 2 GiB as float32; 9 h at 16 kHz


@dataclass(frozen=True)
class Limits:
    """What decoding accepts.

    Attributes:
        max_hours: of sound.
        max_channels: in a file.
        max_samples: of one recording that are held in memory together; what is streamed may be longer.
    """

    max_hours: float = MAX_HOURS
    max_channels: int = MAX_CHANNELS
    max_samples: int = MAX_SAMPLES
