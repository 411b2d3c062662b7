"""Running a forward pass without in-place operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_AUGMENTED: dict[Any, Callable[..., Any]] = {
    Tensor.add_: torch.add,
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
}


class OutOfPlace(TorchFunctionMode):
    """Compute augmented assignments (``x += y``) and functional activations with ``inplace=True`` out of place.

    The outputs of layers with full backward hooks are views that must not be written to, which the residual additions of
    torchvision's models do. An augmented assignment binds its result to the name again, so the outcome is the same.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("inplace") is True:
            kwargs = {**kwargs, "inplace": False}
        return _AUGMENTED.get(func, func)(*args, **kwargs)
