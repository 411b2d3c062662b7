"""Counting what makes the host wait for the device."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
#: Operations whose result the host needs, or whose shape depends on the values.
_READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.nonzero.default,
          aten.masked_select.default, aten.unique_consecutive.default, aten._unique2.default}


class HostReads(TorchDispatchMode):
    """Lists, while it is entered, the operations by which the host reads from a device that is not the CPU: ``.item()``, ``.tolist()``,
    ``bool()``, ``.cpu()`` and the like, copies from and to the CPU that block among them. What is read is a zero."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        away = any(isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu" for leaf in tree_leaves((args, kwargs)))
        if away and function in _READS:
            self.found.append(str(function))
            if function is aten._local_scalar_dense.default:
                return args[0].dtype.is_floating_point and 0.0
        if away and function is aten._to_copy.default and torch.device(kwargs.get("device") or args[0].device).type == "cpu":
            self.found.append("to the CPU")
        if function is aten.copy_.default and args[0].device.type == "cpu" and args[1].device.type != "cpu":
            self.found.append("into a tensor of the CPU")
        return function(*args, **kwargs)
