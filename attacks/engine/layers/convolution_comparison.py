"""Comparing the weight gradients of convolutions, by default with one convolution per victim in a single grouped one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Size, Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from attacks.objective.comparison import Comparison, dot


@dataclass(frozen=True)
class Geometry:
    """Settings of a two-dimensional convolution that is padded with zeros."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def settings(self, victims: int) -> dict[str, Any]:
        """Arguments of a convolution in which each victim has its own groups of channels."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": victims * self.groups}


class Convolutions(Protocol):
    """How inputs [S * B, C, H, W] and errors [S * B, O, H', W'] make the gradients of weights [S, O, C / groups, kH, kW], and such
    weights W the derivatives."""

    def inputs(self, a: Tensor) -> Tensor:
        """The inputs as they are used."""

    def errors(self, delta: Tensor) -> Tensor:
        """The errors as they are used."""

    def gradient(self, inputs: Tensor, errors: Tensor, like: Tensor) -> Tensor:
        """That of the weight, of the shape of ``like``; a tensor that may be written into."""

    def by_input(self, weight: Tensor, errors: Tensor, shape: Size) -> Tensor:
        """The derivative of <gradient, W> by inputs of a shape."""

    def by_error(self, inputs: Tensor, weight: Tensor, shape: Size) -> Tensor:
        """The derivative of <gradient, W> by errors of a shape."""


@dataclass(frozen=True)
class Grouped:
    """One convolution per victim in a single grouped one.

    Args:
        geometry: of the layer.
        victims: S.
    """

    geometry: Geometry
    victims: int

    def inputs(self, a: Tensor) -> Tensor:
        return _victims_to_groups(a, self.victims)

    errors = inputs

    def gradient(self, inputs: Tensor, errors: Tensor, like: Tensor) -> Tensor:
        return conv2d_weight(inputs, like.flatten(0, 1).shape, errors, **self.geometry.settings(self.victims)).view_as(like)

    def by_input(self, weight: Tensor, errors: Tensor, shape: Size) -> Tensor:
        grouped = Size((shape[0] // self.victims, self.victims * shape[1], *shape[2:]))
        found = conv2d_input(grouped, weight.flatten(0, 1), errors, **self.geometry.settings(self.victims))
        return _groups_to_victims(found, self.victims)

    def by_error(self, inputs: Tensor, weight: Tensor, shape: Size) -> Tensor:
        return _groups_to_victims(F.conv2d(inputs, weight.flatten(0, 1), **self.geometry.settings(self.victims)), self.victims)


def formed(a: Tensor, delta: Tensor, observed: Tensor, mask: Tensor | None, convolutions: Convolutions, *, distance: bool
           ) -> Comparison:
    """Input [S * B, C, H, W] and error [S * B, O, H', W'] against observed gradients [S, O, C / groups, kH, kW].

    Args:
        a, delta: batched over all images.
        observed: zero where masked.
        mask: of the observed gradients' shape or broadcast to it, or None.
        convolutions: of the layer.
        distance: whether the squared distance is wanted beside the inner product and the squared norm.
    """
    return Comparison(*_Formed.apply(a, delta, observed, mask, convolutions, distance))


class _Formed(torch.autograd.Function):
    """Inner product with an observed weight gradient G, squared norm of the candidate's g, and squared distance, per victim.

    g is bilinear in the layer's input and error, so with W the derivative of the results by g, that by the error is the
    convolution of the input with W, and that by the input its transpose: three convolutions in all, where differentiating g itself
    would take more and keep its intermediates.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, delta: Tensor, observed: Tensor, mask: Tensor | None, convolutions: Convolutions,
                distance: bool) -> tuple[Tensor | None, ...]:
        inputs, errors = convolutions.inputs(a), convolutions.errors(delta)
        gradient = convolutions.gradient(inputs, errors, observed)
        if mask is not None:
            gradient *= mask
        ctx.save_for_backward(inputs, errors, observed, gradient)
        ctx.convolutions, ctx.shapes = convolutions, (a.shape, delta.shape)
        ctx.set_materialize_grads(False)
        g, other = gradient.flatten(1), observed.flatten(1)
        difference = g - other if distance else None
        return dot(g, other), dot(g, g), None if difference is None else dot(difference, difference)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_product: Tensor | None, by_squared: Tensor | None, by_distance: Tensor | None
                 ) -> tuple[Tensor | None, ...]:
        inputs, errors, observed, gradient = ctx.saved_tensors
        twice = None if by_distance is None else 2 * by_distance
        of_observed = _factor(by_product, None if twice is None else -twice, gradient)
        of_gradient = _factor(None if by_squared is None else 2 * by_squared, twice, gradient)
        # In place, where new tensors of this size would cost more in fresh pages than the arithmetic.
        weight = gradient.mul_(of_gradient).addcmul_(of_observed, observed)
        by_input = by_error = None
        if ctx.needs_input_grad[0]:
            by_input = ctx.convolutions.by_input(weight, errors, ctx.shapes[0])
        if ctx.needs_input_grad[1]:
            by_error = ctx.convolutions.by_error(inputs, weight, ctx.shapes[1])
        return by_input, by_error, None, None, None, None


def _factor(a: Tensor | None, b: Tensor | None, like: Tensor) -> Tensor:
    """The sum of what there is of two derivatives [S], to be multiplied with weights [S, O, C, kH, kW]."""
    given = [t for t in (a, b) if t is not None]
    total = sum(given[1:], given[0]) if given else like.new_zeros(len(like))
    return total.view(-1, 1, 1, 1, 1)


def _victims_to_groups(values: Tensor, victims: int) -> Tensor:
    """[S * B, C, H, W] to [B, S * C, H, W]; no copy for B = 1."""
    return values.unflatten(0, (victims, -1)).transpose(0, 1).flatten(1, 2)


def _groups_to_victims(values: Tensor, victims: int) -> Tensor:
    """[B, S * C, H, W] to [S * B, C, H, W]."""
    return values.unflatten(1, (victims, -1)).transpose(0, 1).flatten(0, 1)
