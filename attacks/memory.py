"""How much memory a matching step takes, and how much it may."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def budget(device: torch.device) -> int:
    """Bytes that the steps of an attack may take: half of the free memory of a GPU. On a CPU 1 GiB: what more victims at once share
    there (the reading of the model's weights) is shared long before."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return 2**30


def saved_bytes(compute: Callable[[], Any], *, shared: Iterable[Tensor] = ()) -> int:
    """Bytes of the tensors that autograd keeps between the forward and backward passes of a computation, ``shared`` ones aside."""
    storages: dict[int, int] = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in shared}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    return sum(storages.values())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in ("out of memory", "can't allocate memory")))
