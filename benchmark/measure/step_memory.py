"""How much memory a training step needs."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StepMemory(TorchDispatchMode):
    """Counts, while it is entered, the bytes that tensors hold: the most at any time is ``peak``.

    Parameters, buffers, their gradients and the optimizer's state count from the start, data sets do not. The count is by storage,
    so that it can be repeated, and compared between machines of one type of device; between types it differs by what their
    libraries keep for the backward pass (cuDNN's batch norm, for one, has a reserve). What a kernel takes for itself while it runs,
    and what an allocator keeps, is left out. May be entered several times.

    Args:
        module: the model that is trained.
        optimizer: its optimizer.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self._module, self._optimizer = module, optimizer
        self._held: dict[int, int] = {}
        self.peak = 0

    def __enter__(self) -> StepMemory:
        self._held.clear()
        parameters = list(self._module.parameters())
        state = [value for slot in self._optimizer.state.values() for value in tree_leaves(slot)]
        for tensor in (*parameters, *(p.grad for p in parameters), *self._module.buffers(), *state):
            self._count(tensor)
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            self._count(value)
        return result

    def _count(self, value: Any) -> None:
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        self._held[key] = storage.nbytes()
        weakref.finalize(storage, self._held.pop, key, None)
        self.peak = max(self.peak, sum(self._held.values()))
