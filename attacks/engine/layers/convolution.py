"""Two-dimensional convolutions, padded with zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from attacks.engine.kernels.products import Matrices
from attacks.engine.layers import convolution_comparison, outer_products
from attacks.engine.layers.blocked_convolution import BlockedConvolution
from attacks.engine.layers.convolution_comparison import Geometry, Grouped
from attacks.engine.layers.patch_convolution import PatchConvolution
from attacks.engine.layers.rule import Observed, Rule, formed, rule
from attacks.engine.layers.turned_convolution import TurnedConvolution
from attacks.engine.rows import FormedRows, Rows, rows_of
from attacks.engine.slots import Held
from attacks.objective.comparison import Comparison


@rule(nn.Conv2d)
class ConvolutionRule(Rule):
    """Input [S * B, C, H, W] and error [S * B, O, H', W'] of a two-dimensional convolution padded with zeros."""

    @staticmethod
    def suits(layer: nn.Module) -> bool:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        assert isinstance(layer, nn.Conv2d)
        self._slots, self._layer, self._distance = observed.slots, layer, observed.distance
        self._bias = formed(observed, "bias")
        self._geometry = Geometry(layer.stride, tuple(int(p) for p in layer.padding), layer.dilation, layer.groups)
        self._blocked: BlockedConvolution[Any] | None = None
        self._by_patches: PatchConvolution | None = None
        small = observed.slots.alone and PatchConvolution.helps(layer, a, delta)
        if small and layer.stride == (1, 1):
            self.forward = self._by_patches = PatchConvolution(layer.weight, layer.bias, self._geometry.padding)
        elif TurnedConvolution.helps(layer):
            self.forward = TurnedConvolution(layer.weight, layer.bias, self._geometry.padding)
        self._matrices: tuple[Matrices, Matrices | None] | None = None
        self._formed: tuple[Held, Held | None] | None = None
        if "weight" not in observed.gradients:
            return
        weight = observed.gradients["weight"]
        positions, rows, columns = a[0] * delta[2:].numel(), weight.shape[1], weight[0, 0].numel()
        cheaper = outer_products.cheaper_unformed(positions, rows, columns, masked="weight" in observed.masks)
        if layer.groups == 1 and cheaper:
            self._reached = _taps_reached(layer, a, weight.device)
            self._matrices = observed.matrices(positions, self._flat)
        elif layer.stride != (1, 1) and (small or BlockedConvolution.helps(layer)):
            if small:
                self._blocked = BlockedConvolution(layer, PatchConvolution)
                self._by_patches = self._blocked.convolve
            else:
                self._blocked = BlockedConvolution(layer, TurnedConvolution)
            self.forward, self._geometry = self._blocked, self._blocked.geometry
            self._formed = observed.explicit("weight", self._blocked.arrange)
        else:
            self._formed = observed.explicit("weight")

    @staticmethod
    def rows(layer: nn.Module, a: Tensor, delta: Tensor) -> dict[str, Rows]:
        assert isinstance(layer, nn.Conv2d)
        patches = _unfolded(a, layer)
        errors = delta.flatten(2)
        if layer.groups == 1:
            weight = rows_of(patches.mT, errors.mT)
        else:
            by_group = (t.unflatten(1, (layer.groups, -1)) for t in (errors, patches))
            weight = FormedRows(torch.einsum("kgop,kgip->kgoi", *by_group).flatten(1))
        return {"weight": weight, "bias": FormedRows(errors.sum(2))}

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        slots = len(self._slots)
        compared = {name: compare(delta.sum((2, 3)).unflatten(0, (slots, -1)).sum(1)) for name, compare in self._bias.items()}
        if self._matrices is not None:
            errors = _positions_last(delta.flatten(2), slots)
            compared["weight"] = outer_products.unformed(self._patches(a, slots), errors, *self._matrices)
        elif self._formed is not None:
            gradient, mask = self._formed
            where = None if mask is None else mask.value
            if self._blocked is not None:
                assert self._blocked.blocks is not None
                a, self._blocked.blocks = self._blocked.blocks, None
                where = self._blocked.real if where is None else where
            convolutions = self._by_patches or Grouped(self._geometry, slots)
            compared["weight"] = convolution_comparison.formed(
                a, delta, gradient.value, where, convolutions, distance=self._distance)
        return compared

    def _flat(self, weight: Tensor) -> Tensor:
        """[N, O, C, kH, kW] to [N, O, I], in the order of the patches."""
        kept = weight.flatten(3) if self._reached is None else weight.flatten(3).index_select(3, self._reached)
        return kept.flatten(2)

    def _patches(self, a: Tensor, slots: int) -> Tensor:
        """The pixels under the kernel at each position, [S, P, I]; without those that only ever lie in the padding."""
        layer = self._layer
        patches = _unfolded(a, layer)
        if self._reached is not None:
            patches = patches.unflatten(1, (layer.in_channels, -1)).index_select(2, self._reached).flatten(1, 2)
        return _positions_last(patches, slots)


def _unfolded(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """The pixels under the kernel at each position, [N, C * kH * kW, positions]."""
    padding = tuple(int(pad) for pad in layer.padding)
    if x.device.type == "cpu" or layer.dilation != (1, 1):
        return F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)
    return _unfolded_by_views(x, layer.kernel_size, padding, layer.stride)


def _unfolded_by_views(x: Tensor, kernel: tuple[int, ...], padding: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """The same by one copy of a view of all images; on a GPU ``F.unfold`` launches a kernel for each."""
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])  # [N, C, H', W', kH, kW]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)


def _positions_last(values: Tensor, slots: int) -> Tensor:
    """[S * B, channels, positions] to [S, B * positions, channels]."""
    return values.unflatten(0, (slots, -1)).transpose(2, 3).flatten(1, 2)


def _taps_reached(layer: nn.Conv2d, a: Size, device: torch.device) -> Tensor | None:
    """Which of the kH * kW taps ever meet a pixel: the gradient of the others is zero, whatever the image. None where all do."""
    axes = []
    for size, kernel, stride, padding, dilation in _by_axis(layer, a):
        outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        axes.append([
            tap for tap in range(kernel)
            if any(0 <= out * stride - padding + tap * dilation < size for out in range(outputs))
        ])
    reached = [row * layer.kernel_size[1] + column for row in axes[0] for column in axes[1]]
    return None if len(reached) == layer.kernel_size[0] * layer.kernel_size[1] else torch.tensor(reached, device=device)


def _by_axis(layer: nn.Conv2d, a: Size) -> list[tuple[int, ...]]:
    return list(zip(a[2:], layer.kernel_size, layer.stride, map(int, layer.padding), layer.dilation, strict=True))
