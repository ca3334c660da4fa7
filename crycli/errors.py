"""What crycli raises when a user, a file or a machine is at fault. Imports nothing of crycli."""


class CrycliError(Exception):
    """An expected failure: one line that says what is wrong, where, and what to do about it."""


class ConfigError(CrycliError):
    """A setting that is unknown, of the wrong type, out of bounds, or impossible on this machine."""


class DataError(CrycliError):
    """Recordings or manifests that cannot be used."""


class AudioError(DataError):
    """One recording that cannot be used; the message is the reason and does not name the file."""


class CheckpointError(CrycliError):
    """A backbone, model folder or bundle that is missing, out of reach, damaged, or of another kind."""


class TrainingError(CrycliError):
    """A training that went astray, such as a loss that is no longer a number."""


class OutputError(CrycliError):
    """An output that exists already or cannot be written."""
