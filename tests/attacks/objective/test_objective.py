"""Every option of an objective in both steps, and what is refused."""

from __future__ import annotations

import pytest
import torch
from attack_cases import observation_through
from layer_cases import check
from torch import nn

from attacks.engine.matcher import GradientMatcher
from attacks.objective.costs import Cosine, Euclidean
from attacks.objective.energy import Energy
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation


def objectives(observation):
    """Every option of an objective, alone and together."""
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(g.shape, generator=generator) < 0.5 for name, g in observation.shared.items()}
    weights = {"0": 2.5, "3": 0.25}
    return [
        Objective(weights=weights), Objective(Euclidean(), (TotalVariation(0.2),), weights), Objective(layers=("0",)),
        Objective(Cosine(per_layer=True), weights=weights), Objective(Cosine(per_layer=True), layers=("0", "5")), Objective(masks=masks),
        Objective(Euclidean(), masks={"5.weight": masks["5.weight"], "0.weight": masks["0.weight"]}),
        Objective(Cosine(per_layer=True), (TotalVariation(0.1),), {"5": 0.0}, ("0", "3", "5"), masks),
    ]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("general", [False, True], ids=["structured", "general"])
def test_every_option_of_an_objective(number, batch, general):
    first = nn.Conv2d(2, 4, 3, 2, 1, padding_mode="circular" if general else "zeros")
    module = nn.Sequential(first, nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 6, 2), nn.Flatten(), nn.Linear(24, 3))
    # The only layer without a rule: it is not in the way where it is not compared, which none of these does.
    check(module, (2, 6, 6), batch_size=batch, structured=not general, objective=lambda o: objectives(o)[number])


@pytest.mark.parametrize(("arguments", "message"), [
    ({"weights": {"0": -1.0}}, "weight of 0 must be a number >= 0, got -1.0"),
    ({"layers": ("7",)}, "no gradient was observed of the layers ['7']; there are ['1', '3']"),
    ({"weights": {"7": 1.0}}, "no gradient was observed"),
    ({"weights": {"1": 0.0, "3": 0.0}}, "nothing is compared"),
    ({"masks": {"1.weight": torch.ones(2, 3)}}, "the mask of 1.weight is [2, 3], expected [2, 4, 8]"),
])
def test_what_an_objective_cannot_mean_is_refused(arguments, message):
    observation = observation_through(nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), (2, 2, 2))
    with pytest.raises(ValueError) as error:
        GradientMatcher(observation, observation.labels, Objective(**arguments), seeds=[0, 1])
    assert message in str(error.value)


@pytest.mark.parametrize(("made", "message"), [
    (lambda: TotalVariation(float("nan")), "the weight of TotalVariation must be a number >= 0, got nan"),
    (lambda: Energy(-1.0), "the weight of Energy"), (lambda: Euclidean(clip=0.0), "clip must be a number > 0, got 0.0")])
def test_what_a_part_of_it_cannot_mean(made, message):
    with pytest.raises(ValueError, match=message):
        made()
