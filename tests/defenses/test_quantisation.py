from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import step_of

from defenses import Facts, Quantisation
from defenses.quantisation import StochasticRounding
from defenses.stages import Bounds


def rounded(levels: int, gradient: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return Quantisation(levels).transform_gradients({"w": gradient}, step_of(seed))["w"]


def laplacian(count: int, seed: int = 0) -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.distributions.Laplace(0.0, 0.1).sample((count,)).double()


def test_by_hand():
    """A quarter of a step above a level goes up in a quarter of the cases; levels stay, zero among them."""
    gradient = torch.tensor([-8.0, 0.0, 2.0, 0.5, -4.5])
    found = torch.stack([rounded(4, gradient, seed) for seed in range(4000)])
    assert found[:, :3].unique(dim=0).tolist() == [[-8.0, 0.0, 2.0]]
    assert set(found[:, 3].tolist()) == {0.0, 2.0} and set(found[:, 4].tolist()) == {-4.0, -6.0}
    assert (found[:, 3] == 2.0).double().mean() == pytest.approx(0.25, abs=0.03)
    assert (found[:, 4] == -6.0).double().mean() == pytest.approx(0.25, abs=0.03)


@settings(max_examples=50)
@given(levels=st.integers(1, 300), exponent=st.integers(-12, 6), seed=st.integers(0, 200))
def test_the_largest_magnitude_stays_and_tells_the_step(levels, exponent, seed):
    """In float32 too: every entry is a whole number of steps that are read from what was shared, and near to what it was."""
    gradient = torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    shared = rounded(levels, gradient, seed)
    place = gradient.abs().argmax()
    assert shared.abs().amax() == shared[place].abs()
    torch.testing.assert_close(shared[place], gradient[place], rtol=1e-6, atol=0)
    step = shared.abs().amax() / levels
    steps = shared / step
    assert (steps - steps.round()).abs().max() < 1e-4 and ((shared - gradient).abs() <= (1 + 1e-5) * step).all()


def test_the_mean_is_the_gradient():
    gradient = laplacian(50)
    found = torch.stack([rounded(2, gradient, seed) for seed in range(2000)])
    torch.testing.assert_close(found.mean(0), gradient, rtol=0, atol=5 * float(found.std(0).max()) / math.sqrt(2000))


def test_nothing_of_nothing():
    assert rounded(3, torch.zeros(4)).tolist() == [0.0] * 4


@pytest.mark.parametrize("levels", [0, 1.5, True])
def test_what_is_no_number_of_levels_is_refused(levels):
    with pytest.raises(ValueError, match="levels must be a whole number >= 1"):
        Quantisation(levels)


def test_the_release():
    told = Quantisation(3).release({"weight": None}, Facts(1, 0, torch.nn.Linear(2, 1), (2,)))
    assert told["weight"].stages == (StochasticRounding(3),)


@pytest.mark.parametrize("levels", [1, 3, 15])
def test_the_surprise_is_that_of_the_draws(levels):
    """Of each entry minus the logarithm of how often it comes out so, by the law of the two levels beside it."""
    gradient = laplacian(60)
    shared = rounded(levels, gradient)
    step = gradient.abs().max() / levels
    lower = (gradient.abs() / step).floor()
    up = gradient.abs() / step - lower
    expected = -sum(math.log(u if round(v) > low else 1 - u) for u, v, low in zip(
        up.tolist(), (shared.abs() / step).tolist(), lower.tolist(), strict=True) if u > 1e-12)
    found = StochasticRounding(levels).surprise(gradient[None], shared[None])
    assert float(found) == pytest.approx(expected, abs=1e-6)
    both = StochasticRounding(levels).surprise(torch.stack([gradient, 0.9 * gradient]), shared[None])
    assert both[0] == found and both[1] > both[0] + 50  # of another largest magnitude


def test_what_is_ruled_out_goes_on_in_a_line():
    """One entry between levels 0 and 1, the largest beside it."""
    stage, left = StochasticRounding(1), torch.tensor([[0.0, 1.0]], dtype=torch.float64)

    def surprise(entry: float, largest: float = 1.0) -> float:
        return float(stage.surprise(torch.tensor([[entry, largest]], dtype=torch.float64), left))

    assert surprise(0.25) == pytest.approx(-math.log(0.75)) and surprise(0.0) == 0
    assert surprise(0.9995) == pytest.approx(-math.log(1e-3) + 0.5)
    third = stage.surprise(torch.tensor([[-2.0, 4.0, 4.0]]), torch.tensor([[0.0, 4.0, 4.0]]))  # half a step, and none
    assert float(third) == pytest.approx(-math.log(0.5))
    assert surprise(0.0, 1.0005) == pytest.approx(0.125 - math.log(0.9995)) and surprise(0.0, 1.1) == pytest.approx(99.5 - math.log(0.9))
    assert math.isfinite(surprise(1e6)) and surprise(1e6) > surprise(1e5)
    for values in (torch.zeros(1, 3), torch.ones(1, 3)):  # where nothing was shared
        found = StochasticRounding(2).surprise(values, torch.zeros(1, 3))
        assert found.isfinite().all() and (found > 1000).all() == bool(values.any())


@pytest.mark.parametrize("levels", [1, 7, 100])
def test_a_search_is_told_where_to_go(levels):
    """The derivative leads from every candidate to a likelier one, and is finite."""
    gradient = laplacian(60)[None]
    shared = rounded(levels, gradient[0])[None]
    stage = StochasticRounding(levels)
    for own in (0.2 * gradient, -gradient, torch.zeros_like(gradient), 10 * gradient):
        derivative, before = torch.func.grad_and_value(lambda g: stage.surprise(g, shared).sum())(own)
        assert derivative.isfinite().all() and derivative.abs().max() > 0
        assert stage.surprise(own - 1e-6 * derivative / derivative.norm(), shared) < before


@pytest.mark.parametrize("levels", [1, 7, 100])
def test_the_surprise_at_the_original_is_as_expected(levels):
    """Of Laplacian entries; so is what is taken for the variance of noise."""
    stage, draws = StochasticRounding(levels), []
    gradients = laplacian(20000).view(10, 2000)
    shared = torch.stack([rounded(levels, g, seed) for seed, g in enumerate(gradients)])
    draws = stage.surprise(gradients, shared)
    mean, variance = stage.typical(shared)
    assert draws.mean() == pytest.approx(float(mean.mean()), rel=0.08)
    assert float((draws - mean).std()) < 4 * float(variance.mean().sqrt()) + 0.08 * float(mean.mean())
    torch.testing.assert_close(stage.as_noise(shared).mean(), (shared - gradients).square().mean(), rtol=0.15, atol=0)


def test_one_by_one_and_all_at_once_are_the_same():
    gradients = laplacian(60).view(3, 4, 5)
    left = torch.stack([rounded(3, g) for g in gradients])
    stage = StochasticRounding(3)
    mapped = torch.func.vmap(lambda g, v: stage.surprise(g[None], v[None])[0])(gradients, left)
    torch.testing.assert_close(mapped, stage.surprise(gradients, left))
    for one, all_ in zip(torch.func.vmap(lambda v: torch.stack(stage.typical(v[None])))(left), zip(*stage.typical(left), strict=True), strict=True):
        torch.testing.assert_close(one[:, 0], torch.stack(all_))


def test_the_bounds():
    clean = laplacian(30)[None]
    left = rounded(5, clean[0])[None]
    low, high = StochasticRounding(5).before(Bounds(left, left))
    assert (low <= clean).all() and (clean <= high).all() and (high - low).max() < 2.001 * clean.abs().max() / 5
