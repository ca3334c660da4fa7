"""Dropout that a CPU draws quickly: torch's own takes 15 to 17% of a training step there, on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

LEVELS = 1 << 16
"""Chances are rounded to a multiple of one in so many: each element costs 16 random bits."""

ELEMENTS_AT_ONCE = 1 << 16  # 128 KiB of random bits stay in a core's cache


class FastDropout(nn.Dropout):
    """`nn.Dropout` whose mask, on a CPU, comes from numpy's SFC64 generator in place of torch's `bernoulli_`.

    Each call takes one number from torch's global generator to seed its own. So a run whose torch state is restored,
    and a forward pass that gradient checkpointing repeats, draw the same masks, on any number of threads. On other
    devices, and where nothing is dropped or everything, it is `nn.Dropout`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name that nn.Dropout gives it)
        """Drop elements of a tensor of any shape, and scale the others up; in eval mode the input itself."""
        dropped_levels = round(self.p * LEVELS)
        if not self.training or input.device.type != "cpu" or not 0 < dropped_levels < LEVELS:
            return super().forward(input)
        output: torch.Tensor = _Drop.apply(input, dropped_levels)  # type: ignore[no-untyped-call]
        return output


def speed_up_dropout(model: nn.Module) -> None:
    """Turn every `nn.Dropout` in a network, but those that work in place, into a `FastDropout`, where it stands."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            # Another class for the same object keeps its hooks, its mode, and its place wherever it is shared.
            module.__class__ = FastDropout


class _Drop(torch.autograd.Function):
    """Keeps a byte an element for the backward pass, where torch keeps a float."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, dropped_levels: int) -> torch.Tensor:
        kept = _draw_mask(values.shape, dropped_levels)
        context.save_for_backward(kept)
        context.scale = LEVELS / (LEVELS - dropped_levels)
        return _keep(values, kept, context.scale)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (kept,) = context.saved_tensors
        return _keep(gradients[0], kept, context.scale), None


def _draw_mask(shape: torch.Size, dropped_levels: int) -> torch.Tensor:
    """uint8 of a shape: 1 where an element is kept."""
    seed = int(torch.empty((), dtype=torch.int64).random_())
    generator = np.random.SFC64(seed)
    words = -(-shape.numel() // 4)  # of 64 bits, for four elements each
    kept = np.empty(words * 4, dtype=np.bool_)
    for first in range(0, len(kept), ELEMENTS_AT_ONCE):
        some = kept[first : first + ELEMENTS_AT_ONCE]
        np.greater_equal(generator.random_raw(len(some) // 4).view(np.uint16), dropped_levels, out=some)
    return torch.from_numpy(kept.view(np.uint8)[: shape.numel()]).view(shape)


def _keep(values: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
    # Copied to the values' type first: a product of mixed types takes twice as long.
    return torch.empty_like(values).copy_(kept).mul_(values).mul_(scale)
