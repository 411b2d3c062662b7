"""Copies from the host to the device that make neither wait for the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Of more bytes pinning takes longer than the copy, and the host keeps the pinned memory for later ones.
_MOST_PINNED = 2**26


def upload(values: Tensor | Sequence[int] | Sequence[float], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Values of the host on the device. To a GPU they go from pinned memory without blocking, unless they are large: kernels that
    are queued run on, and the host queues more.

    Args:
        values: a tensor on the CPU, or numbers (whole ones become int64).
        device: where to.
        dtype: of the result; by default as it comes.
    """
    # Numbers at once in their type: in float32 first they would be rounded.
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype, device="cpu")
    if dtype is not None:
        tensor = tensor.to(dtype)
    if device.type != "cuda" or tensor.nbytes > _MOST_PINNED:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
