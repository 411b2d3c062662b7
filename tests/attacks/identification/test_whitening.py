"""The likelihood among other images against the multivariate normal law with its explicit covariance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attacks.identification.whitening import Groups, Products, misfits


class Dense:
    """Gradients of L public images of some groups and of M candidates, and a shared one of B images; the noise has a variance of
    each entry."""

    def __init__(self, entries: int, labels: list[int], batch: int, seed: int, candidates: int = 5) -> None:
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.batch, self.labels = batch, torch.tensor(labels)
        self.public, self.candidates, self.shared = random(len(labels), entries) + 1, random(candidates, entries), random(entries)
        self.noise = 0.1 + torch.rand(entries, generator=generator, dtype=torch.float64)
        self.groups = Groups(self.labels)
        self.others = torch.multinomial((self.groups.sizes > 1).double(), batch - 1, True, generator=generator).bincount(
            minlength=len(self.groups.sizes)).double()

    @property
    def products(self) -> Products:
        public, candidates, shared = (values / self.noise.sqrt() for values in (self.public, self.candidates, self.shared[None]))
        return Products(public @ public.T, public @ candidates.T, (public @ shared.T)[:, 0], candidates.square().sum(1),
                        (candidates @ shared.T)[:, 0], shared.square().sum())

    def found(self, **options) -> torch.Tensor:
        products = self.products
        return misfits(products, self.groups.centred_gram(products.public), self.groups, self.others, self.batch,
                       **{"free_scale": False, **options})

    @property
    def law(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean and covariance of what the others and the noise add to c / B."""
        mean, covariance = torch.zeros_like(self.shared), self.noise.diag()
        for label in range(len(self.groups.sizes)):
            of = self.public[self.labels == label]
            if self.others[label] and len(of):
                mean = mean + self.others[label] * of.mean(0) / self.batch
            if self.others[label] and len(of) > 1:
                covariance = covariance + self.others[label] * torch.cov(of.T).view(len(mean), -1) / self.batch**2
        return mean, covariance

    def expected(self, scale: float = 1.0) -> torch.Tensor:
        mean, covariance = self.law
        return torch.tensor([-stats.multivariate_normal.logpdf(scale * self.shared, (mean + c / self.batch), covariance)
                             for c in self.candidates], dtype=torch.float64)


LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=14).filter(lambda labels: any(labels.count(label) > 1 for label in labels))
CASES = st.builds(Dense, st.integers(1, 8), LABELS | st.integers(2, 12).map(lambda count: [0] * count), st.integers(2, 9), st.integers(0, 1000))


def differences(scores: torch.Tensor) -> torch.Tensor:
    return scores - scores[:1]


@given(case=CASES)
def test_misfits_are_minus_log_likelihoods(case):
    torch.testing.assert_close(differences(case.found()), differences(case.expected()), rtol=1e-8, atol=1e-8)


@given(case=CASES)
def test_all_of_the_exponent_is_there(case):
    """Up to a constant that is the same whatever was shared: it is half the squared Mahalanobis distance."""
    mean, covariance = case.law
    left = case.shared - mean - case.candidates / case.batch
    torch.testing.assert_close(case.found(), 0.5 * (left * torch.linalg.solve(covariance, left.T).T).sum(1), rtol=1e-7, atol=1e-8)


@given(case=CASES)
def test_an_unknown_scale_is_that_of_the_expected_length(case):
    """In units of the noise, without that of the noise itself; the scale of what was shared does not matter then."""
    mean, covariance = case.law
    units = case.noise
    spread = ((covariance.diagonal() - units) / units).sum()
    expected = ((mean + case.candidates / case.batch).square() / units).sum(1).mean() + spread
    scale = (expected / (case.shared.square() / units).sum()).sqrt().item()
    torch.testing.assert_close(differences(case.found(free_scale=True)), differences(case.expected(scale)), rtol=1e-7, atol=1e-7)
    before = case.found(free_scale=True)
    case.shared = 17 * case.shared
    torch.testing.assert_close(case.found(free_scale=True), before)


def test_groups():
    groups = Groups(torch.tensor([2, 0, 2, 0, 2]))
    assert groups.sizes.tolist() == [2, 0, 3]
    values = torch.tensor([1.0, 2.0, 4.0, 6.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(groups.centred(values), torch.tensor([-3.0, -2.0, 0.0, 2.0, 3.0], dtype=torch.float64))
    rows = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(groups.centred_gram(rows @ rows.T), groups.centred(rows) @ groups.centred(rows).T)


def test_a_group_of_one_image_has_no_spread_and_one_of_none_no_mean():
    case = Dense(4, [0, 0, 1, 3, 3, 3], 5, 0)
    case.others = torch.tensor([2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(differences(case.found()), differences(case.expected()))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_fractions_of_others_and_other_units(scale):
    """A class of which the candidates have a share; gradients of any size."""
    case = Dense(5, [0] * 5 + [1] * 6, 4, 1)
    case.others = torch.tensor([0.75, 2.25], dtype=torch.float64)
    case.public, case.candidates, case.shared, case.noise = (scale**power * v for power, v in (
        (1, case.public), (1, case.candidates), (1, case.shared), (2, case.noise)))
    torch.testing.assert_close(differences(case.found()), differences(case.expected()), rtol=1e-7, atol=1e-7)
    assert math.isfinite(case.found().sum())
