"""Candidates for a gradient of many images: the others are noise, whose covariance public images tell.

What was shared is the mean over B images, and noise of variance D. Take the gradients of images of class y for Gaussian, with the
mean m_y of public images of that class and the covariance S of public images within their classes (without labels, all are of one
class). If one of the images is a candidate of class y with gradient c, then for u = c - m_y and the labels y_j of the batch

    G - sum over j of m_(y_j) / B  ~  N(u / B, (B - 1) / B^2 S + D).

The covariance is X^T X + D, up to a factor, for the centred gradients X of the public images, which are far fewer than the entries,
so that it is inverted in their span (Woodbury's identity). Nothing but inner products of gradients is needed, for which those of
large linear layers are never formed. Where there are fewer entries than public images, as where most were hidden, the covariance is
formed and inverted as it is. Covariances that differ between classes gain nothing (LeNet, CIFAR-10, B = 8 and 64, untrained
and trained: top-1 equal within 0.02), and would have to be inverted for every victim.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class Public:
    """The gradients of L public images, by inner products in units of the noise: sum of <u, v> / D over parameters.

    Args:
        gram: of these with each other, [L, L] in float64.
        groups: the class of each, [L].
        batch: B.
    """

    def __init__(self, gram: Tensor, groups: Tensor, batch: int) -> None:
        self._of, self._batch = groups, batch
        self._sizes = torch.bincount(groups).double()
        #: Of each group's mean with the public gradients, [groups, L], and with the other means, [groups, groups].
        self._with_means = self.means(gram)
        self.means_with_means = self.means(self._with_means.mT)
        centred = self._centred(self._centred(gram).mT)
        freedom = max(1.0, float(len(groups) - (self._sizes > 0).sum()))
        self.total_variance = centred.diagonal().sum() / freedom  #: the trace of S
        self._scale = ((batch - 1) / (batch**2 * freedom)) ** 0.5
        self._spread = self._scale**2 * centred
        self._spread.diagonal().add_(1)

    def means(self, values: Tensor) -> Tensor:
        """The mean over each group of values [L, ...]: [groups, ...]; zero where there is no public image."""
        sums = values.new_zeros(len(self._sizes), *values.shape[1:]).index_add_(0, self._of, values)
        return sums / self._sizes.clamp_min(1).view(-1, *[1] * (values.dim() - 1))

    def candidates(self, products: Tensor, own: Tensor, groups: Tensor) -> Whitened:
        """Candidates less the mean of their group.

        Args:
            products: with the public gradients, [L, K].
            own: squared norms, [K].
            groups: of each, [K].
        """
        along = self._whitened(products - self._with_means[groups].mT)
        with_means = self.means(products)
        diagonal = self.means_with_means.diagonal()[groups]
        squared = own - 2 * with_means.gather(0, groups[None])[0] + diagonal
        return Whitened(along, with_means, squared - along.square().sum(0), groups)

    def misfits(self, candidates: Whitened, shared: Tensor, crossed: Tensor, counts: Tensor) -> Tensor:
        """Minus the logarithms of the likelihoods of K candidates for each victim, [N, K], up to a constant.

        Args:
            candidates: of K images.
            shared: the products of what was shared with the public gradients, [L, N].
            crossed: with the candidates, [N, K].
            counts: how many images of the batch are of each group, [N, groups].
        """
        expected = counts / self._batch
        along = self._whitened(shared - self._with_means.mT @ expected.mT)
        by_group = self.means(shared).mT - expected @ self.means_with_means
        product = crossed - expected @ candidates.with_means - by_group[:, candidates.groups] - along.mT @ candidates.along
        return (0.5 * candidates.squared / self._batch - product) / self._batch

    def expected_square(self, counts: Tensor) -> Tensor:
        """What |G|^2 is expected to be, without noise, [N]."""
        expected = counts / self._batch
        return (expected @ self.means_with_means * expected).sum(1) + self.total_variance / self._batch

    @cached_property
    def _factor(self) -> Tensor:
        return torch.linalg.cholesky(self._spread)

    def _centred(self, values: Tensor) -> Tensor:
        return values - self.means(values)[self._of]

    def _whitened(self, values: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._factor, self._scale * self._centred(values), upper=False)


class FewEntries:
    """As :class:`Public`, by the gradients themselves where these have few entries.

    Args:
        values: of L public images, in units of the noise, [L, n].
        groups: the class of each, [L].
        batch: B.
    """

    def __init__(self, values: Tensor, groups: Tensor, batch: int) -> None:
        self._batch = batch
        sizes = torch.bincount(groups)
        self._means = values.new_zeros(len(sizes), values.shape[1]).index_add_(0, groups, values) / sizes.clamp_min(1)[:, None]
        centred = values - self._means[groups]
        freedom = max(1, len(groups) - int((sizes > 0).sum()))
        self.total_variance = centred.square().sum() / freedom  #: the trace of S
        self._spread = (batch - 1) / (batch**2 * freedom) * (centred.mT @ centred)
        self._spread.diagonal().add_(1)

    def misfits(self, candidates: Tensor, groups: Tensor, shared: Tensor, counts: Tensor) -> Tensor:
        """Minus the logarithms of the likelihoods, [N, K], of candidates [K, n] of some groups [K] for what was shared, [N, n], of
        batches with so many images of each group, [N, groups]; up to a constant."""
        own = self._whitened(candidates - self._means[groups])
        left = self._whitened(shared - counts / self._batch @ self._means)
        return (0.5 * own.square().sum(0) / self._batch - left.mT @ own) / self._batch

    def expected_square(self, counts: Tensor) -> Tensor:
        """What |G|^2 is expected to be, without noise, [N]."""
        return (counts / self._batch @ self._means).square().sum(1) + self.total_variance / self._batch

    @cached_property
    def _factor(self) -> Tensor:
        return torch.linalg.cholesky(self._spread)

    def _whitened(self, values: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._factor, values.mT, upper=False)


@dataclass(frozen=True)
class Whitened:
    """Of K candidates: ``along`` [L, K], what of them lies in the span of the public gradients, whitened; ``with_means``
    [groups, K], products with the means of groups; ``squared`` [K], whitened squared norms; ``groups`` [K]."""

    along: Tensor
    with_means: Tensor
    squared: Tensor
    groups: Tensor
