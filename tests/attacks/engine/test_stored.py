"""Observed gradients as factors, and as they are."""

from __future__ import annotations

import torch
from attack_cases import observation_through
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import as_they_are
from torch import nn

from attacks.engine.matcher import GradientMatcher
from attacks.engine.stored import factors
from attacks.objective.objective import Objective


def test_factors_are_close_and_take_less_memory():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10))
    observation = observation_through(module, (3, 8, 8), victims=4, classes=10)
    module.float()
    for name, value in (("shared", {n: g.float() for n, g in observation.shared.items()}), ("mean", observation.mean.float())):
        object.__setattr__(observation, name, value)
    x = torch.randn(4, 1, 3, 8, 8)
    matchers = []
    for dense in (True, False):
        with as_they_are(dense):
            observation.kept.clear()
            matchers.append(GradientMatcher(observation, observation.labels, Objective(), seeds=range(4)))
    (d1, o1), (d2, o2) = (matcher.step(x) for matcher in matchers)
    torch.testing.assert_close(o2, o1, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(d2, d1, rtol=1e-3, atol=1e-4 * d1.abs().max().item())
    dense, factored = (matcher.step_of_slots.slots.bytes_per_slot() for matcher in matchers)
    assert factored < 0.1 * dense


@given(rank=st.integers(1, 4), seed=st.integers(0, 20))
def test_factors_are_found_where_the_rank_is_small_only(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn(3, 60, rank, generator=generator), torch.randn(3, rank, 90, generator=generator)
    low = u @ v
    found = factors(low, rank)
    assert found is not None
    torch.testing.assert_close(found[0] @ found[1], low, rtol=1e-4, atol=1e-5 * low.abs().max().item())
    if rank > 1:
        assert factors(low, rank - 1) is None
    low[1] += 1e-4 * torch.randn(60, 90, generator=generator)
    assert factors(low, rank) is None
    low[1] = torch.nan
    assert factors(low, rank) is None
