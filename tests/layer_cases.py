"""Models of single layers, held against double backward in float64."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from attack_cases import observation_through, reference
from hypothesis import strategies as st
from torch import nn

from attacks.engine.matcher import GradientMatcher
from attacks.engine.structured import StructuredStep
from attacks.objective.costs import Cosine, Euclidean
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation

BATCHES = st.integers(1, 4)
#: One alone is matched in ways of its own.
VICTIMS = st.integers(1, 2)
COSTS = st.sampled_from([Cosine(), Euclidean()])


class Residual(nn.Module):
    """Adds in place, as torchvision's residual networks do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(8, 3)

    def forward(self, x):
        out = self.a(x)
        out += torch.tanh(self.b(x))
        return self.last(torch.tanh_(out).flatten(1))


@contextmanager
def as_they_are(dense: bool):
    """Keep observed gradients as they are, rather than as factors."""
    with pytest.MonkeyPatch.context() as patch:
        if dense:
            patch.setattr("attacks.engine.layers.rule.factors", lambda gradients, rank: None)
        yield


def check(module: nn.Module, image_shape: tuple[int, int, int], *, structured: bool = True, cost=None, objective=None, **arguments) -> GradientMatcher:
    """Objective and image derivative of every victim agree with double backward to 1e-9. ``objective`` maps the observation to
    one other than that of a plain cost."""
    torch.manual_seed(0)
    for parameter in module.parameters():  # norms start at one and zero, which would hide a wrong factor
        nn.init.normal_(parameter, std=0.5)
    observation = observation_through(module, image_shape, **arguments)
    n, b = observation.labels.shape
    x = torch.randn(n, b, *image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    objective = Objective(cost or Cosine(), (TotalVariation(0.1),)) if objective is None else objective(observation)
    matcher = GradientMatcher(observation, observation.labels, objective, seeds=range(n))
    derivative, value = matcher.step(x)
    assert isinstance(matcher.step_of_slots, StructuredStep) is structured
    for victim in range(n):
        expected_objective, expected = reference(observation, x, objective, victim)
        torch.testing.assert_close(value[victim], expected_objective, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(derivative[victim], expected, rtol=1e-9, atol=1e-12 + 1e-9 * expected.abs().max().item())
    return matcher
