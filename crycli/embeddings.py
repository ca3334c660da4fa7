"""What a frozen backbone says about clips: computed once, kept on disk, and all that the head is trained on."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
import xxhash
from torch import nn

from crycli import model as network_code
from crycli.cache import cache_folder
from crycli.config import Config
from crycli.dataset import DataCollatorCTCWithPadding, PreparedData, Windows, collate_targets, window_length
from crycli.model import SpeechClassification, SpeechClassifierOutput
from crycli.outputs import write_bytes
from crycli.progress import OnStep, Step

GPU_BATCH = 16
DIGEST_BYTES = 16
LONGER_AT_MOST = 1.05  # times the shortest window of a batch: padding costs time

Embeddings = npt.NDArray[np.float32]
"""(windows, width), or (windows, layers, hidden) where the weights of the layers are learnt."""

OF_THE_HEAD = frozenset(
    "id2label label2id num_labels problem_type final_dropout window_seconds backbone crycli_version "
    "_name_or_path architectures auto_map transformers_version".split()
)
"""What a model's configuration says that its embeddings do not depend on."""

logger = logging.getLogger(__name__)


class Head(nn.Module):
    """The trained rest of a network whose backbone is frozen: embeddings to logits, with the network's own weights."""

    def __init__(self, network: SpeechClassification) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple: the backbone is not to be trained, saved or moved with the head
        backbone = network.base_model_prefix
        for name, child in network.named_children():
            if name != backbone:
                self.add_module(name, child)
        for name, parameter in network.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, embeddings: torch.Tensor) -> SpeechClassifierOutput:
        """Logits of (batch, ...) embeddings."""
        return SpeechClassifierOutput(logits=self._network[0].classify(embeddings))


class EmbeddedWindows:
    """The rows of `Windows`, as embeddings.

    Attributes:
        clips: (windows,) the clip of each window.
    """

    def __init__(self, windows: Windows, embeddings: Embeddings, labels: npt.NDArray[np.int64]) -> None:
        self.clips = windows.clips
        self._embeddings = embeddings
        self._labels = labels

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Embeddings and labels (a class number) of a window."""
        return {"embeddings": self._embeddings[index], "labels": int(self._labels[self.clips[index]])}


class EmbeddedClips:
    """The clips of the training part; of one that is longer than a window, another window in each epoch."""

    def __init__(self, windows: EmbeddedWindows, count: int, seed: int) -> None:
        self._windows = windows
        self._seed = seed
        self._of_clip: list[list[int]] = [[] for _ in range(count)]
        for window, clip in enumerate(windows.clips):
            self._of_clip[clip].append(window)

    def __len__(self) -> int:
        return len(self._of_clip)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        """embeddings, labels and clips (the index) for a key of `ClipSampler`: (epoch, index, draw)."""
        epoch, index, draw = key
        choice = self._of_clip[index]
        window = choice[0]
        if len(choice) > 1:
            window = choice[np.random.default_rng((self._seed, epoch, index, draw)).integers(len(choice))]
        return self._windows[window] | {"clips": index}


def collate_embeddings(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows to a batch: embeddings (batch, ...) float32, labels and clips."""
    return {"embeddings": torch.from_numpy(np.stack([row["embeddings"] for row in rows])), **collate_targets(rows)}


def embed_part(
    network: SpeechClassification,
    prepared: PreparedData,
    part: str,
    config: Config,
    device: str,
    precision: str,
    on_step: OnStep,
) -> EmbeddedWindows:
    """What the frozen backbone says about the windows of a part; what is kept from before is not computed again."""
    extractor = prepared.feature_extractor
    windows = Windows(prepared.parts[part], extractor, window_length(config, extractor))
    folder = cache_folder(config.cache)
    store = _Store(None if folder is None else folder / "embeddings" / _content_key(network, precision))
    keys = [xxhash.xxh3_128_hexdigest(windows[index]["input_values"].tobytes()) for index in range(len(windows))]
    found = {index: kept for index, key in enumerate(keys) if (kept := store.get(key)) is not None}
    missing = [index for index in range(len(windows)) if index not in found]
    if found:
        logger.info("%s: what the backbone says about %d of %d clips is kept from before", part, len(found), len(keys))
    done = len(found)
    collate = DataCollatorCTCWithPadding(extractor)
    torch.nn.Module.to(network, device)
    torch.nn.Module.eval(network)
    for batch in _batches(missing, windows, 1 if device == "cpu" else GPU_BATCH):
        inputs = collate([windows[index] for index in batch])
        for index, embedding in zip(batch, _embed(network, inputs, device, precision), strict=True):
            found[index] = embedding
            store.put(keys[index], embedding)
        done += len(batch)
        on_step(Step(f"embed {part}", done, len(windows)))
    labels: npt.NDArray[np.int64] = np.asarray(prepared.parts[part]["labels"][:], dtype=np.int64)
    return EmbeddedWindows(windows, np.stack([found[index] for index in range(len(windows))]), labels)


def _batches(indices: Sequence[int], windows: Windows, size: int) -> Iterator[list[int]]:
    """Batches of windows, which come sorted by length, of nearly one length."""
    batch: list[int] = []
    for index in indices:
        if batch and (len(batch) == size or windows.length(index) > LONGER_AT_MOST * windows.length(batch[0])):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _embed(network: SpeechClassification, inputs: dict[str, torch.Tensor], device: str, precision: str) -> Embeddings:
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    with torch.inference_mode(), torch.autocast(device, types.get(precision), enabled=precision in types):
        embedded = network.embed(inputs["input_values"].to(device), inputs["attention_mask"].to(device))
    return np.asarray(embedded.float().cpu().numpy(), dtype=np.float32)


def _content_key(network: SpeechClassification, precision: str) -> str:
    """A key that changes with the backbone's weights, the pooling, the precision and the code."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(network.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    settings = {key: value for key, value in network.config.to_dict().items() if key not in OF_THE_HEAD}
    about = [settings, precision, torch.__version__, transformers.__version__]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    digest.update(Path(str(network_code.__file__)).read_bytes())
    return digest.hexdigest()


class _Store:
    """Arrays in files, each behind its digest. Whatever is wrong with them costs time and never the run."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._give_up(error)

    def get(self, key: str) -> Embeddings | None:
        if self._folder is None:
            return None
        with suppress(OSError):
            content = (self._folder / f"{key}.embedding").read_bytes()
            digest, array = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
            if xxhash.xxh3_128_digest(array) == digest:  # otherwise it is damaged, and computed again
                return np.asarray(np.load(io.BytesIO(array), allow_pickle=False), dtype=np.float32)
        return None

    def put(self, key: str, embedding: Embeddings) -> None:
        if self._folder is None:
            return
        buffer = io.BytesIO()
        np.save(buffer, embedding, allow_pickle=False)
        try:
            array = buffer.getvalue()
            write_bytes(self._folder / f"{key}.embedding", xxhash.xxh3_128_digest(array) + array)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.info("what the backbone says is not kept for the next run: %s: %s", self._folder, error.strerror)
        self._folder = None
