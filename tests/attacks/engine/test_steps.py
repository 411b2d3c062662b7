"""Which step a model takes, and that both agree."""

from __future__ import annotations

import logging

import pytest
import torch
from attack_cases import observation_of, observation_through
from layer_cases import Residual, check
from torch import nn

from attacks.engine import matcher as matching
from attacks.engine.general import GeneralStep
from attacks.engine.slots import Slots
from attacks.engine.structured import StructuredStep
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.shared(torch.tanh(self.shared(x.flatten(1))))))


def tied() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))
    module[3].weight = module[1].weight
    return module


def test_outputs_that_are_written_into():
    check(Residual(), (2, 2, 2), batch_size=2)


@pytest.mark.parametrize(("module", "reason"), [
    (tied(), "shared"),
    (nn.Sequential(nn.Conv2d(2, 2, 1, padding_mode="reflect"), nn.Flatten(), nn.Linear(8, 3)), "no rule for the layer 0 (Conv2d)"),
    (nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 2, 1), nn.Flatten(), nn.Linear(8, 3)), "no rule for the layer 1 (Conv1d)"),
    (type("Mine", (nn.Linear,), {})(8, 3), "no rule for the layer of the model (Mine)"),
])
def test_other_models_take_the_general_step_and_it_is_told_once(module, reason, caplog, monkeypatch):
    monkeypatch.setattr(matching, "_told", set())
    if not isinstance(module, nn.Sequential):
        module = nn.Sequential(nn.Flatten(), module)
        reason = reason.replace("of the model", "1")
    with caplog.at_level(logging.INFO, "leakboard"):
        for _ in range(2):
            check(module, (2, 2, 2), structured=False)
    assert [reason in record.message for record in caplog.records] == [True]


def test_a_layer_that_runs_twice_is_noticed(caplog, monkeypatch):
    monkeypatch.setattr(matching, "_told", set())
    with caplog.at_level(logging.INFO, "leakboard"):
        check(Twice(), (2, 2, 2), batch_size=2, structured=False)
    assert "runs more than once" in caplog.text


class ByFunction(nn.Module):
    """Uses the weight of a layer without calling the layer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x.flatten(1)))
        return self.last(torch.tanh(nn.functional.linear(x, self.first.weight)))


class PositionsFirst(nn.Module):
    """Runs a layer on [positions, images, features]."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x.flatten(2).permute(2, 0, 1)))
        return self.last(x.permute(1, 0, 2).flatten(1))


@pytest.mark.parametrize(("module", "message"), [
    (ByFunction(), "in other ways than its layers do"), (PositionsFirst(), "does not see the images in its first dimension")])
def test_what_the_layers_do_not_tell_is_noticed(module, message, caplog, monkeypatch):
    monkeypatch.setattr(matching, "_told", set())
    with caplog.at_level(logging.INFO, "leakboard"):
        check(module, (2, 2, 2), batch_size=2, structured=False)
    assert message in caplog.text


def test_both_steps_agree_in_float32():
    module = nn.Sequential(nn.Conv2d(2, 6, 3, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(6 * 16, 3))
    observation = observation_through(module, (2, 8, 8), victims=5)
    object.__setattr__(observation, "shared", {n: g.float() for n, g in observation.shared.items()})
    object.__setattr__(observation, "mean", observation.mean.float())
    observation.module.float()
    x = torch.randn(5, 1, 2, 8, 8)
    (d1, o1), (d2, o2) = (
        step(observation, observation.labels, Objective(terms=(TotalVariation(1e-3),)), Slots(range(5), 5, reloaded=False))(x, [])
        for step in (GeneralStep, StructuredStep))
    torch.testing.assert_close(o1, o2, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(d1, d2, rtol=1e-4, atol=1e-4 * d1.abs().max().item())


def test_rounding_at_the_original_is_no_disagreement():
    """There both steps have a derivative of rounding alone."""
    observation, x = observation_of("none", "lenet")
    matcher = matching.GradientMatcher(observation, observation.labels, Objective(), seeds=[0, 1, 2])
    assert matcher.step(x)[1].abs().max() < 1e-5
    assert isinstance(matcher.step_of_slots, StructuredStep)
