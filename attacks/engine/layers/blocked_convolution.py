"""Strided convolutions of few channels, computed on blocks of pixels as channels.

Libraries convolve three channels at stride two an order of magnitude more slowly, forward to backward, than twelve channels of half
the size at stride one, which is the same computation with the kernel's taps sorted by their place in a block.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.engine.layers.convolution_comparison import Geometry
from attacks.engine.layers.patch_convolution import PatchConvolution
from attacks.engine.layers.turned_convolution import TurnedConvolution

#: More channels than these run well as they are (measured on LeNet: 3 channels gain five-fold, 12 lose).
_MOST_CHANNELS = 16

_C = TypeVar("_C", TurnedConvolution, PatchConvolution)


class BlockedConvolution(Generic[_C]):
    """A replacement of a convolution's forward pass: the same output from blocks of stride x stride pixels.

    Attributes:
        geometry: that of the convolution over the blocks.
        convolve: that convolution.
        blocks: input of that convolution in the last forward pass, [N, C * stride^2, H', W'].
        real: [1, C * stride^2, k', k'], 1 at the taps that the kernel has, 0 at those that fill up its last blocks.
    """

    geometry = Geometry((1, 1), (0, 0), (1, 1), 1)

    def __init__(self, layer: nn.Conv2d, convolution: type[_C]) -> None:
        self._stride, self._kernel = layer.stride[0], layer.kernel_size
        self._padding = [int(padding) for padding in layer.padding]
        self.convolve: _C = convolution(self.arrange(layer.weight), layer.bias, (0, 0))
        self.real = self.arrange(torch.ones_like(layer.weight[:1]))
        self.blocks: Tensor | None = None

    @staticmethod
    def helps(layer: nn.Conv2d) -> bool:
        """Whether the layer is one that this computes, and faster."""
        stride = layer.stride[0]
        return (layer.stride == (stride, stride) and stride > 1 and layer.dilation == (1, 1) and layer.groups == 1
                and layer.in_channels * stride**2 <= _MOST_CHANNELS)

    def arrange(self, weight: Tensor) -> Tensor:
        """Kernels [..., C, kH, kW] as kernels over blocks [..., C * stride^2, k', k']."""
        fill = [(-size) % self._stride for size in self._kernel]
        return F.pixel_unshuffle(F.pad(weight, (0, fill[1], 0, fill[0])), self._stride)

    def __call__(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, padding in reversed(list(zip(x.shape[-2:], self._kernel, self._padding, strict=True))):
            outputs = (size + 2 * int(padding) - kernel) // self._stride + 1
            needed = self._stride * (outputs + -(-kernel // self._stride) - 1)
            pads += [padding, needed - size - padding]  # below zero where the last pixels are never read
        self.blocks = F.pixel_unshuffle(F.pad(x, pads), self._stride)
        return self.convolve(self.blocks)
