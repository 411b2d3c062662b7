"""Random numbers that belong to one victim."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.support.upload import upload


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
        self._shape, self._block = shape, block
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._ahead = like.new_empty((block, len(seeds), *shape))
        self._drawn = [0] * len(seeds)

    def restart(self, place: int, seed: int) -> None:
        """Give the place to another victim, whose stream begins; the others' go on."""
        self._generators[place] = torch.Generator("cpu").manual_seed(seed)
        self._drawn[place] = 0

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the streams only."""
        self._generators = [self._generators[place] for place in places]
        self._drawn = [self._drawn[place] for place in places]
        self._ahead = self._ahead[:, upload(list(places), self._ahead.device)]

    def draw(self) -> Tensor:
        """The next draw of every victim, [victims, *shape]."""
        at = [drawn % self._block for drawn in self._drawn]
        empty = [place for place, position in enumerate(at) if position == 0]
        if empty:
            blocks = [torch.randn((self._block, *self._shape), generator=self._generators[place], device="cpu") for place in empty]
            drawn = upload(torch.stack(blocks, 1), self._ahead.device).to(self._ahead.dtype)
            if len(empty) == len(at):
                self._ahead = drawn
            else:
                self._ahead[:, upload(empty, drawn.device)] = drawn
        self._drawn = [drawn + 1 for drawn in self._drawn]
        if len(set(at)) == 1:
            return self._ahead[at[0]]
        places = torch.arange(len(at), device=self._ahead.device)
        return self._ahead[upload(at, self._ahead.device), places]
