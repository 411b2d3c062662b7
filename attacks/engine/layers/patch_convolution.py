"""Small convolutions as products of matrices with the patches of their input, for a victim that is attacked alone.

Libraries take 50 to 200 microseconds for a convolution of one image of 12 channels, of which 5 are arithmetic; a product of
matrices takes ten, and the patches, which take 20, serve the forward pass and the comparison of the weight's gradient alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from attacks.engine.layers.turned_convolution import turned, turned_padding

_Size = tuple[int, ...]

#: With more entries in its patches a convolution is left to the library.
_MOST_ENTRIES = 2**18


class PatchConvolution:
    """A replacement of the forward pass of a convolution at stride one: the same output but for rounding, differentiable any number
    of times by the input alone.

    Attributes:
        patches: of the input of the last forward pass, [C * kH * kW, N * H' * W'].
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: _Size) -> None:
        self._weight, self._bias, self._padding = weight.detach(), None if bias is None else bias.detach(), padding
        self._turned, self._back = turned(self._weight), turned_padding(weight, padding)
        self.patches: Tensor | None = None

    @staticmethod
    def helps(layer: nn.Conv2d, a: Size, delta: Size) -> bool:
        """Whether this computes the layer, or the same layer over blocks, faster, for such an input and output."""
        stride, padding = layer.stride[0], [int(pad) for pad in layer.padding]
        entries = delta[0] * delta[2:].numel() * layer.weight[0].numel()
        return (layer.weight.device.type == "cpu" and layer.stride == (stride, stride) and layer.dilation == (1, 1)
                and layer.groups == 1 and entries <= _MOST_ENTRIES
                and all(pad < size for pad, size in zip(padding, layer.kernel_size, strict=True)))

    def __call__(self, x: Tensor) -> Tensor:
        self.patches = patches_of(x.detach(), self._weight.shape, self._padding)
        return _Convolve.apply(x, self.patches, self._weight, self._bias, self._padding, self._turned, self._back)


    def inputs(self, a: Tensor) -> Tensor:
        """The patches of the last forward pass, whose input ``a`` was."""
        assert self.patches is not None
        found, self.patches = self.patches, None
        return found

    def errors(self, delta: Tensor) -> Tensor:
        return delta

    def gradient(self, inputs: Tensor, errors: Tensor, like: Tensor) -> Tensor:
        return (rows_of_channels(errors) @ inputs.mT).view_as(like)

    def by_input(self, weight: Tensor, errors: Tensor, shape: Size) -> Tensor:
        return _convolved(errors, None, turned(weight[0]), None, self._back)

    def by_error(self, inputs: Tensor, weight: Tensor, shape: Size) -> Tensor:
        return images_of(weight[0].flatten(1) @ inputs, (shape[0], *shape[2:]))


def patches_of(x: Tensor, kernel: Size, padding: _Size) -> Tensor:
    """The pixels of [N, C, H, W] under a kernel [O, C, kH, kW] at each position of each image: [C * kH * kW, N * H' * W']."""
    if any(padding):
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    return x.unfold(2, kernel[2], 1).unfold(3, kernel[3], 1).permute(1, 4, 5, 0, 2, 3).reshape(kernel[1:].numel(), -1)


def rows_of_channels(values: Tensor) -> Tensor:
    """[N, O, H', W'] as [O, N * H' * W']; no copy for N = 1."""
    return values.transpose(0, 1).flatten(1)


def images_of(rows: Tensor, shape: _Size) -> Tensor:
    """[O, N * H' * W'] as [N, O, H', W'], given N, H' and W'; no copy for N = 1."""
    return rows.unflatten(1, shape).transpose(0, 1).contiguous()


def _convolved(x: Tensor, patches: Tensor | None, weight: Tensor, bias: Tensor | None, padding: _Size) -> Tensor:
    """x [N, C, H, W], whose patches may be given, with a kernel [O, C, kH, kW]."""
    if patches is None:
        patches = patches_of(x, weight.shape, padding)
    rows = weight.flatten(1) @ patches if bias is None else torch.addmm(bias[:, None], weight.flatten(1), patches)
    height, width = (size + 2 * pad - kernel + 1 for size, pad, kernel in zip(x.shape[2:], padding, weight.shape[2:], strict=True))
    return images_of(rows, (len(x), height, width))


class _Convolve(torch.autograd.Function):
    """x, whose patches may be given, with the kernel; backward with the turned kernel, whose own turned kernel is the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, patches: Tensor | None, weight: Tensor, bias: Tensor | None, padding: _Size, turned: Tensor,
                back: _Size) -> Tensor:
        ctx.settings = turned, None, back, weight, padding
        return _convolved(x, patches, weight, bias, padding)

    @staticmethod
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor | None, ...]:
        return _Convolve.apply(by_output, None, *ctx.settings), None, None, None, None, None, None
