"""Networks read backwards, and least squares by conjugate gradients."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from attack_cases import observation_of, observation_through
from torch import nn

from attacks import Recursive
from attacks.engine.matcher import GradientMatcher
from attacks.methods.recursive import of_first_layers
from attacks.reading.layers import codes
from attacks.reading.least_squares import least_squares
from attacks.reading.recursion import _begin, read_backwards, recursion_obstacle
from defenses import client_loss
from defenses.stochastic import samples_of_codes, sampling


def network(activation: nn.Module, *, bias: bool = True) -> nn.Module:
    """A convolution with stride, one with dilation, and a linear layer, before the last."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, stride=2, padding=1, bias=bias), activation, nn.Conv2d(16, 16, 3, padding=2, dilation=2), activation,
        nn.Dropout(0.5), nn.Flatten(), nn.Linear(16 * 16, 40), activation, nn.Linear(40, 3))


def images(observation, seed: int = 0) -> torch.Tensor:
    """Those that ``observation_through`` draws."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(observation), 1, *observation.image_shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(0.1), nn.ReLU(), nn.Identity()])
def test_an_image_is_read_exactly(activation, bias):
    observation = observation_through(network(activation, bias=bias), (2, 8, 8), victims=3)
    links, known = read_backwards(observation, 0, 500)
    assert not links
    torch.testing.assert_close(known.value, images(observation), rtol=0, atol=1e-4)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_what_leaves_the_first_layers_and_its_error(left):
    """Against autograd."""
    observation = observation_through(network(nn.Tanh()), (2, 8, 8), victims=3)
    links, known = read_backwards(observation, left, 500)
    assert sum(isinstance(link.module, (nn.Conv2d, nn.Linear)) for link in links) == left
    assert observation.labels is not None
    for victim, x in enumerate(images(observation)):
        leaves = observation.module[: len(links)](x).detach().requires_grad_()
        loss = nn.functional.cross_entropy(observation.module[len(links) :](leaves), observation.labels[victim])
        (error,) = torch.autograd.grad(loss, leaves)
        torch.testing.assert_close(known.value[victim, 0], leaves[0].detach(), rtol=0, atol=1e-5)
        torch.testing.assert_close(known.error[victim, 0], error[0], rtol=0, atol=1e-7)


def test_flat_activations_tell_what_they_can():
    """Outputs near a bound tell little of what entered, and none that is at it; the gradient tells the rest."""
    module = network(nn.Sigmoid())
    with torch.no_grad():
        module[2].bias += torch.linspace(-24, 24, 16)  # from none told to all
    exact = observation_through(module, (2, 8, 8), victims=3)
    observation = replace(exact, module=copy.deepcopy(module).float(), mean=exact.mean.float(), std=exact.std.float(),
                          shared={name: g.float() for name, g in exact.shared.items()})
    links, known = read_backwards(observation, 1, 500)
    entered = module[: len(links)](images(exact).flatten(0, 1))
    torch.testing.assert_close(known.value[:, 0].double(), entered.detach(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("matched", [1, 2, 3])
def test_the_original_is_a_minimum_of_what_is_matched(matched):
    """Without a prior both the objective and its derivative are zero there, for both steps."""
    observation = observation_through(network(nn.Sigmoid()), (2, 8, 8), victims=3)
    links, known = read_backwards(observation, matched, 500)
    first, labels, objective = of_first_layers(observation, links, known, 0.0)
    matcher = GradientMatcher(first, labels, objective, seeds=[0, 1, 2])
    derivative, cost = matcher.step(images(observation))
    assert cost.abs().max() < 1e-6 and derivative.abs().max() < 1e-4
    derivative, cost = matcher.step(images(observation, seed=1))
    assert cost.min() > 1e-2 and derivative.flatten(1).norm(dim=1).min() > 1e-3


@pytest.mark.parametrize("defense", ["precode", "precode(bottleneck_size=8, beta=0.1)"])
def test_an_informed_attacker_reads_what_comes_before_a_stochastic_layer(defense):
    """Against autograd under the client's sample, which is as constant as it was there."""
    observation, x = observation_of(defense, "lenet", dtype=torch.float64)
    assert recursion_obstacle(observation.blind()) is not None
    links, known = read_backwards(observation, 1, 100)
    (layer,), (code,) = observation.stochastic.values(), codes(observation)
    for victim in range(len(observation)):
        entered = observation.module[: len(links)](x[victim]).detach().requires_grad_()
        with torch.no_grad():
            (sample,) = samples_of_codes([layer], [code[victim]], partial(observation.module, x[victim]))
        with sampling([layer], [sample]):
            loss = client_loss(observation.defense, observation.module[len(links) :], entered, observation.labels[victim]).sum()
        (error,) = torch.autograd.grad(loss, entered)
        torch.testing.assert_close(known.value[victim].flatten(), entered.detach().flatten(), rtol=0, atol=1e-6)
        torch.testing.assert_close(known.error[victim].flatten(), error.flatten(), rtol=1e-6, atol=1e-12)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(128, 3)

    def forward(self, x):
        return self.last((self.second(self.first(x)) + x).flatten(1))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 2, 3), nn.Linear(72, 3)

    def forward(self, x):
        return self.last(self.first(input=x).flatten(1))


@pytest.mark.parametrize(("module", "reason"), [
    (Named(), "more than to run its layers one after another, before first"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)), "no rule reads a MaxPool2d backwards"),
    (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(72, 3)), "in groups"),
    (nn.Sequential(nn.Conv2d(2, 2, 3, padding="same"), nn.Flatten(), nn.Linear(128, 3)), "padded otherwise"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(72, 3, bias=False)), "has no bias"),
    (nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), "no layer comes before 1"),
    (Residual(), "more than to run its layers one after another, before last"),
])
def test_models_that_cannot_be_read(module, reason):
    observation = observation_through(module, (2, 8, 8))
    assert reason in (recursion_obstacle(observation) or "")
    with pytest.raises(ValueError, match=reason):
        Recursive().reconstruct(observation, seed=0)


@pytest.mark.parametrize(("defense", "batch_size", "reason"), [
    ("noise(std=0.1)", 1, "alters them"), ("sign", 1, "alters them"), ("none", 2, "not of 2"), ("precode", 2, "not of 2")])
def test_gradients_that_cannot_be_read(defense, batch_size, reason):
    assert reason in (recursion_obstacle(observation_of(defense, "lenet", batch_size=batch_size)[0]) or "")


def test_a_diverged_training_gives_finite_images():
    observation, _ = observation_of("none", "lenet")
    with torch.no_grad():
        for gradient in observation.shared.values():
            gradient.fill_(torch.nan)
    for matched in (0, 1):
        assert torch.isfinite(Recursive(matched=matched, iterations=2).reconstruct(observation, seed=0).images).all()


@pytest.mark.parametrize("shape", [(9, 5), (4, 6)])
def test_least_squares(shape):
    """Against LAPACK, of the least norm where there are several; no victim changes with another that cannot be solved."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    right = torch.randn(3, shape[0], 1, generator=generator, dtype=torch.float64)

    def solve(matrix, right):
        return least_squares(lambda x: [matrix @ x], lambda r: matrix.mT @ r[0], [right], right.new_zeros(len(right), shape[1], 1),
                             iterations=50, tolerance=1e-12)

    found = solve(matrix, right)
    torch.testing.assert_close(found, torch.linalg.lstsq(matrix, right, driver="gelsd").solution, rtol=1e-8, atol=1e-8)
    spoilt = right.clone()
    spoilt[1] = torch.inf
    assert torch.equal(solve(matrix, spoilt)[[0, 2]], found[[0, 2]])
    assert torch.equal(solve(matrix, torch.zeros_like(right)), torch.zeros_like(found))


def test_a_gradient_that_was_clipped_is_read_as_before():
    """The factor follows from the last layer; a blind attacker, who takes none into account, reads another image."""
    plain = observation_of("none", "lenet", victims=3)[0]
    clipped = observation_of("clipping(norm=0.01)", "lenet", victims=3)[0]
    assert all(clipped.shared[name].norm() < 0.9 * plain.shared[name].norm() for name in plain.shared)
    found, wanted, blind = (Recursive(matched=0).reconstruct(one, seed=0).images for one in (clipped, plain, clipped.blind()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)
    assert (blind - wanted).abs().mean() > 10 * (found - wanted).abs().mean()


def wide() -> nn.Module:
    """Half of what leaves a layer, and parts of its gradient, tell what entered it."""
    return nn.Sequential(nn.Conv2d(2, 16, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh(), nn.Flatten(),
                         nn.Linear(256, 5))


@pytest.mark.parametrize("defense", ["dropout(p=0.5)", "dropout(p=0.5)+clipping(norm=0.01)", "svd(energy=0.9)", "dropout(p=0.3)+svd(energy=0.95)"])
def test_an_image_is_read_around_what_was_dropped_or_cut(defense):
    """Of the features only those that were kept, of the gradients only what is in the span of what was left."""
    observation, x = observation_of(defense, wide, dtype=torch.float64)
    links, known = read_backwards(observation, 0, 500)
    assert not links
    torch.testing.assert_close(known.value, x, rtol=0, atol=1e-3)
    blind = read_backwards(observation.blind(), 0, 500)[1].value
    assert (blind - x).abs().mean() > 100 * (known.value - x).abs().mean()


@pytest.mark.parametrize("defense", ["precode(bottleneck_size=8)", "precode(bottleneck_size=64)+clipping(norm=0.01)"])
def test_an_image_is_read_behind_what_was_sampled(defense):
    observation, x = observation_of(defense, wide, dtype=torch.float64)
    torch.testing.assert_close(read_backwards(observation, 0, 500)[1].value, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("matched", [1, 2])
@pytest.mark.parametrize("defense", ["dropout(p=0.5)", "svd(energy=0.9)", "precode(bottleneck_size=8)"])
def test_the_original_is_a_minimum_around_what_was_dropped_or_cut(defense, matched):
    observation, x = observation_of(defense, wide, dtype=torch.float64)
    links, known = read_backwards(observation, matched, 500)
    assert (known.where is not None) == (matched == 2 and "dropout" in defense)
    first, labels, objective = of_first_layers(observation, links, known, 0.0)
    matcher = GradientMatcher(first, labels, objective, seeds=[0, 1, 2])
    assert matcher.step(x)[1].abs().max() < 1e-6 < 1e-2 < matcher.step(x.roll(1, 0))[1].min()


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_an_image_is_nearly_read_where_the_smallest_entries_were_hidden(share):
    """Of the features those of which no row was kept are small; the error behind them is a little wrong for want of them."""
    observation, x = observation_of(f"pruning(p={share})", wide, dtype=torch.float64)
    found, blind = (read_backwards(one, 0, 500)[1].value for one in (observation, observation.blind()))
    assert (found - x).norm() < 0.01 * x.norm() and (blind - x).norm() > 30 * (found - x).norm()


def test_a_linear_layer_tells_what_entered_it_by_the_entries_that_were_kept():
    observation, x = observation_of("pruning(p=0.5)", "mlp", dtype=torch.float64)
    assert recursion_obstacle(observation) is None
    links, known = read_backwards(observation, 0, 1)
    assert not links and (known.value.view_as(x) - x).norm() < 0.2 * x.norm()


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(0.1)])
def test_features_that_the_last_gradient_hides_are_told_by_the_layer_before(activation):
    """Half of them, as Soteria hides them, against the client's own; the image is then read as if none had been."""
    def made() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 12, 3, padding=1), activation, nn.Conv2d(12, 12, 5, stride=2, padding=2), activation,
                             nn.Flatten(), nn.Linear(192, 5))

    observation, x = observation_of("soteria(percentile=50, probes=0)", made, dtype=torch.float64)
    _, last = _begin(observation)
    assert last.where is not None and 0.4 < last.where.double().mean() < 0.6
    features = nn.Sequential(*list(observation.module)[:5])(x[:, 0]).detach()[:, None]
    assert ((last.value - features).norm(dim=-1) > 0.05 * features.norm(dim=-1)).all()
    links, known = read_backwards(observation, 1, 500)
    assert [link.name for link in links] == ["0", "1"]
    torch.testing.assert_close(known.value[:, 0], nn.Sequential(*list(observation.module)[:2])(x[:, 0]).detach(), rtol=0, atol=1e-5)
