"""Batches that several clients share evenly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


class EvenBatches:
    """The batches of a loader, of multiples of a number of clients: what is too much is put before the next batch, and what is left
    at the end of an epoch, less than one image for each, is left out.

    Args:
        loader: iterates over batches (images, labels), with a ``dataset``, a ``batch_size`` and a ``len`` where it can tell.
        clients: >= 1.
    """

    def __init__(self, loader: Any, clients: int) -> None:
        self._loader, self._clients = loader, clients
        self.dataset = getattr(loader, "dataset", None)

    def __len__(self) -> int:
        images, size = len(self.dataset), self._loader.batch_size  # type: ignore[arg-type]
        ends = [min(images, step * size) // self._clients for step in range(len(self._loader) + 1)]
        return sum(end > before for before, end in pairwise(ends))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        left: list[tuple[Tensor, Tensor]] = []
        for batch in self._loader:
            x, y = (torch.cat(parts) for parts in zip(*left, batch, strict=True))
            even = len(x) // self._clients * self._clients
            if even:
                yield x[:even], y[:even]
            left = [(x[even:], y[even:])]
