"""The likelihood among other images against the multivariate normal law with its explicit covariance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from attacks.identification.whitening import FewEntries, Public


class Dense:
    """Gradients of L public images of some groups, of candidates of these groups, and shared ones of two victims of B images each; the
    noise has a variance of each entry."""

    def __init__(self, entries: int, labels: list[int], batch: int, seed: int, candidates: int = 5) -> None:
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.batch, self.labels = batch, torch.tensor(labels)
        self.public, self.candidates, self.shared = random(len(labels), entries) + 1, random(candidates, entries), random(2, entries)
        self.noise = 0.1 + torch.rand(entries, generator=generator, dtype=torch.float64)
        present = self.labels[torch.randint(len(labels), (2, batch), generator=generator)]
        self.of_candidates = self.labels[torch.randint(len(labels), (candidates,), generator=generator)]
        self.counts = torch.nn.functional.one_hot(present, max(labels) + 1).sum(1).double()

    def prepared(self) -> tuple[Public, torch.Tensor, torch.Tensor, torch.Tensor]:
        public, candidates, shared = (values / self.noise.sqrt() for values in (self.public, self.candidates, self.shared))
        prepared = Public(public @ public.T, self.labels, self.batch)
        whitened = prepared.candidates(public @ candidates.T, candidates.square().sum(1), self.of_candidates)
        return prepared, whitened, public @ shared.T, shared @ candidates.T

    def found(self, scale: float = 1.0) -> torch.Tensor:
        prepared, whitened, shared, crossed = self.prepared()
        return prepared.misfits(whitened, scale * shared, scale * crossed, self.counts)

    def by_entries(self) -> FewEntries:
        return FewEntries(self.public / self.noise.sqrt(), self.labels, self.batch)

    def found_by_entries(self, scale: float = 1.0) -> torch.Tensor:
        candidates, shared = self.candidates / self.noise.sqrt(), scale * self.shared / self.noise.sqrt()
        return self.by_entries().misfits(candidates, self.of_candidates, shared, self.counts)

    @property
    def means(self) -> torch.Tensor:
        """Of each group, zero where it is empty."""
        of = [self.public[self.labels == label] for label in range(self.counts.shape[1])]
        return torch.stack([values.mean(0) if len(values) else torch.zeros_like(self.noise) for values in of])

    @property
    def within(self) -> torch.Tensor:
        """The covariance within groups."""
        centred = self.public - self.means[self.labels]
        return centred.T @ centred / max(1, len(centred) - len(self.labels.unique()))

    def law(self) -> MultivariateNormal:
        """Of two victims and all candidates, [N, K]."""
        mean = self.counts @ self.means / self.batch
        own = (self.candidates - self.means[self.of_candidates]) / self.batch
        return MultivariateNormal(mean[:, None] + own, (self.batch - 1) / self.batch**2 * self.within + self.noise.diag())


LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=14).filter(lambda labels: any(labels.count(label) > 1 for label in labels))
CASES = st.builds(Dense, st.integers(1, 8), LABELS | st.integers(2, 12).map(lambda count: [0] * count), st.integers(2, 9), st.integers(0, 1000))


def differences(scores: torch.Tensor) -> torch.Tensor:
    return scores - scores[:, :1]


@given(case=CASES, scale=st.sampled_from([1.0, 0.1, 3.0]))
def test_misfits_are_minus_log_likelihoods(case, scale):
    """Up to a constant of each victim; of what was shared times a number as well."""
    expected = -case.law().log_prob(scale * case.shared[:, None])
    for found in (case.found(scale), case.found_by_entries(scale)):
        torch.testing.assert_close(differences(found), differences(expected), rtol=1e-8, atol=1e-8)


@given(case=CASES)
def test_the_square_that_is_expected(case):
    """Of the mean over images of the classes of the batch, in units of the noise, without the noise itself."""
    mean, units = case.counts @ case.means / case.batch, case.noise
    expected = (mean.square() / units).sum(1) + (case.within.diagonal() / units).sum() / case.batch
    for prepared in (case.prepared()[0], case.by_entries()):
        torch.testing.assert_close(prepared.expected_square(case.counts), expected)


def test_a_group_of_one_image_has_no_spread_and_an_empty_one_no_mean():
    case = Dense(4, [0, 0, 1, 3, 3, 3], 5, 0)
    case.of_candidates, case.counts = torch.tensor([0, 1, 2, 3, 1]), torch.tensor([[2.0, 1, 1, 1], [0, 0, 5, 0]]).double()
    for found in (case.found(), case.found_by_entries()):
        torch.testing.assert_close(differences(found), differences(-case.law().log_prob(case.shared[:, None])))


def test_images_that_are_all_alike_have_no_spread():
    case = Dense(3, [0, 0, 1, 1], 3, 0)
    case.public = case.means[case.labels]
    for found in (case.found(), case.found_by_entries()):
        torch.testing.assert_close(differences(found), differences(-case.law().log_prob(case.shared[:, None])))


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_other_units(scale):
    """Gradients of any size."""
    case = Dense(5, [0] * 5 + [1] * 6, 4, 1)
    before = case.found()
    case.public, case.candidates, case.shared = (scale * values for values in (case.public, case.candidates, case.shared))
    case.noise = scale**2 * case.noise
    torch.testing.assert_close(case.found(), before)
