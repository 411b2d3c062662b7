"""Comparing the weight gradients of convolutions, one convolution per victim in a single grouped one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight


class ConvolutionComparison(torch.autograd.Function):
    """Inner product with an observed weight gradient G, and squared norm, of the candidate's weight gradient g, per victim.

    g is bilinear in the layer's input and error, so with W = c_product G + 2 c_norm g (the factors being what is back-propagated
    to the two results) the derivative by the error is the convolution of the input with W, and that by the input its transpose:
    three grouped convolutions in all, where differentiating g itself would take more and keep its intermediates.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, delta: Tensor, observed: Tensor, layer: nn.Conv2d, victims: int) -> tuple[Tensor, Tensor]:
        """Input [N * B, C, H, W], error [N * B, O, H', W'], observed [N, O, C / groups, kH, kW]; two results [N]."""
        settings = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": victims * layer.groups}
        inputs, errors = _victims_to_groups(a, victims), _victims_to_groups(delta, victims)
        gradient = conv2d_weight(inputs, observed.flatten(0, 1).shape, errors, **settings).view_as(observed)
        ctx.save_for_backward(inputs, errors, observed, gradient)
        ctx.settings, ctx.victims = settings, victims
        candidate = gradient.flatten(1)
        return (candidate * observed.flatten(1)).sum(1), candidate.square().sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_product: Tensor, by_norm: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives by the input and the error."""
        inputs, errors, observed, gradient = ctx.saved_tensors
        shape = (-1, 1, 1, 1, 1)
        weight = (by_product.view(shape) * observed + 2 * by_norm.view(shape) * gradient).flatten(0, 1)
        by_input = by_error = None
        if ctx.needs_input_grad[0]:
            by_input = _groups_to_victims(conv2d_input(inputs.shape, weight, errors, **ctx.settings), ctx.victims)
        if ctx.needs_input_grad[1]:
            by_error = _groups_to_victims(F.conv2d(inputs, weight, **ctx.settings), ctx.victims)
        return by_input, by_error, None, None, None


def _victims_to_groups(values: Tensor, victims: int) -> Tensor:
    """[N * B, C, H, W] to [B, N * C, H, W]; no copy for B = 1."""
    return values.unflatten(0, (victims, -1)).transpose(0, 1).flatten(1, 2)


def _groups_to_victims(values: Tensor, victims: int) -> Tensor:
    """[B, N * C, H, W] to [N * B, C, H, W]."""
    return values.unflatten(1, (victims, -1)).transpose(0, 1).flatten(0, 1)
