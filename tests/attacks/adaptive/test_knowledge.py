"""What a knowing attacker reads from an observation, and that its objectives are lowest at the original."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_cases import observation_of
from hypothesis import given
from hypothesis import strategies as st

import attacks
import defenses
from attacks.adaptive import knowledge
from attacks.linear_inputs import linear_inputs
from attacks.matching import GradientMatcher
from attacks.objectives import Objective
from attacks.penalties import feature_distance
from attacks.score import score


@given(rows=st.integers(1, 6), columns=st.integers(1, 5), share=st.floats(0, 0.8), seed=st.integers(0, 50))
def test_inputs_of_a_linear_layer_are_exact_also_from_what_pruning_left(rows, columns, share, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(2, columns, generator=generator, dtype=torch.float64)
    delta = torch.randn(2, rows, generator=generator, dtype=torch.float64)
    kept = torch.rand(2, rows, columns, generator=generator) >= share
    kept_bias = torch.rand(2, rows, generator=generator) >= share
    found = linear_inputs(delta[..., None] * a[:, None] * kept, delta * kept_bias)
    told = (kept & kept_bias[..., None]).any(1)
    torch.testing.assert_close(found, torch.where(told, a, 0), rtol=1e-9, atol=1e-9)


def test_noise_on_the_gradient_is_averaged_over_the_rows():
    generator = torch.Generator().manual_seed(0)
    a, delta = torch.randn(1, 50, generator=generator), torch.randn(1, 400, generator=generator)
    weight, bias = delta[..., None] * a[:, None], delta
    noisy_weight, noisy_bias = (t + torch.randn(t.shape, generator=generator) for t in (weight, bias))
    plain, corrected = (linear_inputs(noisy_weight, noisy_bias, std=std) for std in (0.0, 1.0))
    assert (corrected - a).norm() < 0.2 * a.norm() < (plain - a).norm()  # noise on the bias halves the uncorrected estimate


@pytest.mark.parametrize("model", ["lenet", "mlp"])  # the third has dropout, which the client draws for itself
def test_codes_and_features_of_the_client_are_read_exactly(model):
    observation, x = observation_of("precode", model, dtype=torch.float64)
    (code,), features = knowledge.codes(observation), knowledge.features(observation)
    (known,) = features.values()
    (name,) = knowledge.bottleneck_names(observation)
    bottleneck = observation.module.get_submodule(name)
    entered = []
    handle = bottleneck.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    for victim in range(len(observation)):
        bottleneck.code = code[victim]
        observation.module(x[victim])
        torch.testing.assert_close(entered[-1], known[victim], rtol=1e-6, atol=1e-8)
    handle.remove()
    bottleneck.code = None


KNOWING = {
    "precode": ["replay-bottleneck", "replay-bottleneck(target='features')"],
    "pruning(p=0.5)": ["mask-aware"],
    "precode+pruning(p=0.5)": ["mask-aware", "replay-bottleneck"],
    "ppp(strength=0.5, perturbation='pruning')": ["mask-aware", "replay-bottleneck", "replay-bottleneck(target='features')"],
}


@pytest.mark.parametrize(("defense", "specification"), [(d, a) for d, known in KNOWING.items() for a in known])
@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_the_objective_of_a_knowing_attacker_vanishes_at_the_original(defense, specification, model):
    observation, x = observation_of(defense, model, dtype=torch.float64)
    attack = attacks.create(specification)
    if attack.obstacle(observation):
        assert "no layer" in attack.obstacle(observation)
        return
    objective = replace(attack.objective(observation), total_variation=0.0)
    cost = GradientMatcher(observation, observation.labels, objective, seeds=range(3)).step(x)[1]
    static = GradientMatcher(observation, observation.labels, Objective(), seeds=range(3)).step(x)[1]
    # Small entries of a code can be pruned in all rows; they are then taken to be zero.
    bound = 5e-4 if defense == "precode+pruning(p=0.5)" else 1e-9
    assert cost.abs().max() < bound and static.min() > 5e-4


@pytest.mark.parametrize("distribution", ["gaussian", "laplacian"])
def test_the_likelihood_of_known_noise_is_a_half_per_entry_at_the_original(distribution):
    observation, x = observation_of(f"noise(std=0.01, distribution='{distribution}')", "mlp", dtype=torch.float64)
    objective = attacks.NoiseAware(total_variation=0.0).objective(observation)
    cost = GradientMatcher(observation, observation.labels, objective, seeds=range(3)).step(x)[1]
    entries = sum(g[0].numel() for g in observation.gradients.values())
    torch.testing.assert_close(cost / (2 * 0.01**2 * entries), torch.full((3,), 0.5).double(), rtol=0, atol=0.05)


def test_noise_of_each_defense_and_of_compositions():
    def stds(defense, **others):
        return knowledge.noise_std(observation_of(defense, "lenet", **others)[0])

    assert stds("none") == {} and stds("noise(std=0)") == {} and stds("pruning") == {}
    assert set(stds("noise(std=0.1)").values()) == {0.1}
    assert list(stds("dp-sgd(noise_multiplier=3.0, max_grad_norm=0.2)", batch_size=2).values()) == pytest.approx([0.3] * 4)
    assert set(stds("noise(std=3.0)+dp-sgd(noise_multiplier=4.0)").values()) == {5.0}
    assert set(stds("ppp(strength=0.1)")) == {"0.weight", "0.bias"}


def test_noise_behind_pruning_hides_what_was_pruned():
    assert knowledge.masks(observation_of("pruning+noise(std=0.1)", "lenet")[0]) == {}
    assert set(knowledge.masks(observation_of("noise(std=0.1)+pruning", "lenet")[0])) == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_features_of_which_nothing_is_known_leave_the_objective_finite():
    assert feature_distance(torch.ones(2, 3), torch.zeros(2, 1, 3)).tolist() == [1, 1]


def test_who_is_randomised():
    randomised = {name: knowledge.is_randomised(defenses.create(name)) for name in ("none", "pruning", "noise", "precode", "dp-sgd", "ppp", "pruning+noise")}
    assert randomised == {"none": False, "pruning": False, "noise": True, "precode": True, "dp-sgd": True, "ppp": True, "pruning+noise": True}


@pytest.mark.parametrize(("specification", "defense", "options", "reason"), [
    ("replay-bottleneck", "none", {}, "no variational bottleneck"),
    ("replay-bottleneck", "precode", {"batch_size": 2}, "not of 2"),
    ("omit-stochastic", "none", {}, "no variational bottleneck"),
    ("mask-aware", "noise", {}, "not pruned"),
    ("noise-aware", "pruning", {}, "no noise of known standard deviation"),
    ("averaging", "pruning", {}, "not randomised"),
    ("averaging", "noise", {}, "one round was observed"),
    ("analytic", "none", {}, "the first layer is a convolution"),
])
def test_attacks_say_why_they_do_not_apply(specification, defense, options, reason):
    observation, _ = observation_of(defense, "lenet", **options)
    attack = attacks.create(specification)
    assert reason in attack.obstacle(observation)
    with pytest.raises(ValueError, match=reason):
        attack.reconstruct(observation, seed=0)


def test_averaged_rounds_have_less_noise_and_no_code():
    observation, _ = observation_of("noise(std=0.1)", "lenet")
    several = replace(observation, rounds=4, averaged=observation.gradients)
    attack = attacks.Averaging(iterations=2)
    assert attack.obstacle(several) is None
    assert set(knowledge.noise_std(attack.prepared(several)).values()) == {0.05}
    hidden, _ = observation_of("precode", "lenet")
    averaged = attack.prepared(replace(hidden, rounds=4, averaged=hidden.gradients))
    assert "differ between the rounds" in knowledge.replay_obstacle(averaged)
    assert attack.reconstruct(several, seed=0).images.shape == (3, 1, 2, 8, 8)


@pytest.mark.parametrize("model", ["lenet", "mlp"])
@pytest.mark.parametrize("defense", ["none", "precode", "pruning(p=0.5)", "noise(std=0.001)", "dp-sgd(noise_multiplier=0.001)", "ppp"])
def test_the_original_is_likelier_than_noise_and_than_grey(defense, model):
    observation, x = observation_of(defense, model)
    scores = [score(observation, images, observation.labels, 0) for images in (x, torch.randn(x.shape), torch.zeros_like(x))]
    assert (scores[0] < scores[1]).all() and (scores[0] < scores[2]).all()
    assert torch.isinf(score(observation, x * torch.nan, observation.labels, 0)).all()
