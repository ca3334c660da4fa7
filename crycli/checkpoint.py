"""Where networks come from and how they are kept: backbones, model folders, the model hub.

torch and transformers are imported inside the functions that need them: an exported bundle is described and used
without either.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from crycli import __version__, recipe
from crycli.audio import SAMPLE_RATE
from crycli.builtin import DETECTOR, MINI, MINI_RANDOM, MODEL, resolve
from crycli.bundles import BUNDLE_FILE, NETWORK_FILES, hash_files, verify
from crycli.config import SHORTEST_SECONDS, AugmentConfig, Combine, Config
from crycli.errors import CheckpointError
from crycli.limits import HIGHEST_RATE, LOWEST_RATE
from crycli.mini import MINI_ARCHITECTURE, initialise

if TYPE_CHECKING:
    from transformers import Wav2Vec2FeatureExtractor

    from crycli.model import SpeechClassification

PLAN_FILE = "folds.json"
"""Of a cross-validation."""

BACKBONES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech-sat")
"""The keys of `model.FAMILIES`, once more: to ask there takes the seconds in which torch is imported."""
OWN_TYPE = "crycli_"  # what the model_type of a classifier has before its backbone's
INEXACT = {
    "add_adapter": "has an adapter, which mixes padding in",
    "conv_pos_batch_norm": "has batch norm over its positions, which mixes padding in",
}
"""What the configuration of a backbone turns on whose answers would depend on the padding."""
HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
HUB_SECONDS = 3.5  # without a network the libraries' own retries take 23 s

Form = Literal["model", "onnx", "onnx-int8"]
BUNDLE_FORMS: tuple[Form, ...] = ("onnx", "onnx-int8")
COMBINATIONS: tuple[Combine, ...] = ("mean", "max")
Word = TypeVar("Word", bound=str)

EVENT_SETTINGS = ("labels", "window", "hop", "onset", "offset", "min_seconds", "gap_seconds")
"""What a bundle may say about events."""

DOWNLOAD = "download it where there is a network and give its folder"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier on disk, as its folder describes it.

    Attributes:
        folder: the folder with the weights.
        kind: "checkpoint" for a model folder, "bundle" for an export.
        labels: in the order of the logits.
        sample_rate: Hz, of the samples that the network takes.
        normalise: whether each clip is brought to zero mean and unit variance first.
        window_seconds: the length of the windows in which longer recordings are classified.
        shortest_samples: fewer make no frame.
        form: "model" for a model folder, else the format of the export.
        network_file: the network of a bundle; None for a model folder.
        hop_seconds: from the start of a window to the next one's; None where the model does not say.
        threshold: the confidence below which the answer is unsure; None where the model does not say.
        events: those of `EVENT_SETTINGS` that the model says, as in `config.PredictConfig`.
        combine: what a recording's probabilities are, of those of its windows.
    """

    folder: Path
    kind: Literal["checkpoint", "bundle"]
    labels: tuple[str, ...]
    sample_rate: int
    normalise: bool
    window_seconds: float
    shortest_samples: int
    form: Form = "model"
    network_file: Path | None = None
    hop_seconds: float | None = None
    threshold: float | None = None
    events: Mapping[str, Any] = field(default_factory=dict)
    combine: Combine = "mean"


def find_classifier(name: str, *, offline: bool = False) -> Classifier:
    """Find a trained classifier: a run, its model folder, an exported bundle, a name on the hub, or the detector.

    Args:
        name: its path, its name on the hub, or `builtin.DETECTOR` for the bundle that comes with crycli.
        offline: use the hub's local cache alone.

    Raises:
        CheckpointError: there is none, or it is of another kind.
    """
    name = resolve(name)
    path = Path(name)
    if not path.exists() and HUB_NAME.fullmatch(name):
        path = fetch(name, offline=offline, advice=f"{DOWNLOAD} (-m FOLDER)")
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(f"{name} {state}: give a run of `crycli train`, its model folder, or an exported bundle")
    if (path / PLAN_FILE).is_file():
        raise CheckpointError(f"{path} is a cross-validation: give one of its folds, such as {path / 'fold-1'}")
    if any((path / name).is_file() for name in (BUNDLE_FILE, *NETWORK_FILES.values())):
        return _describe_bundle(path)
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return _describe_model_folder(folder)
    if (path / "checkpoints").is_dir():
        raise CheckpointError(f"the run {path} is not finished: go on with `crycli train DATA -o {path} --resume`")
    raise CheckpointError(f"{path} holds no model: neither model/config.json, config.json nor {BUNDLE_FILE}")


def _describe_model_folder(folder: Path) -> Classifier:
    content = read_json(folder / "config.json")
    kind = str(content.get("model_type"))
    if kind in BACKBONES:
        raise CheckpointError(f"{folder} is a bare {kind} backbone, not a classifier: train one from it first")
    if kind not in {OWN_TYPE + backbone for backbone in BACKBONES}:
        raise CheckpointError(f"{folder} holds a model of type {kind}: crycli uses the ones that `crycli train` makes")
    problem = content.get("problem_type") or "single_label_classification"
    if problem != "single_label_classification":
        raise CheckpointError(f"{folder} is a {problem} model: crycli predicts one label a clip")
    try:
        names = {int(number): str(label) for number, label in content["id2label"].items()}
        labels = tuple(names[number] for number in range(len(names)))
        shortest = shortest_clip(content)
        return _describe(folder / "config.json", "checkpoint", labels, float(content["window_seconds"]), shortest)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder}/config.json is damaged: {error!r}") from None


def _describe_bundle(folder: Path) -> Classifier:
    """Described only once each file is the one that was exported."""
    about = read_json(folder / BUNDLE_FILE)
    verify(folder, about.get("files"))
    form = about.get("format")
    if form == "torch":
        raise CheckpointError(
            f"{folder} holds a torch.export program, and loading one may run code that is hidden in it: its README.md "
            f"shows how to use it where you trust it; for crycli export the model with --format onnx"
        )
    labels = read_json(folder / "labels.json", list)
    try:
        window, shortest = float(about["window_seconds"]), int(about["shortest_samples"])
        found = _describe(folder / BUNDLE_FILE, "bundle", tuple(map(str, labels)), window, shortest)
        return replace(
            found,
            form=_one_of(BUNDLE_FORMS, form),
            network_file=folder / NETWORK_FILES[form],
            hop_seconds=_within(about["hop_seconds"], 0.0, window),
            threshold=_within(about["threshold"], 0.0, 1.0),
            events=_events(about["events"]),
            combine=_one_of(COMBINATIONS, about.get("combine", "mean")),  # older bundles do not say
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}/{BUNDLE_FILE} is damaged: {error!r}") from None


def _one_of(known: tuple[Word, ...], value: object) -> Word:
    for item in known:
        if item == value:
            return item
    raise ValueError(f"{value!r} is none of {', '.join(known)}")


def _within(value: object, low: float, high: float) -> float | None:
    """A number of a bundle; None where it does not say."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{value!r} is not between {low:g} and {high:g}")
    return float(value)


def _events(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in dict(settings).items():
        if name not in EVENT_SETTINGS:
            raise ValueError(f"events: {name}")
        if name == "labels":
            found[name] = tuple(map(str, value))
        elif name == "window":
            found[name] = _within(value, SHORTEST_SECONDS, math.inf)
        elif name == "hop":
            found[name] = _within(value, 0.0, settings["window"])
        else:
            found[name] = _within(value, 0.0, math.inf if name.endswith("seconds") else 1.0)
    return found


def shortest_clip(config: Mapping[str, Any], frames: int = 1) -> int:
    """The samples that a clip needs for so many frames.

    Args:
        config: of a model folder.
        frames: that the convolutions shall make at each speed.
    """
    samples, fastest = frames, float(max(config.get("speeds", [1.0])))
    for kernel, stride in zip(reversed(config["conv_kernel"]), reversed(config["conv_stride"]), strict=True):
        samples = (samples - 1) * stride + kernel
    return math.ceil(samples * fastest)


def _describe(
    file: Path, kind: Literal["checkpoint", "bundle"], labels: tuple[str, ...], window_seconds: float, shortest: int
) -> Classifier:
    folder = file.parent
    preprocessor = read_json(folder / "preprocessor_config.json")
    rate = preprocessor.get("sampling_rate", SAMPLE_RATE)
    if not isinstance(rate, int) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise CheckpointError(f"{folder}/preprocessor_config.json is damaged: its sampling_rate is {rate!r}")
    if not SHORTEST_SECONDS <= window_seconds < math.inf:
        raise CheckpointError(f"{file} is damaged: its window_seconds is {window_seconds}")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise CheckpointError(f"{folder} is damaged: its labels are {', '.join(labels) or 'none'}")
    return Classifier(
        folder=folder,
        kind=kind,
        labels=labels,
        sample_rate=rate,
        normalise=bool(preprocessor.get("do_normalize", True)),
        window_seconds=window_seconds,
        shortest_samples=shortest,
    )


def read_json(file: Path, kind: type = dict) -> Any:
    """The content of a JSON file of a model folder, an object or a list as `kind` says."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from None
    except ValueError:
        raise CheckpointError(f"{file} is damaged: not valid JSON") from None
    if not isinstance(content, kind):
        raise CheckpointError(f"{file} is damaged: not a JSON {'list' if kind is list else 'object'}")
    return content


def quiet_libraries() -> None:
    """Switch off what transformers and datasets print by themselves: bars, reports, advice."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def locate_backbone(config: Config) -> Path | None:
    """The folder of the configured backbone, downloaded where need be; None for mini-random, which has none.

    Raises:
        CheckpointError: it is missing, out of reach, of no family that crycli knows, or mixes padding in.
    """
    name = config.model.backbone
    if name == MINI_RANDOM:
        return None
    if name == DETECTOR:
        raise CheckpointError(
            f"model.backbone: {DETECTOR} is a trained classifier: to start from its weights write {MINI} (a folder of "
            f"that name is ./{DETECTOR})"
        )
    folder = MODEL if name == MINI else Path(name)
    if name != MINI and not folder.is_dir():
        if folder.exists() or not HUB_NAME.fullmatch(name):
            raise CheckpointError(
                f"model.backbone: {name} is neither a folder, a hub name (owner/name), {MINI} nor {MINI_RANDOM}"
            )
        advice = f"{DOWNLOAD} (model.backbone: FOLDER), or use model.backbone: {MINI}, which needs no download"
        folder = fetch(name, offline=config.offline, advice=advice)
    elif (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"model.backbone: {folder} has no config.json: it is no checkpoint")
    content = read_json(folder / "config.json")
    kind = str(content.get("model_type"))
    if kind.removeprefix(OWN_TYPE) not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise CheckpointError(f"model.backbone: {name} is a {kind} model; crycli takes checkpoints of {known}")
    for setting, flaw in INEXACT.items():
        if content.get(setting):
            raise CheckpointError(f"model.backbone: {name} {flaw}: use one without")
    return folder


def backbone_name(backbone: str) -> str:
    """What a backbone is called where others read it: a folder by its name alone."""
    return backbone if backbone in (MINI, MINI_RANDOM) or hub_name(backbone) else folder_name(backbone)


def folder_name(path: str) -> str:
    """The last part of a path; the rest of it is of this machine, and may name a person."""
    return Path(os.path.abspath(path)).name


def hub_name(backbone: str) -> str | None:
    """The name on the hub of a backbone that was located; None for a folder, mini and mini-random."""
    return backbone if "/" in backbone and not Path(backbone).exists() else None


def hash_weights(folder: Path | None) -> dict[str, str]:
    """The SHA-256 of the files with a backbone's weights, by name; none of mini-random."""
    return {} if folder is None else hash_files(folder, _weights_in([file.name for file in folder.iterdir()]))


def load_feature_extractor(folder: Path | None) -> Wav2Vec2FeatureExtractor:
    """The preprocessor of a backbone; the usual one (16 kHz, normalised) where there is none."""
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor()
    if folder is not None and (folder / "preprocessor_config.json").is_file():
        try:
            extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{folder}/preprocessor_config.json is damaged: {_first_line(error)}") from None
    # Checkpoints with group norm say false; crycli masks their padding too, so every batch carries its mask.
    extractor.return_attention_mask = True
    extractor.padding_side, extractor.padding_value = "right", 0.0  # where the network masks it
    return extractor


def build_model(
    config: Config, folder: Path | None, labels: list[str], sample_rate: int = SAMPLE_RATE
) -> SpeechClassification:
    """A network to be trained: the backbone's weights and a head from the seed, `train.seed`, or from the folder.

    Args:
        config: `model`, SpecAugment in `augment`, `data.min_seconds`, `data.max_seconds` and `train.seed` are used.
        folder: from `locate_backbone`; None: `mini` from scratch.
        labels: in the order of the logits.
        sample_rate: Hz, of the samples that the network takes.

    Raises:
        CheckpointError: the folder's weights are damaged, or do not fill the backbone; with `model.keep_head`, it has
            no head for these labels and this pooling.
    """
    import torch

    from crycli.model import SpeechClassificationConfig, Wav2Vec2ForSpeechClassification

    quiet_libraries()
    settings: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "num_labels": len(labels),
        "problem_type": "single_label_classification",
        "pooling_mode": recipe.pooling(config),
        "layer_mode": config.model.layers,
        "speeds": _speeds(config, folder),
        "final_dropout": config.model.final_dropout,
        "window_seconds": config.data.max_seconds,
        "backbone": backbone_name(config.model.backbone),
        "crycli_version": __version__,
    }
    applied = folder is None or bool(read_json(folder / "config.json").get("apply_spec_augment", True))
    settings |= _spec_augment(config.augment, applied)
    if config.model.attention_dropout != "auto":
        settings["attention_dropout"] = config.model.attention_dropout
    torch.manual_seed(config.train.seed)
    model: SpeechClassification
    kept = _head_labels(config, folder, labels) if config.model.keep_head else None
    if folder is None:
        model = Wav2Vec2ForSpeechClassification(SpeechClassificationConfig(**(MINI_ARCHITECTURE | settings)))
        initialise(model.backbone, sample_rate)
    elif kept is not None:
        model = _load_weights(folder, safetensors_only=True, **settings)
        _order_head(model, kept, labels)
    else:
        model = _load_weights(folder, safetensors_only=False, **settings)
        # New even where the folder holds a classifier: its labels may be others, or in another order.
        torch.manual_seed(config.train.seed)
        model.reset_head()
    # SpecAugment raises where its masks are longer than a clip, or than the features are many.
    network: Any = model.config
    shortest = SHORTEST_SECONDS if config.augment.speed > 0 else config.data.min_seconds
    frames = model.count_frames(round(shortest * sample_rate / max(network.speeds)))
    network.mask_time_length = max(1, min(network.mask_time_length, frames))
    network.mask_feature_length = min(network.mask_feature_length, network.hidden_size)
    return model


def _speeds(config: Config, folder: Path | None) -> tuple[float, ...]:
    """At which the network hears a clip."""
    if config.model.speeds != "auto":
        return tuple(config.model.speeds)
    if folder is None or not config.model.keep_head:
        return (1.0,)
    return tuple(read_json(folder / "config.json").get("speeds", (1.0,)))


def _head_labels(config: Config, folder: Path | None, labels: Sequence[str]) -> list[str]:
    """The labels of a head that can be kept, in the order of its logits; an error where it cannot."""
    name = config.model.backbone
    made = {} if folder is None else read_json(folder / "config.json")
    if not made.get("model_type", "").startswith(OWN_TYPE):
        raise CheckpointError(f"model.keep_head: {name} has no head: name a model of `crycli train` in model.backbone")
    names: dict[str, str] = made.get("id2label", {})
    before = [names[number] for number in sorted(names, key=int)]
    if sorted(before) != sorted(labels):
        raise CheckpointError(
            f"model.keep_head: the head of {name} tells {', '.join(before)} apart, and the data bear "
            f"{', '.join(labels)}: a new head is needed (model.keep_head=false)"
        )
    for setting, key, wanted in (
        ("model.pooling", "pooling_mode", recipe.pooling(config)),
        ("model.layers", "layer_mode", config.model.layers),
    ):
        if made.get(key) != wanted:
            raise CheckpointError(
                f"model.keep_head: the head of {name} was made with {setting}={made.get(key)}: set it"
            )
    return before


def _order_head(model: SpeechClassification, before: Sequence[str], labels: Sequence[str]) -> None:
    """Bring the logits of a head, which answers with the labels `before`, into the order of `labels`."""
    import torch

    order = [before.index(label) for label in labels]
    last: Any = model.classifier.out_proj
    with torch.no_grad():
        last.weight.copy_(last.weight[order].clone())
        last.bias.copy_(last.bias[order].clone())


def _spec_augment(augment: AugmentConfig, applied: bool) -> dict[str, Any]:
    """The settings of a network for SpecAugment (Park et al. 2019), where its own are not to be kept.

    transformers masks spans of mask_time_length frames, share * frames / mask_time_length of them and
    mask_time_min_masks at least, drawn anew for each clip; likewise for features. Spans may overlap, so that the share
    is what is masked at most, and the least number would go beyond it: two spans are 40% of a second.

    Args:
        augment: the wanted shares.
        applied: whether the network's own configuration has SpecAugment switched on.
    """
    wanted = {"time": augment.time_mask, "feature": augment.feature_mask}
    if set(wanted.values()) == {"auto"}:
        return {}
    settings: dict[str, Any] = {"apply_spec_augment": True}
    for axis, share in wanted.items():
        if share != "auto":
            settings |= {f"mask_{axis}_prob": share, f"mask_{axis}_min_masks": 0}
        elif not applied:
            settings[f"mask_{axis}_prob"] = 0.0  # the other one alone is wanted
    return settings


def load_model(folder: Path) -> SpeechClassification:
    """A trained network from its model folder, ready to classify.

    Raises:
        CheckpointError: the weights are missing, damaged, or not all there.
    """
    quiet_libraries()
    model = _load_weights(folder, safetensors_only=True)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _load_weights(folder: Path, *, safetensors_only: bool, **settings: Any) -> SpeechClassification:
    from pickle import UnpicklingError

    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    from crycli.model import FAMILIES

    family = FAMILIES[read_json(folder / "config.json")["model_type"].removeprefix(OWN_TYPE)]
    try:
        # float32: transformers would otherwise keep a half-precision checkpoint in half precision. Backbones of
        # 2021 come as pytorch_model.bin alone, which torch reads with its restricted loader: tensors, no code.
        loaded: Any = family.from_pretrained(
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True if safetensors_only else None,
            local_files_only=True,
            **settings,
        )
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        KeyError,
        UnpicklingError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        raise CheckpointError(f"cannot load the weights in {folder}: {_first_line(error)}") from None
    model: SpeechClassification
    model, report = loaded
    lacking = set(report["missing_keys"]) | {str(key[0]) for key in report["mismatched_keys"]}
    backbone, mask = f"{model.base_model_prefix}.", ".masked_spec_embed"
    if settings:  # to be trained, with masks, it may be, where it was made without: what stands for these is new
        lacking = {key for key in lacking if not key.endswith(mask)}
    if not safetensors_only:  # the head is to be made
        lacking = {key for key in lacking if key.startswith(backbone)}
    if lacking:
        raise CheckpointError(
            f"the weights in {folder} do not fit its config.json: {len(lacking)} are missing or of another shape, "
            f"such as {min(lacking)}"
        )
    return model


def save_model_folder(
    model: SpeechClassification,
    extractor: Wav2Vec2FeatureExtractor,
    folder: Path,
    write_more: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a complete model folder, replacing an older one only once the new one is whole.

    Args:
        model: the network.
        extractor: its feature extractor.
        folder: the model folder.
        write_more: writes what else belongs into the folder that it is given.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    extractor.save_pretrained(temporary)
    write_more(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def fetch(name: str, *, offline: bool, advice: str = DOWNLOAD) -> Path:
    """The folder of a model on the hub: from the local cache where it is there, downloaded otherwise.

    Args:
        name: owner/name.
        offline: use the cache alone.
        advice: what to do where it cannot be had, for the error.

    Raises:
        CheckpointError: it is not in the cache and the hub is out of reach (after at most `HUB_SECONDS`), offline
            mode is on, or the hub has no such model.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
        if (cached / "config.json").is_file() and _weights_in([file.name for file in cached.iterdir()]):
            return cached
    except (LocalEntryNotFoundError, OSError, ValueError):
        pass
    if offline or constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"no folder {name}, and offline mode keeps crycli from the model hub: {advice}")
    files = _hub_files(name)
    if files is None:
        raise CheckpointError(f"no folder {name}, and the model hub is out of reach: {advice}")
    weights = _weights_in(files)
    if "config.json" not in files or not weights:
        raise CheckpointError(f"the hub's {name} has no config.json with model.safetensors or pytorch_model.bin")
    logger.info("downloading %s", name)
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", *weights]))
    except (HfHubHTTPError, OSError) as error:
        reason = _first_line(error)
        raise CheckpointError(f"the download of {name} broke off ({reason}): try again, or {advice}") from None


def _weights_in(files: list[str]) -> list[str]:
    """The weight files to use: safetensors where there are any."""
    safetensors = [file for file in files if file.endswith(".safetensors")]
    return safetensors or [file for file in files if file == "pytorch_model.bin"]


def _hub_files(name: str) -> list[str] | None:
    """The file names of a model on the hub; None where the hub does not answer in time."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    answer: list[list[str] | Exception] = []

    def ask() -> None:
        try:
            info = HfApi().model_info(name, timeout=HUB_SECONDS)
            answer.append([sibling.rfilename for sibling in info.siblings or []])
        except Exception as error:  # handed to the caller's thread, which decides
            answer.append(error)

    # In a thread: looking up the host's name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if not answer:
        return None
    if isinstance(answer[0], GatedRepoError):
        raise CheckpointError(f"the hub's {name} needs an account: log in with `hf auth login`")
    if isinstance(answer[0], RepositoryNotFoundError):
        raise CheckpointError(f"{name} is neither a folder here nor a model on the hub")
    if isinstance(answer[0], Exception):
        logger.debug("the hub did not answer: %s", answer[0])
        return None
    return answer[0]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # `strict` names the field in the first line and says what is wrong with it in the second.
    return " ".join(line.strip() for line in lines[:2]) if lines[0].endswith(":") else lines[0]
