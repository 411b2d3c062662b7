"""The rules of large layers over the entries that a mask leaves, without forming the gradient."""

from __future__ import annotations

import pytest
import torch
from attack_cases import observation_through
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import as_they_are, check
from torch import nn

from attacks.engine.matcher import GradientMatcher
from attacks.objective.costs import Cosine, Euclidean
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation

MASKED = st.sampled_from([Cosine(), Euclidean(), Cosine(per_layer=True)])


def masked(observation, cost=None, *, left=0.3, seed=0, **options) -> Objective:
    """Compares what is left under random masks of every parameter, of which the observed gradients know nothing."""
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(g.shape, generator=generator) < left for name, g in observation.shared.items()}
    return Objective(cost or Cosine(), masks=masks, **options)


def unformed_under_masks(matcher: GradientMatcher) -> list[str]:
    return [name for name, _, rule in matcher.step_of_slots._layers if getattr(rule, "_matrices", None) is not None]


@settings(max_examples=30)
@given(batch=st.integers(1, 3), bias=st.booleans(), tokens=st.booleans(), cost=MASKED, left=st.sampled_from([0.02, 0.5, 1.0]),
       dense=st.booleans(), seed=st.integers(0, 20))
def test_wide_linear_layers_under_masks(batch, bias, tokens, cost, left, dense, seed):
    """Whose gradients are not formed."""
    first = nn.Linear(160, 160, bias)
    module = nn.Sequential(*([] if tokens else [nn.Flatten()]), first, nn.Tanh(), nn.Flatten(), nn.Linear(320 if tokens else 160, 3))
    with as_they_are(dense):
        matcher = check(module, (1, 2, 160) if tokens else (2, 8, 10), batch_size=batch, objective=lambda o: masked(
            o, cost, left=left, seed=seed, terms=(TotalVariation(0.1),), weights={"0" if tokens else "1": 0.5}))
    assert unformed_under_masks(matcher) == ["0." if tokens else "1."]


@settings(max_examples=20)
@given(size=st.sampled_from([(2, 2), (2, 4), (4, 2)]), batch=st.integers(1, 2), cost=MASKED, left=st.sampled_from([0.1, 0.5]),
       seed=st.integers(0, 20))
def test_convolutions_over_few_positions_under_masks(size, batch, cost, left, seed):
    """Also with taps that only ever meet the padding."""
    module = nn.Sequential(nn.Conv2d(3, 40, 2, 2), nn.Tanh(), nn.Conv2d(40, 80, 3, padding=1), nn.Tanh(), nn.Flatten(),
                           nn.Linear(20 * size[0] * size[1], 3))
    matcher = check(module, (3, *size), batch_size=batch, objective=lambda o: masked(o, cost, left=left, seed=seed))
    assert unformed_under_masks(matcher) == ["2."]


@pytest.mark.parametrize("cost", [Cosine(), Euclidean()])
def test_another_victims_mask_is_loaded_with_it(cost):
    module = nn.Sequential(nn.Flatten(), nn.Linear(160, 160), nn.Tanh(), nn.Linear(160, 3))
    observation = observation_through(module, (2, 8, 10), victims=3)
    objective = masked(observation, cost)
    x = torch.randn(2, 1, 2, 8, 10, dtype=torch.float64)
    matcher = GradientMatcher(observation, observation.labels, objective, seeds=[0, 0], positions=[0, 1], reloaded=True)
    matcher.step(x)
    matcher.load(0, 2, 0)
    assert unformed_under_masks(matcher) == ["1."]
    fresh = GradientMatcher(observation, observation.labels, objective, seeds=[0, 0], positions=[2, 1])
    for loaded, expected in zip(matcher.step(x), fresh.step(x), strict=True):
        assert torch.equal(loaded, expected)
    matcher.keep([1])
    torch.testing.assert_close(matcher.step(x[1:])[1], fresh.step(x)[1][1:], rtol=1e-12, atol=0)


def test_a_mask_takes_a_byte_an_entry():
    module = nn.Sequential(nn.Flatten(), nn.Linear(160, 160, bias=False), nn.Tanh(), nn.Linear(160, 3, bias=False))
    observation = observation_through(module, (2, 8, 10))
    with as_they_are(True):
        taken = [GradientMatcher(observation, observation.labels, objective, seeds=range(2)).step_of_slots.slots.bytes_per_slot()
                 for objective in (Objective(), Objective(masks={"1.weight": observation.shared["1.weight"] > 0}))]
    assert taken[1] - taken[0] == 160 * 160
