"""One layer backwards: from what left it and the error there, what entered it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.base import Observation
from attacks.reading.chain import Link
from attacks.reading.least_squares import least_squares
from attacks.reading.releases import parts_left

#: Weight of the equations that the gradient gives, relative to those of the output, when both are scaled to the size of their
#: operators. Untrained LeNet, 32 CIFAR-10 victims, 100 and 60 iterations of the two first layers, mean SSIM: 0.13 with 0.3, 0.85
#: with 1, 0.91 with 3, 0.78 with 6.
_GRADIENT = 3.0
#: Of |A^T r|, relative to its first value.
_TOLERANCE = 1e-8
#: An output of a bounded activation this near to its bounds tells nothing of what entered it.
_EDGE = 1e-7
#: Victims whose equations are solved at once, by the type of device: on a CPU so few that they stay in its cache.
_AT_ONCE = {"cpu": 8}
#: Layers that hand on what enters them.
TRANSPARENT = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
ACTIVATIONS = (nn.Sigmoid, nn.Tanh, nn.ReLU, nn.LeakyReLU)


class Known(NamedTuple):
    """What is known at a place of the network, [N, S, ...] of S images: what passes there, the derivative of the loss by it, and
    how precisely each of the values is known relative to the others, from 0, which is not at all, to 1; None for all alike."""

    value: Tensor
    error: Tensor
    where: Tensor | None = None


def has_weights(link: Link) -> bool:
    """Whether a link is a layer with a gradient of its own, which tells what entered it."""
    return isinstance(link.module, (nn.Conv2d, nn.Linear))


def before_link(link: Link, known: Known, observation: Observation, iterations: int, start: Tensor | None = None) -> Known:
    """What is known of what entered a link, from what is known of what left it; the solver begins at ``start``, or at zero."""
    with torch.no_grad():
        if isinstance(link.module, ACTIVATIONS):
            return _before_activation(link, known)
        if isinstance(link.module, nn.Conv2d):
            stage = parts_left(observation, f"{link.name}.weight")
            gradients = observation.shared[f"{link.name}.weight"].split(_AT_ONCE.get(observation.device.type, len(observation)))
            found = []
            for place, gradient in enumerate(gradients):
                some = slice(place * len(gradients[0]), place * len(gradients[0]) + len(gradient))
                part = Known(known.value[some], known.error[some], None if known.where is None else known.where[some])
                shown = None if stage is None else stage.shown(gradient)
                begin = gradient.new_zeros(len(gradient), known.value.shape[1], *link.shape) if start is None else start[some]
                found.append(_before_convolution(link.module, link, part, gradient, shown or _all, begin, iterations))
            return Known(torch.cat([one.value for one in found]), torch.cat([one.error for one in found]))
        if isinstance(link.module, nn.Linear):
            gradient = observation.shared[f"{link.name}.weight"]
            # One image: G = d x^T, of which d tells x by least squares.
            stage, where = parts_left(observation, f"{link.name}.weight"), None
            squared = known.error.square().sum(2, keepdim=True)
            if stage is not None and not stage.spares_rank_one and (shown := stage.shown(gradient)) is not None:
                squared = torch.einsum("nso,noi->nsi", known.error.square(), shown(torch.ones_like(gradient)))
                where = (squared > 0).unflatten(2, link.shape)
            if known.error.shape[1] == 1:
                value = torch.where(squared > 0, torch.einsum("nso,noi->nsi", known.error, gradient) / squared, 0)
            else:  # the sum over images, which differ in the errors of their outputs
                value = torch.linalg.pinv(known.error.mT.double()).to(gradient) @ gradient
            error = known.error @ link.module.weight
            return Known(value.unflatten(2, link.shape), error.unflatten(2, link.shape), where)
        shaped = [None if one is None else one.reshape(*one.shape[:2], *link.shape) for one in known]
        return Known(*shaped)  # type: ignore[arg-type]


def _before_activation(link: Link, known: Known) -> Known:
    value, steepest = known.value, 1.0
    if isinstance(link.module, nn.Sigmoid):
        before, steepest = value.clamp(_EDGE, 1 - _EDGE).logit(), 0.25
        told = (value > _EDGE) & (value < 1 - _EDGE)
    elif isinstance(link.module, nn.Tanh):
        before, told = value.clamp(_EDGE - 1, 1 - _EDGE).atanh(), value.abs() < 1 - _EDGE
    elif isinstance(link.module, nn.LeakyReLU):
        before, told = torch.where(value < 0, value / link.module.negative_slope, value), None
    else:  # ReLU: what is zero was anything below
        told = value > 1e-6 * value.flatten(2).amax(2).view(*value.shape[:2], *[1] * (value.dim() - 2))
        before = torch.where(told, value, 0)
    with torch.enable_grad():
        leaf = before.detach().requires_grad_()
        after = F.relu(leaf) if isinstance(link.module, nn.ReLU) else link.module(leaf)  # which may be done in place
        (slope,) = torch.autograd.grad(after.sum(), leaf)
    where = known.where
    if told is not None:  # what is read errs by as much everywhere, which the inverse multiplies where the activation is flat
        precision = torch.where(told, slope / steepest, 0)
        where = precision if where is None else where * precision
    return Known(before, known.error * slope, where)


def _all(gradient: Tensor) -> Tensor:
    return gradient


def _before_convolution(layer: nn.Conv2d, link: Link, known: Known, gradient: Tensor, shown: Callable[[Tensor], Tensor],
                        start: Tensor, iterations: int) -> Known:
    """``shown`` gives the part of a gradient [N, *weight.shape] that was left as it was, all of which ``gradient`` then is; it is
    the sum over the images."""
    weight = layer.weight
    how: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    images, size = known.value.shape[1], known.value.shape[2:]
    flat, errors = weight.flatten(1), known.error.flatten(3)
    output = known.value if layer.bias is None else known.value - layer.bias.view(-1, 1, 1)
    if known.where is not None:
        output = output * known.where
    scale = _GRADIENT / errors.flatten(1).norm(dim=1).clamp_min(torch.finfo(errors.dtype).tiny).view(-1, 1, 1, 1)
    errors = errors * scale

    def folded(patches: Tensor) -> Tensor:
        return F.fold(patches.flatten(0, 1), link.shape[1:], layer.kernel_size, **how).unflatten(0, (-1, images))

    def operator(x: Tensor) -> list[Tensor]:
        patches = F.unfold(x.flatten(0, 1), layer.kernel_size, **how).unflatten(0, (-1, images))
        forward = (flat @ patches).unflatten(3, size[1:])
        own = (errors @ patches.mT).sum(1).view_as(gradient)
        return [forward if known.where is None else forward * known.where, shown(own)]

    def adjoint(residual: list[Tensor]) -> Tensor:
        forward = residual[0] if known.where is None else residual[0] * known.where
        own = shown(residual[1]).flatten(2)
        return folded(flat.T @ forward.flatten(3) + own.mT[:, None] @ errors)

    value = least_squares(operator, adjoint, [output, gradient * scale[:, 0, ..., None, None]], start, iterations=iterations,
                          tolerance=_TOLERANCE)
    return Known(value, folded(flat.T @ known.error.flatten(3)))
