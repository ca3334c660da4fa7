"""What crycli raises when a user, a file or a machine is at fault. Imports nothing of crycli."""

from __future__ import annotations

from importlib.util import find_spec

MODULES_OF_EXTRAS = {
    "crycli[train]": (
        *("accelerate", "datasets", "huggingface_hub", "jinja2", "loky", "onnx", "pandas", "PIL", "platformdirs"),
        *("safetensors", "scipy", "sklearn", "tensorboard", "torch", "transformers", "xxhash"),
    ),
    "crycli[augment]": ("audiomentations",),
    "crycli[lora]": ("peft",),
    "crycli[search]": ("optuna",),
    "crycli[ray]": ("ray",),
    "crycli[remote]": ("fsspec", "gcsfs", "s3fs"),
    # Of [train], but by themselves enough for an option of `crycli predict`.
    "matplotlib": ("matplotlib",),
    "pyarrow": ("pyarrow",),
}
"""What pip installs to the modules that come with it. `pip install crycli` alone brings what a bundle needs to run."""


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


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to say where a package is not installed that only some commands need.

    Returns:
        The end of a line that begins with the command; None where no such package is missing: then the import is a bug.
    """
    module = (error.name or "").partition(".")[0]
    found = next((name for name, modules in MODULES_OF_EXTRAS.items() if module in modules), None)
    if found is None or find_spec(module) is not None:
        return None
    return f"needs more packages: pip install '{found}' ({module} is missing)"
