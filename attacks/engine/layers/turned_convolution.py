"""Convolutions at stride one whose derivative is again a convolution, by the kernel turned by half a turn.

On a CPU the libraries compute a convolution at up to twice the speed of what they offer for its derivative by the input (measured
on LeNet's layers: 142 beside 98, 192 beside 72 GFLOPS).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_Size = tuple[int, ...]


class TurnedConvolution:
    """A replacement of a convolution's forward pass: the same output, differentiable any number of times by the input alone."""

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: _Size) -> None:
        self._weight, self._bias, self._padding = weight.detach(), None if bias is None else bias.detach(), padding
        self._turned, self._back = turned(self._weight), turned_padding(weight, padding)

    @staticmethod
    def helps(layer: nn.Conv2d) -> bool:
        """Whether the layer is one that this computes, and faster."""
        padding = [int(pad) for pad in layer.padding]
        return (layer.weight.device.type == "cpu" and layer.stride == layer.dilation == (1, 1) and layer.groups == 1
                and all(pad < size for pad, size in zip(padding, layer.kernel_size, strict=True)))

    def __call__(self, x: Tensor) -> Tensor:
        return _Convolve.apply(x, self._weight, self._bias, self._padding, self._turned, self._back)


def turned(weight: Tensor) -> Tensor:
    """The kernel of the derivative by the input: turned by half a turn, inputs and outputs exchanged."""
    return weight.transpose(0, 1).flip(2, 3).contiguous()


def turned_padding(weight: Tensor, padding: _Size) -> _Size:
    """With which the turned kernel gives as many positions as the input had."""
    return tuple(size - 1 - pad for size, pad in zip(weight.shape[2:], padding, strict=True))


class _Convolve(torch.autograd.Function):
    """x with the kernel; backward with the turned kernel, whose own turned kernel is the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: _Size, turned: Tensor, back: _Size) -> Tensor:
        ctx.settings = turned, None, back, weight, padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor | None, ...]:
        return _Convolve.apply(by_output, *ctx.settings), None, None, None, None, None
