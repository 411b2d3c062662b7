"""How much memory a matching step takes, and how much it may."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from attacks.engine.slots import even

log = logging.getLogger("leakboard")


_share = 1.0


def allow(share: float, device: torch.device) -> None:
    """Let this process have a share, in (0, 1], of the memory of a GPU that it shares with others."""
    global _share
    _share = share
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device)


def budget(device: torch.device) -> int:
    """Bytes that the steps of an attack may take.

    Half of the memory of a GPU that this process may use and does not hold yet. What other processes take of it does not count, so
    that the same command attacks as many victims at once; where their memory is missing, the attack goes on with fewer. On a CPU
    1 GiB: what more victims at once share there (the reading of the model's weights) is shared long before.
    """
    if device.type != "cuda":
        return 2**30
    return max(0, int(_share * torch.cuda.get_device_properties(device).total_memory) - torch.cuda.memory_allocated(device)) // 2


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
        # Here the error is gone, and with it the frames that hold what was computed.
        width = even(max(1, width // 2))
        log.warning("out of memory: the attack goes on with %d victims at once", width)
        if device.type == "cuda":
            torch.cuda.empty_cache()
