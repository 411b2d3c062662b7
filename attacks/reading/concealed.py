"""Telling an image's features apart from those of an image that a defense put beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attacks.reading.linear_inputs import linear_inputs

#: Where the search begins: inputs as long as the two together by these factors, in so many directions of their plane, of which
#: those that explain most are moved.
_LENGTHS, _DIRECTIONS, _MOVED = tuple(2 ** (i / 6) for i in range(-12, 13)), 180, 8
#: Of the search: steps, by how much its damping falls after one that helps and grows after another, and the width of differences.
_STEPS, _EASED, _HELD, _WIDTH = 40, 5.0, 4.0, 1e-6
#: Victims that are searched for at once.
_AT_ONCE = 16


def inputs_beside(weight: Tensor, bias: Tensor, layer: nn.Linear, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs [N, 2, I] of a last layer that saw two images, that of a known target first, and the derivatives of their mean
    loss by its outputs, [N, 2, O] (ours).

    The gradient of the mean of both cross-entropies is G = e_1 h_1^T + e_2 h_2^T for the weight and e_1 + e_2 for the bias, with
    2 e_1 = softmax(W h_1 + b) - t_1. It has rank two. So h_1 is in the plane of its rows, which leaves two numbers; they have to
    give an e_1 in the plane of its columns, with which G - e_1 h_1^T has rank one and the columns of what is left of the bias: as
    many equations as there are classes. They are solved by Gauss-Newton from many starts, in float64. The target of the other
    image is not needed. Where that is the same as the known one, either image fits, and nothing here tells which it is. LeNet on
    CIFAR-10 under `dcs2`, float32, 32 victims, untrained and trained: 29 and 30 to seven digits, the others have one class.

    Args:
        weight, bias: the gradients [N, O, I] and [N, O].
        layer: the last one.
        targets: [N, O] of the first image, probabilities.
    """
    own, offset = layer.weight.detach().double(), layer.bias.detach().double()
    given = (one.double().split(_AT_ONCE) for one in (weight, bias, targets))
    found = [_of_some(gradient, biases, known, own, offset) for gradient, biases, known in zip(*given, strict=True)]
    inputs, errors = (torch.cat(parts).to(weight) for parts in zip(*found, strict=True))
    return inputs, errors


def _of_some(weight: Tensor, bias: Tensor, targets: Tensor, own: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    columns, sizes, rows = (part[..., :2] for part in _svd(weight))
    core, outputs = torch.diag_embed(sizes), torch.einsum("oi,nik->nok", own, rows)
    least = torch.finfo(weight.dtype).tiny

    def error(place: Tensor) -> Tensor:  # of the first image, at [N, K, 2]
        return 0.5 * ((place @ outputs.mT + offset).softmax(-1) - targets[:, None])

    def residual(place: Tensor) -> Tensor:
        first = error(place)
        inside = first @ columns
        outside = first - inside @ columns.mT
        left = core[:, None] - inside[..., :, None] * place[..., None, :]
        other = (bias[:, None] - first) @ columns
        across = torch.stack([-other[..., 1], other[..., 0]], -1) / _norm(other, least)
        turned = (across[..., None, :] @ left)[..., 0, :] / _norm(left.flatten(-2), least)
        return torch.cat([outside / _norm(first, least), turned], -1)

    middle = (linear_inputs(weight, bias)[:, None] @ rows)[:, 0]
    place = _searched(residual, _nearest(residual, _around(middle)))
    inputs, first = torch.einsum("nk,nik->ni", place, rows), error(place[:, None])[:, 0]
    other = bias - first
    beside = torch.einsum("noi,no->ni", weight - first[..., None] * inputs[:, None], other) / _norm(other, least).square()
    return torch.stack([inputs, beside], 1), torch.stack([first, other], 1)


def _svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left singular vectors [N, O, K], singular values [N, K], right singular vectors [N, I, K]."""
    columns, sizes, rows = torch.linalg.svd(weight, full_matrices=False)
    return columns, sizes, rows.mT


def _around(middle: Tensor) -> Tensor:
    """Places [N, K, 2] in all directions from zero, as long as ``middle`` [N, 2] by some factors."""
    angles = torch.arange(_DIRECTIONS, dtype=middle.dtype, device=middle.device) * (2 * torch.pi / _DIRECTIONS)
    lengths = middle.new_tensor(_LENGTHS)[:, None]
    cosines, sines = ((lengths * of).flatten()[:, None] for of in (angles.cos(), angles.sin()))
    along, across = middle[:, None], torch.stack([-middle[:, 1], middle[:, 0]], -1)[:, None]
    return cosines * along + sines * across


def _nearest(residual: Callable[[Tensor], Tensor], places: Tensor) -> Tensor:
    """Of places [N, K, 2] the few with the smallest residual."""
    best = residual(places).square().sum(-1).topk(_MOVED, largest=False).indices
    return places.gather(1, best[..., None].expand(-1, -1, 2))


def _searched(residual: Callable[[Tensor], Tensor], place: Tensor) -> Tensor:
    """Where the steps of Levenberg and Marquardt come to from places [N, K, 2]; of each victim the best, [N, 2]."""
    along = torch.eye(2, dtype=place.dtype, device=place.device)
    damping, least = torch.full_like(place[..., :1, None], 1e-2), torch.finfo(place.dtype).tiny
    reached = residual(place)
    for _ in range(_STEPS):
        width = _WIDTH * _norm(place, least)  # of central differences, which in float64 are right to ten digits
        slopes = torch.stack([(residual(place + width * one) - residual(place - width * one)) / (2 * width) for one in along], -1)
        normal = slopes.mT @ slopes
        damped = normal + damping * torch.diag_embed(normal.diagonal(dim1=-2, dim2=-1) + 1e-12)
        step = torch.linalg.solve(damped, slopes.mT @ reached[..., None])[..., 0]
        ahead = residual(place - step)
        better = (ahead.square().sum(-1) < reached.square().sum(-1))[..., None]
        place, reached = torch.where(better, place - step, place), torch.where(better, ahead, reached)
        damping = torch.where(better[..., None], damping / _EASED, damping * _HELD).clamp(1e-12, 1e12)
    best = reached.square().sum(-1).argmin(1)
    return place[torch.arange(len(place), device=place.device), best]


def _norm(of: Tensor, least: float) -> Tensor:
    return of.norm(dim=-1, keepdim=True).clamp_min(least)
