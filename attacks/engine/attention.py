"""Attention that can be differentiated twice."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def twice_differentiable() -> AbstractContextManager[None]:
    """Within the context scaled dot-product attention is computed as products of matrices and a softmax: the fused kernels have no
    second derivative, on a CPU or a GPU. They are put back on leaving; forward passes alone need be within."""
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


class Attends(TorchFunctionMode):
    """Notes whether a forward pass within the context calls scaled dot-product attention; entering :func:`twice_differentiable`
    takes a hundredth of a small step, so that it is left out where nothing needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= func is F.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))
