from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import MODELS, batch
from torch.func import functional_call, jacrev

from defenses import Batch, Facts, GradDefense, Noise, Release, Step, Unknown
from defenses.grad_defense import PartlyNoisy, _sensitivities


def module_of(name: str = "lenet") -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().double()


def shared_by(defense: GradDefense, module: torch.nn.Module, seed: int) -> tuple[dict, dict]:
    x, y = batch(1)
    step = Step(module, Batch(x.double(), y), 1, torch.Generator().manual_seed(seed), {}, 0,
                lambda b: torch.nn.functional.cross_entropy(module(b.images), b.targets, reduction="none"))
    plain = step.gradient(step.batch)
    return plain, defense.transform_gradients(plain, step)


def test_sensitivities_are_the_norms_of_derivatives_by_images():
    """Against the Jacobian of the summed gradient of each image, by torch.func."""
    module = module_of("mlp")
    parameters = dict(module.named_parameters())
    images = torch.randn(10, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    expected = []
    for name in parameters:
        def summed(image, label, name=name):
            own = jacrev(lambda p: torch.nn.functional.cross_entropy(functional_call(module, {**parameters, name: p}, (image[None],)),
                                                                     label[None]))(parameters[name])
            return own.sum()

        norms = [jacrev(summed)(image, torch.tensor(i % 5)).norm() / 10 for i, image in enumerate(images)]
        expected.append(torch.stack(norms).mean())
    torch.testing.assert_close(_sensitivities(module, list(parameters.values()), (2, 8, 8)), torch.stack(expected).detach())


def test_slices_are_of_equal_sensitivity_and_in_order():
    module, defense = module_of(), GradDefense(0.1, slices=4, perturbed=2)
    places = defense.places(module, (2, 8, 8))
    found = _sensitivities(module, list(module.parameters()), (2, 8, 8))
    flat = torch.cat([places[name].flatten() for name, _ in module.named_parameters()])
    each = torch.cat([(s / p.numel()).expand(p.numel()) for s, p in zip(found, module.parameters(), strict=True)])
    assert (flat.diff() >= 0).all() and flat.unique().tolist() == [0, 1, 2, 3]
    sums = torch.zeros(4, dtype=torch.float64).index_add(0, flat, each)
    assert (sums / sums.mean() - 1).abs().max() < 2 * each.max() / sums.mean()  # an entry at each end


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_is_on_as_many_slices_as_said_and_nowhere_else(seed):
    module, defense = module_of(), GradDefense(0.1, slices=6, perturbed=2)
    plain, shared = shared_by(defense, module, seed)
    places = defense.places(module, (2, 8, 8))
    changed = torch.cat([places[name][shared[name] != plain[name]] for name in plain])
    untouched = torch.cat([places[name][shared[name] == plain[name]] for name in plain])
    assert len(changed.unique()) == 2 and not set(changed.tolist()) & set(untouched.tolist())
    noise = torch.cat([(shared[name] - plain[name])[shared[name] != plain[name]] for name in plain])
    assert scipy.stats.kstest(noise.numpy(), scipy.stats.norm(scale=0.1).cdf).pvalue > 1e-3


def test_other_slices_are_chosen_in_other_steps():
    module, defense = module_of(), GradDefense(0.1, slices=6, perturbed=2)
    places = defense.places(module, (2, 8, 8))
    chosen = set()
    for seed in range(6):
        plain, shared = shared_by(defense, module, seed)
        chosen.add(tuple(torch.cat([places[name][shared[name] != plain[name]] for name in plain]).unique().tolist()))
    assert len(chosen) > 1


def stage_of(places: list[int], std: float = 1.0, share: float = 0.5) -> PartlyNoisy:
    return PartlyNoisy(std**2, share, 3, torch.tensor(places))


def test_the_likelihood_is_that_of_a_mixture_for_each_slice():
    """Against scipy, of slices of which it is not seen what they are; a slice with no entries says nothing."""
    own = torch.tensor([[5.0, -4.0, 3.0, -6.0]], dtype=torch.float64)
    for left in (own + 1e-4, torch.tensor([[5.5, -4.2, 3.0001, -6.0001]], dtype=torch.float64), own + 2):
        rounding = 1e-3 * left.square().mean().sqrt().item()
        expected = 0.0
        for some in (slice(0, 2), slice(2, 4)):
            exact, noisy = (scipy.stats.norm.logpdf(left[0, some].numpy(), own[0, some].numpy(), scale).sum() for scale in (rounding, 1.0))
            expected -= scipy.special.logsumexp([math.log(0.3) + noisy, math.log(0.7) + exact])
        found = stage_of([0, 0, 2, 2], share=0.3).surprise(own, left).item()
        assert found == pytest.approx(expected - 2 * math.log(2 * math.pi))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.0, 0.1, 1.0, 10.0]))
def test_noise_is_not_taken_for_none(seed, scale):
    """By four standard deviations, whatever it was added to; what is much smaller than the noise is seen to be exact."""
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 200, generator=generator)
    stage = PartlyNoisy(1.0, 0.5, 1, torch.zeros(200, dtype=torch.long))
    assert not stage._exact((scale * clean + noise)[None]).any()
    assert stage._exact(0.1 * clean[None]).all()


def test_what_is_seen_is_exact_or_louder_than_the_noise():
    places = torch.arange(3).repeat_interleave(200)
    generator = torch.Generator().manual_seed(0)
    tiny, noise, loud = torch.randn(3, 200, generator=generator)
    stage = PartlyNoisy(1.0, 0.5, 3, places)
    left = torch.cat([0.01 * tiny, noise, 5 * loud])[None]
    assert stage.seen(left)[0].tolist() == [True] * 200 + [False] * 200 + [True] * 200
    mean, variance = stage.typical(left)
    assert variance.item() == pytest.approx(200)  # of the two that may be noise
    assert stage.surprise(left, left) <= mean and stage.as_noise(left) == 0.5


def test_the_release_hides_which_slices_were_chosen():
    module = module_of()
    facts, shared = Facts(1, 0, module, (2, 8, 8)), shared_by(GradDefense(0.1), module, 0)[1]
    told = GradDefense(0.1).release({name: g[None] for name, g in shared.items()}, facts)
    places = GradDefense(0.1).places(module, (2, 8, 8))
    for name, release in told.items():
        (stage,) = release.stages
        assert stage.variance == pytest.approx(0.01) and stage.share == 0.5 and torch.equal(stage.places, places[name])
    assert isinstance(GradDefense(0.1).release({"3.bias": None}, facts)["3.bias"].stages[0], Unknown)
    assert GradDefense(0.1, perturbed=10).release({"3.bias": None}, facts)["3.bias"] == Release((Noise(0.1**2),))
    for idle in (GradDefense(0.0), GradDefense(0.1, perturbed=0)):
        assert idle.release({"3.bias": None}, facts)["3.bias"] == Release()
        plain, unchanged = shared_by(idle, module, 0)
        assert all(torch.equal(plain[name], unchanged[name]) for name in plain)


@pytest.mark.parametrize("arguments", [{"std": -1}, {"slices": 0}, {"perturbed": -1}, {"perturbed": 11}, {"perturbed": 0.5}])
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        GradDefense(**arguments)
