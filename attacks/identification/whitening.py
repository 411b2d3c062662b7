"""Candidates for a gradient of many images: the others are noise, whose covariance public images tell.

What was shared is the mean over B images, of one of which the candidate is to be, and noise of variance D. If the others' gradients
were Gaussian with the means and covariances of public images of their classes, then for a candidate with gradient c

    G ~ N((c + sum of n_y m_y) / B, sum of n_y S_y / B^2 + D),

where n_y of the others are of class y (without labels, all are of one class with the mean and covariance of all public images). The
covariance is X^T W X + D for the centred gradients X of the public images, which are far fewer than the entries, so that it is
inverted in their span (Woodbury's identity). Nothing but inner products of gradients is needed, for which those of large linear
layers are never formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Products:
    """Inner products of gradients in units of the noise, sum of <u, v> / D over parameters: what a likelihood needs of L public
    images, M candidates, and what was shared.

    Attributes:
        public: of public gradients with each other, [L, L].
        public_candidates, public_shared: of these with the candidates', [L, M], and with the shared one, [L].
        candidates: squared norms of the candidates', [M].
        candidates_shared: of these with the shared one, [M].
        shared: its squared norm.
    """

    public: Tensor
    public_candidates: Tensor
    public_shared: Tensor
    candidates: Tensor
    candidates_shared: Tensor
    shared: Tensor


class Groups:
    """The classes of public images, or one for all.

    Args:
        of: the group of each public image, [L].
    """

    def __init__(self, of: Tensor) -> None:
        self.of = of
        self.sizes = torch.bincount(of).double()

    def centred(self, values: Tensor) -> Tensor:
        """Values [L, ...] less the mean over their group."""
        sums = values.new_zeros(len(self.sizes), *values.shape[1:]).index_add_(0, self.of, values)
        return values - (sums / self.sizes.clamp_min(1).view(-1, *[1] * (values.dim() - 1)))[self.of]

    def centred_gram(self, gram: Tensor) -> Tensor:
        """Inner products [L, L] of the centred gradients, from those of the gradients."""
        return self.centred(self.centred(gram).mT)


def misfits(products: Products, centred: Tensor, groups: Groups, others: Tensor, batch: int, *, free_scale: bool) -> Tensor:
    """Minus the logarithms of the likelihoods of M candidates, [M], up to a constant.

    Args:
        products: in float64.
        centred: :meth:`Groups.centred_gram` of the public ones.
        groups: of the public images.
        others: how many of the other images are of each group.
        batch: B.
        free_scale: whether G is known up to its scale only; it is then brought to its expected length.
    """
    shared, with_public, with_candidates = products.shared, products.public_shared, products.candidates_shared
    # The mean of the others is a combination of public gradients, and so is each centred one. A group without public images has
    # neither a mean nor a variance that is known.
    mean = torch.where(groups.sizes > 0, others / groups.sizes.clamp_min(1), 0)[groups.of] / batch
    weight = torch.where(groups.sizes > 1, others / (groups.sizes - 1).clamp_min(1), 0)[groups.of].sqrt() / batch
    by_mean, mean_candidates = products.public @ mean, mean @ products.public_candidates
    if free_scale:
        expected = (mean @ by_mean + (weight.square() * centred.diagonal()).sum()
                    + (products.candidates / batch**2 + 2 * mean_candidates / batch).mean())
        scale = (expected / shared.clamp_min(torch.finfo(shared.dtype).tiny)).sqrt()
        shared, with_public, with_candidates = scale**2 * shared, scale * with_public, scale * with_candidates
    squared = (shared + products.candidates / batch**2 + mean @ by_mean - 2 * with_candidates / batch - 2 * (mean @ with_public)
               + 2 * mean_candidates / batch)
    along = weight[:, None] * groups.centred((with_public - by_mean)[:, None] - products.public_candidates / batch)
    spread = weight[:, None] * centred * weight
    spread.diagonal().add_(1)
    solved = torch.linalg.solve_triangular(torch.linalg.cholesky(spread), along, upper=False)
    return 0.5 * (squared - solved.square().sum(0))
