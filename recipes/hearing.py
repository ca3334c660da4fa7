"""What the frozen convolutions of the detector's network make of each clip, computed once; and the network behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crycli import audio
from crycli.augment import TrainingView
from crycli.checkpoint import build_model
from crycli.config import Config
from crycli.manifest import Clip
from crycli.model import mask_of
from crycli.parallel import map_processes

COPIES = 4  # augmented ones of each clip, beside the clip itself
FROZEN = 2  # convolutions
RATE = audio.SAMPLE_RATE

Heard = tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]
"""(copies + 1, frames, channels), zeros after a clip's end; and (copies + 1,), its samples."""


def recall(
    heard: Path | None, clips: Sequence[Clip], labels: Sequence[str], config: Config
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """What `Hearing` gives of all clips, from the file where it holds that of these and this configuration."""
    of = f"{[str(clip.path) for clip in clips]} {config.augment} {config.data.max_seconds} {config.train.seed}"
    if heard is not None and heard.exists():
        with np.load(heard) as kept:
            if str(kept["of"]) == of:
                return kept["features"], kept["lengths"]
    found: list[Heard] = []
    threads = torch.get_num_threads()
    for result in map_processes(Hearing(config, labels), list(enumerate(clips)), config.workers, _give_up):
        if len(found) % 500 == 0:
            print(f"heard {len(found):,} of {len(clips):,} clips", flush=True)
        found.append(result)
    torch.set_num_threads(threads)  # some were heard here, with one
    features, lengths = (np.stack(some) for some in zip(*found, strict=True))
    if heard is not None:
        np.savez(heard, features=features, lengths=lengths, of=of)
    return features, lengths


class Hearing:
    """What the frozen convolutions make of a clip and its copies; a class, because a process must be able to load it.

    Args:
        config: its sections `data`, `augment` and `train`.
        labels: of the network.
    """

    def __init__(self, config: Config, labels: Sequence[str]) -> None:
        self._config, self._labels = config, labels
        self._tools: tuple[Any, Any, TrainingView] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; it makes the tools itself, whose locks cannot be sent."""
        return {**vars(self), "_tools": None}

    def _make_tools(self) -> tuple[Any, Any, TrainingView]:
        torch.set_num_threads(1)  # there is a process for each core
        model: Any = build_model(self._config, None, list(self._labels))
        return model, model.eval().backbone.feature_extractor.conv_layers[:FROZEN], TrainingView(self._config, RATE)

    def __call__(self, item: tuple[int, Clip]) -> Heard:
        """Of a clip and its number, on which its copies depend."""
        index, clip = item
        self._tools = self._tools or self._make_tools()
        model, layers, view = self._tools
        longest = round(self._config.data.max_seconds * RATE)
        samples = audio.load(clip.path, RATE, clip.start, clip.end)
        first = max(0, (len(samples) - longest) // 2)
        heard = np.zeros((COPIES + 1, model.count_frames(longest, FROZEN), layers[-1].conv.out_channels), np.float16)
        lengths = np.zeros(COPIES + 1, np.int64)
        for copy in range(COPIES + 1):
            part = samples[first : first + longest]
            if copy:
                key = (self._config.train.seed, copy, index, 0)
                part, _ = view.waveform([samples].__getitem__, 0, key, 1)
            with torch.no_grad():
                hidden = torch.from_numpy(audio.normalise(part))[None, None]
                for layer in layers:
                    hidden = layer(hidden)
            heard[copy, : hidden.shape[2]] = hidden[0].T.numpy()
            lengths[copy] = len(part)
        return heard, lengths


def _give_up(item: tuple[int, Clip]) -> Heard:
    raise SystemExit(f"{item[1].path}: a process died of it")


def behind_the_frozen(model: Any, values: torch.Tensor, lengths: torch.Tensor, context: bool = True) -> torch.Tensor:
    """What the model makes of the frozen convolutions' output, as its own forward does: (batch, classes).

    Args:
        model: without transformer layers.
        values: (batch, frames, channels) of `Hearing`.
        lengths: (batch,), samples.
        context: False leaves out what is around each frame, which the model's own forward never does.
    """
    backbone = model.backbone
    hidden = values.transpose(1, 2)
    for layer in backbone.feature_extractor.conv_layers[FROZEN:]:
        hidden = layer(hidden)
    hidden, _ = backbone.feature_projection(hidden.transpose(1, 2))
    valid = mask_of(model.count_frames(lengths), hidden.shape[1])
    hidden = hidden * valid[..., None]  # or a clip's last frames would hear what lies after its end
    if context:
        hidden = hidden + backbone.encoder.pos_conv_embed(hidden)
    hidden = backbone.encoder.layer_norm(hidden)
    logits: torch.Tensor = model.classify(model.pool_layers(hidden[None], valid))
    return logits
