"""Scores of large parameters without a product: over some of their entries, chosen at random."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import scipy.stats
import torch
from identification_cases import case_of, gradient_of
from stage_cases import LAPLACIAN, NOISE, PRUNING, ROUNDING, Rounding, Stochastic, chain, ids

import defenses
from attacks.engine.rows import FormedRows
from attacks.identification import Identifier, likelihood
from attacks.identification.likelihood import ImageLikelihood
from defenses import Composition


@pytest.mark.parametrize("members", [(LAPLACIAN,), (PRUNING, NOISE), (NOISE, PRUNING), (ROUNDING,), (ROUNDING, PRUNING), (Stochastic(),)],
                         ids=ids)
def test_of_large_parameters_without_products_some_entries_are_compared(members, monkeypatch):
    """Which are the same for all candidates and victims; the score is that over these."""
    monkeypatch.setattr(likelihood, "MOST_ENTRIES", 400)
    case = case_of(chain(*(replace(m, std=1e-3) if isinstance(m, defenses.NoisyGradients) else m for m in members)), "mlp",
                   dtype=torch.float64)
    compare = ImageLikelihood(case.observation)
    assert {name: None if how.places is None else len(how.places.unique()) for name, how in compare._compared.items()} == {
        "1.weight": 400, "1.bias": None, "3.weight": None, "3.bias": None}
    assert not compare.exact and not Identifier().method(case.observation).exact
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    assert not case.ranks(found).any() and torch.equal(found, Identifier().scores(case.observation, case.candidates, seed=1))


def test_the_score_of_some_entries_is_that_of_the_law_over_these(monkeypatch):
    whole = case_of(LAPLACIAN, "mlp", victims=2, size=4, dtype=torch.float64)
    monkeypatch.setattr(likelihood, "MOST_ENTRIES", 400)
    found = Identifier().scores(whole.observation, whole.candidates, seed=0)
    places = ImageLikelihood(whole.observation)._compared["1.weight"].places
    law, expected = scipy.stats.laplace(scale=LAPLACIAN.std / math.sqrt(2)), torch.zeros_like(found)
    for victim, pool in enumerate(whole.candidates.pools):
        for column, candidate in enumerate(pool):
            own = gradient_of(whole.observation, whole.candidates.images[candidate], whole.candidates.labels[candidate])
            for name, g in own.items():
                left = (whole.observation.shared[name][victim] - g).flatten()
                expected[victim, column] -= law.logpdf((left[places] if name == "1.weight" else left).numpy()).sum()
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6)


def test_energy_in_hidden_entries_counts_over_the_entries_that_are_looked_at(monkeypatch):
    """What can be hidden in those is less than what can be in all."""
    monkeypatch.setattr(likelihood, "MOST_ENTRIES", 400)
    case = case_of(Composition((Rounding(width=1e-6), PRUNING)), "mlp", victims=2, dtype=torch.float64)
    compare = ImageLikelihood(case.observation)
    how = compare._compared["1.weight"]
    name, victim, candidate = "1.weight", 0, case.candidates.pools[0, (case.true[0] + 1) % 6]
    own = gradient_of(case.observation, case.candidates.images[candidate], case.candidates.labels[candidate])
    others = {other: torch.zeros_like(g) for other, g in own.items()}
    rows = {other: FormedRows((own if other == name else others)[other].flatten()[None]) for other in own}
    found = compare(rows, torch.tensor([victim]))
    g, shared = (values.flatten()[how.places] for values in (own[name], case.observation.shared[name][victim]))
    kept, least = shared != 0, case.observation.shared[name][victim]
    least = least[least != 0].abs().min()
    beyond = (g[~kept].square().sum() - (~kept).sum() * least**2).clamp_min(0)
    assert beyond > 0
    expected = ((g - shared)[kept].square().sum() + beyond) / (2e-6 * shared.square().mean())
    at_rest = 0.5e6 * sum(g.numel() for other, g in own.items() if other != name)  # where the candidate has nothing
    # The candidate is rounded before it is compared.
    assert found.item() - at_rest == pytest.approx(expected.item(), rel=1e-3)
