"""Of each parameter, how a candidate's gradient compares with the observed one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor


class Surprise(NamedTuple):
    """How unlikely what was shared of a parameter is for a candidate, in nats, [N] each."""

    nats: Tensor  #: minus the logarithm of the likelihood, up to what is the same for all candidates
    expected: Tensor  #: what it is at the original on the average
    variance: Tensor  #: and its variance there


class Comparison(NamedTuple):
    """Of a candidate's gradient g with the observed gradient G of one parameter, per victim."""

    product: Tensor  #: <g, G>
    squared: Tensor  #: |g|^2
    distance: Tensor | None = None  #: |g - G|^2 where g is formed; otherwise it follows from the other two.
    surprise: Surprise | None = None  #: where the release of the parameter has a likelihood of its own


def explicit(gradient: Tensor, observed: Tensor, mask: Tensor | None = None, *, distance: bool = True) -> Comparison:
    """Compare formed gradients [N, ...] with the observed ones (zero where masked); the distance if it is wanted."""
    if mask is not None:
        gradient = gradient * mask
    gradient, observed = gradient.flatten(1), observed.flatten(1)
    difference = gradient - observed if distance else None
    return Comparison(dot(gradient, observed), dot(gradient, gradient), None if difference is None else dot(difference, difference))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [N] of vectors [N, n].

    Summed by torch's tree, to 1e-7 in float32 at any length. A product of matrices would save the tensor of products, but it errs
    by 3e-6 at n = 3,600 and 3e-3 at three million, where one minus the cosine of a good candidate is 1e-5.
    """
    return (a * b).sum(1)


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, one after another: the order in which ``torch.sum`` adds depends on how many victims there are."""
    return reduce(torch.add, terms)


def root(squared: Tensor) -> Tensor:
    """The root, bounded away from zero, where it has no derivative."""
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()


def layer_of(parameter: str) -> str:
    """The name of the module that holds a parameter; "" for the model itself."""
    return parameter.rpartition(".")[0]
