"""Random numbers that belong to one victim."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive(*key: int | str) -> int:
    """A seed in [0, 2^63) from a key; equal keys give equal seeds, on every machine."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class VictimNoise:
    """Standard normal noise with one stream per victim, drawn on the CPU in float32 so that every device and precision sees the
    same numbers.

    Args:
        seeds: one per victim.
        shape: of one draw.
        like: a tensor on the device and of the type that the noise is put to.
        block: how many draws of each victim are made ahead, so that the cost per victim is paid once per block.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...], like: Tensor, *, block: int = 1) -> None:
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._shape = shape
        self._device, self._dtype = like.device, like.dtype
        self._block = block
        self._drawn: list[Tensor] = []

    def draw(self) -> Tensor:
        """The next draw of every victim, [victims, *shape]."""
        if not self._drawn:
            blocks = [torch.randn((self._block, *self._shape), generator=g, device="cpu") for g in self._generators]
            self._drawn = list(torch.stack(blocks, 1).to(self._device, self._dtype, non_blocking=True).unbind(0))[::-1]
        return self._drawn.pop()
