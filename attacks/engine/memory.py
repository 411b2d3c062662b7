"""How much memory a matching step takes, and how much it may."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from attacks.engine.slots import even

log = logging.getLogger("leakboard")


#: Of a RuntimeError that says that memory was missing; cuDNN finds no engine where none has the workspace that it needs.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "unable to find an engine", "_STATUS_ALLOC_FAILED")

_share = 1.0


def allow(share: float, device: torch.device) -> None:
    """Let this process have a share, in (0, 1], of the memory of a GPU that it shares with others."""
    global _share
    _share = share
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device)


def size(device: torch.device) -> int:
    """Bytes of the memory of a GPU that this process may use in all."""
    return int(_share * torch.cuda.get_device_properties(device).total_memory)


def budget(device: torch.device) -> int:
    """Bytes that the steps of an attack may take.

    On a GPU three eighths of what this process may use: half of what is left where observed gradients take their quarter. What is
    held at the time does not count, nor what other processes take, so that the same command attacks as many victims at once,
    resumed or not; where memory is missing then, the attack goes on with fewer. On a CPU 1 GiB: what more victims at once share
    there (the reading of the model's weights) is shared long before.
    """
    return 2**30 if device.type != "cuda" else size(device) * 3 // 8


def release(device: torch.device) -> None:
    """Give back the memory that nobody uses any more: tensors in cycles, of which Python does not know how large they are, and what
    torch keeps of a GPU's for later ones."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


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
        isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY))


def with_less(attempt: Callable[[int], bool], width: int, device: torch.device) -> None:
    """Call ``attempt`` with a number of victims to work on at once until it says that nothing is left to do; where there is no
    memory for so many, with half as many.

    Args:
        attempt: does a part of the work, and says whether there is more; may be called again after it has raised.
        width: with which to begin.
        device: whose memory it is.
    """
    more = True
    while more:
        try:
            more = attempt(width)
            continue
        except Exception as error:
            if width == 1 or not is_out_of_memory(error):
                raise
            # Its frames hold what was computed, and somebody else, or one of them, may hold the error.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        release(device)
        width = even(max(1, width // 2))
        log.warning("out of memory: the attack goes on with %d victims at once", width)
