"""The rule of each kind of layer against plain double backward in float64, and the general step where there is no rule."""

from __future__ import annotations

import logging

import pytest
import torch
from attack_cases import observation_through, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks import matching
from attacks.general import GeneralStep
from attacks.matching import GradientMatcher
from attacks.objectives import Objective
from attacks.slots import Slots
from attacks.structured import StructuredStep

BATCHES = st.integers(1, 4)


def check(module: nn.Module, image_shape: tuple[int, int, int], *, structured: bool = True, **arguments) -> None:
    """Objective and image derivative of every victim agree with double backward to 1e-9."""
    torch.manual_seed(0)
    for parameter in module.parameters():  # norms start at one and zero, which would hide a wrong factor
        nn.init.normal_(parameter, std=0.5)
    observation = observation_through(module, image_shape, **arguments)
    n, b = observation.labels.shape
    x = torch.randn(n, b, *image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matcher = GradientMatcher(observation, observation.labels, Objective(total_variation=0.1), seeds=range(n))
    derivative, objective = matcher.step(x)
    assert isinstance(matcher.step_of_slots, StructuredStep) is structured
    for victim in range(n):
        expected_objective, expected = reference(observation, x, 0.1, victim)
        torch.testing.assert_close(objective[victim], expected_objective, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(derivative[victim], expected, rtol=1e-9, atol=1e-12 + 1e-9 * expected.abs().max().item())


@settings(max_examples=60)
@given(batch=BATCHES, kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
       padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
       groups=st.sampled_from([1, 2]), bias=st.booleans(), size=st.tuples(st.integers(8, 11), st.integers(8, 11)))
def test_convolutions(batch, kernel, stride, padding, dilation, groups, bias, size):
    first = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups, bias)
    second = nn.Conv2d(4, 2 * groups, 2, 1, 1, groups=groups, bias=bias)
    module = nn.Sequential(first, nn.Sigmoid(), second, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * groups, 3))
    check(module, (2, *size), batch_size=batch)


@given(batch=BATCHES, bias=st.booleans(), tokens=st.booleans())
def test_linear_layers_also_over_positions(batch, bias, tokens):
    """Applied to rows of pixels, a linear layer sees several positions of each image."""
    first = [nn.Linear(5, 4, bias), nn.Tanh(), nn.Flatten()] if tokens else [nn.Flatten(), nn.Linear(2 * 4 * 5, 12, bias), nn.Tanh()]
    check(nn.Sequential(*first, nn.Linear(2 * 4 * 4 if tokens else 12, 3, bias)), (2, 4, 5), batch_size=batch)


@given(batch=BATCHES, affine=st.booleans())
def test_norms(batch, affine):
    norm = nn.BatchNorm2d(4, affine=affine)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    for layer in (norm, nn.GroupNorm(2, 4, affine=affine), nn.LayerNorm([4, 3, 3], elementwise_affine=affine)):
        module = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), layer, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3))
        check(module, (2, 6, 6), batch_size=batch)


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


class Residual(nn.Module):
    """Adds in place, as torchvision's residual networks do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(8, 3)

    def forward(self, x):
        out = self.a(x)
        out += torch.tanh(self.b(x))
        return self.last(torch.tanh_(out).flatten(1))


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
    object.__setattr__(observation, "gradients", {n: g.float() for n, g in observation.gradients.items()})
    object.__setattr__(observation, "mean", observation.mean.float())
    observation.module.float()
    x = torch.randn(5, 1, 2, 8, 8)
    (d1, o1), (d2, o2) = (
        step(observation, observation.labels, Objective(total_variation=1e-3), Slots(range(5), 5, reloaded=False))(x, [])
        for step in (GeneralStep, StructuredStep))
    torch.testing.assert_close(o1, o2, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(d1, d2, rtol=1e-4, atol=1e-4 * d1.abs().max().item())
