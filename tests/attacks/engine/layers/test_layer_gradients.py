"""The rule of each kind of layer against plain double backward in float64, and the general step where there is no rule."""

from __future__ import annotations

import logging
from contextlib import contextmanager

import pytest
import torch
from attack_cases import observation_through, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.engine import matcher as matching
from attacks.engine.general import GeneralStep
from attacks.engine.layers.blocked_convolution import BlockedConvolution
from attacks.engine.matcher import GradientMatcher
from attacks.engine.slots import Slots
from attacks.engine.stored import factors
from attacks.engine.structured import StructuredStep
from attacks.objective.costs import Cosine, Euclidean
from attacks.objective.energy import Energy
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation

BATCHES = st.integers(1, 4)


COSTS = st.sampled_from([Cosine(), Euclidean()])


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


@settings(max_examples=60)
@given(batch=BATCHES, kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
       padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
       groups=st.sampled_from([1, 2]), bias=st.booleans(), size=st.tuples(st.integers(8, 11), st.integers(8, 11)), cost=COSTS)
def test_convolutions(batch, kernel, stride, padding, dilation, groups, bias, size, cost):
    first = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups, bias)
    second = nn.Conv2d(4, 2 * groups, 2, 1, 1, groups=groups, bias=bias)
    module = nn.Sequential(first, nn.Sigmoid(), second, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * groups, 3))
    check(module, (2, *size), batch_size=batch, cost=cost)


@settings(max_examples=60)
@given(batch=BATCHES, channels=st.integers(2, 24), kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
       size=st.tuples(st.integers(2, 8), st.integers(2, 8)), stride=st.integers(1, 2), dilation=st.integers(1, 2), cost=COSTS,
       dense=st.booleans())
def test_convolutions_over_few_positions(batch, channels, kernel, size, stride, dilation, cost, dense):
    """Whose gradients are not formed, with taps that only ever meet the padding, factored where their rank is small."""
    first = nn.Conv2d(3, channels, 2, 2)
    padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
    second = nn.Conv2d(channels, 20, kernel, stride, padding, dilation)
    module = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 3))
    with as_they_are(dense):
        check(module, (3, *size), batch_size=batch, cost=cost)


@settings(max_examples=60)
@given(batch=BATCHES, channels=st.integers(1, 4), kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)), stride=st.integers(2, 3),
       padding=st.tuples(st.integers(0, 3), st.integers(0, 3)), size=st.tuples(st.integers(7, 12), st.integers(7, 12)), cost=COSTS)
def test_strided_convolutions_of_few_channels(batch, channels, kernel, stride, padding, size, cost):
    """Which are computed on blocks of pixels."""
    first = nn.Conv2d(channels, 3, kernel, stride, padding)
    assert BlockedConvolution.helps(first) is (channels * stride**2 <= 16)
    module = nn.Sequential(first, nn.Sigmoid(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    check(module, (channels, *size), batch_size=batch, cost=cost)


@given(batch=BATCHES, bias=st.booleans(), tokens=st.booleans(), cost=COSTS)
def test_linear_layers_also_over_positions(batch, bias, tokens, cost):
    """Applied to rows of pixels, a linear layer sees several positions of each image."""
    first = [nn.Linear(5, 4, bias), nn.Tanh(), nn.Flatten()] if tokens else [nn.Flatten(), nn.Linear(2 * 4 * 5, 12, bias), nn.Tanh()]
    check(nn.Sequential(*first, nn.Linear(2 * 4 * 4 if tokens else 12, 3, bias)), (2, 4, 5), batch_size=batch, cost=cost)


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


@given(batch=BATCHES, affine=st.booleans(), cost=COSTS)
def test_norms(batch, affine, cost):
    norm = nn.BatchNorm2d(4, affine=affine)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    for layer in (norm, nn.GroupNorm(2, 4, affine=affine), nn.LayerNorm([4, 3, 3], elementwise_affine=affine)):
        module = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), layer, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3))
        check(module, (2, 6, 6), batch_size=batch, cost=cost)


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


@given(batch=BATCHES, padded=st.booleans())
def test_embeddings(batch, padded):
    """Of the signs of pixels, as far as an image model may use one; the image counts through a second way."""
    class Signs(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.last = nn.Embedding(2, 3, padding_idx=0 if padded else None), nn.Linear(12, 3)

        def forward(self, x):
            x = x.flatten(1)
            return self.last((self.embedding((x > 0).long()) * torch.tanh(x)[..., None]).flatten(1))

    check(Signs(), (1, 2, 2), batch_size=batch)


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
    object.__setattr__(observation, "shared", {n: g.float() for n, g in observation.shared.items()})
    object.__setattr__(observation, "mean", observation.mean.float())
    observation.module.float()
    x = torch.randn(5, 1, 2, 8, 8)
    (d1, o1), (d2, o2) = (
        step(observation, observation.labels, Objective(terms=(TotalVariation(1e-3),)), Slots(range(5), 5, reloaded=False))(x, [])
        for step in (GeneralStep, StructuredStep))
    torch.testing.assert_close(o1, o2, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(d1, d2, rtol=1e-4, atol=1e-4 * d1.abs().max().item())
