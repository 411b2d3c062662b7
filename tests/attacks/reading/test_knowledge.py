"""What an attacker reads from an observation: an informed one what is disclosed, a blind one nothing of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_cases import observation_of
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from toy_defenses import TOYS

import attacks
from attacks.engine.matcher import GradientMatcher
from attacks.objective.features import Features
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading import layers
from attacks.reading.informed import with_knowledge
from attacks.reading.linear_inputs import linear_inputs
from attacks.reading.releases import Told, told
from attacks.score import score
from defenses.stochastic import stochastic_layers


@given(rows=st.integers(1, 6), columns=st.integers(1, 5), share=st.floats(0, 0.8), seed=st.integers(0, 50))
def test_inputs_of_a_linear_layer_are_exact_also_from_what_pruning_left(rows, columns, share, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(2, columns, generator=generator, dtype=torch.float64)
    delta = torch.randn(2, rows, generator=generator, dtype=torch.float64)
    kept = torch.rand(2, rows, columns, generator=generator) >= share
    kept_bias = torch.rand(2, rows, generator=generator) >= share
    weight, bias = delta[..., None] * a[:, None], delta
    torch.testing.assert_close(linear_inputs(weight, bias), a, rtol=1e-9, atol=1e-9)
    found = linear_inputs(weight * kept, bias * kept_bias, seen=kept & kept_bias[..., None])
    seen = (kept & kept_bias[..., None]).any(1)
    torch.testing.assert_close(found, torch.where(seen, a, 0), rtol=1e-9, atol=1e-9)


def test_noise_on_the_gradient_is_averaged_over_the_rows():
    generator = torch.Generator().manual_seed(0)
    a, delta = torch.randn(1, 50, generator=generator), torch.randn(1, 400, generator=generator)
    weight, bias = delta[..., None] * a[:, None], delta
    noisy_weight, noisy_bias = (t + torch.randn(t.shape, generator=generator) for t in (weight, bias))
    plain, corrected = (linear_inputs(noisy_weight, noisy_bias, variance=variance) for variance in (0.0, 1.0))
    assert (corrected - a).norm() < 0.2 * a.norm() < (plain - a).norm()  # noise on the bias halves the uncorrected estimate


@pytest.mark.parametrize("model", ["lenet", "mlp"])  # the third has dropout, which the client draws for itself
def test_codes_and_features_of_the_client_are_read_exactly(model):
    observation, x = observation_of("precode", model, dtype=torch.float64)
    (code,), features = layers.codes(observation), layers.features(observation)
    (known,) = features.values()
    (bottleneck,) = stochastic_layers(observation.module).values()
    entered = []
    handle = bottleneck.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    for victim in range(len(observation)):
        bottleneck.code = code[victim]
        observation.module(x[victim])
        torch.testing.assert_close(entered[-1], known[victim], rtol=1e-6, atol=1e-8)
    handle.remove()
    bottleneck.code = None


def test_the_masks_of_the_client_are_read_exactly():
    """And under them its gradient is matched, where a blind attacker, in whose model nothing is dropped, is far from it."""
    observation, x = observation_of("dropout", "lenet", dtype=torch.float64)
    (code,), (layer,) = layers.codes(observation), observation.stochastic.values()
    entered = observation.module[2](observation.module[1](observation.module[0](x.flatten(0, 1)))).detach().view_as(code)
    kept = code != 0
    assert 0.2 < kept.double().mean() < 0.8
    torch.testing.assert_close(code, 2 * entered * kept, rtol=1e-9, atol=1e-12)
    assert layers.layers_that_see_the_image(observation) is None and layers.told_by_codes(observation)
    for known, bound in ((observation, 1e-12), (observation.blind(), None)):
        objective = with_knowledge(Objective(), known)
        cost = GradientMatcher(known, known.labels, objective, seeds=range(3)).step(x)[1]
        assert (cost < bound).all() if bound else (cost > 1e-3).all()
    assert not observation.blind().stochastic and list(observation.stochastic.values()) == [layer]


def test_masks_are_read_under_noise():
    """What is within three deviations of zero is taken for dropped."""
    clean, noisy = (observation_of(defense, "lenet", victims=8, dtype=torch.float64)[0] for defense in ("dropout", "dropout+noise(std=0.003)"))
    masks = [layers.codes(observation)[0] != 0 for observation in (clean, noisy)]
    assert (masks[0] == masks[1]).double().mean() > 0.9


def test_without_a_bias_no_mask_is_read():
    def model() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(128, 5, bias=False))

    assert "linear layer with bias" in layers.replay_obstacle(observation_of("dropout", model)[0])


def test_the_layers_before_the_sampling_are_those_that_run_before_it():
    for model, expected in (("lenet", ("0",)), ("mlp", ("1",)), ("batch-norm", ("convolution", "norm"))):  # registered in another order
        observation, _ = observation_of("precode", model)
        assert layers.layers_before_sampling(observation) == expected
        (place,) = layers.features(observation)
        assert layers.layers_that_see_the_image(observation) == (*expected, place) and place.endswith("bottleneck.encoder")
        assert layers.layers_that_see_the_image(observation.blind()) is None


KNOWING = {
    "precode": ["inverting-gradients", "feature-matching"],
    "pruning(p=0.5)": ["inverting-gradients"],
    "precode+pruning(p=0.5)": ["inverting-gradients"],
    "ppp(strength=0.5, perturbation='pruning')": ["inverting-gradients", "feature-matching"],
}


def cost_at(observation, objective, x):
    return GradientMatcher(observation, observation.labels, replace(objective, terms=tuple(term for term in objective.terms if not isinstance(term, TotalVariation))), seeds=range(3)).step(x)[1]


@pytest.mark.parametrize(("defense", "specification"), [(d, a) for d, known in KNOWING.items() for a in known])
@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_the_objective_of_an_informed_attacker_vanishes_at_the_original(defense, specification, model):
    """And that of a blind one does not: it matches zeros, or samples of its own."""
    observation, x = observation_of(defense, model, dtype=torch.float64)
    attack = attacks.create(specification)
    if attack.obstacle(observation):
        assert "no layer" in attack.obstacle(observation)
        return
    cost, blind = (cost_at(o, attack.objective(o), x) for o in (observation, observation.blind()))
    # Small entries of a code can be pruned in all rows; they are then taken to be zero.
    bound = 5e-4 if defense == "precode+pruning(p=0.5)" else 1e-9
    assert cost.abs().max() < bound and blind.min() > 5e-4
    assert attack.informed_by(observation)


@pytest.mark.parametrize("distribution", ["gaussian", "laplacian"])
def test_the_likelihood_of_known_noise_is_a_half_per_entry_at_the_original(distribution):
    observation, x = observation_of(f"noise(std=0.01, distribution='{distribution}')", "mlp", dtype=torch.float64)
    cost = cost_at(observation, attacks.Likelihood().objective(observation), x)
    entries = sum(g[0].numel() for g in observation.shared.values())
    torch.testing.assert_close(cost / (2 * 0.01**2 * entries), torch.full((3,), 0.5).double(), rtol=0, atol=0.05)


def test_noise_of_each_defense_and_of_compositions():
    def stds(defense, **others):
        return {name: variance**0.5 for name, variance in told(observation_of(defense, "lenet", **others)[0]).variances.items()}

    assert stds("none") == {} and stds("noise(std=0)") == {} and stds("pruning") == {}
    assert list(stds("noise(std=0.1)").values()) == pytest.approx([0.1] * 4)
    assert list(stds("dp-sgd(noise_multiplier=3.0, max_grad_norm=0.2)", batch_size=2).values()) == pytest.approx([0.3] * 4)
    assert list(stds("noise(std=3.0)+dp-sgd(noise_multiplier=4.0)").values()) == pytest.approx([5.0] * 4)
    assert set(stds("ppp(strength=0.1)")) == {"0.weight", "0.bias"}


def test_the_multiplier_that_follows_from_a_target_epsilon_is_known():
    """It is public: hidden, it would flatter the defense."""
    observation, _ = observation_of("dp-sgd(target_epsilon=3.0)", "lenet")
    multiplier = observation.defense.noise_multiplier
    assert multiplier > 0.1
    assert list(told(observation).variances.values()) == pytest.approx([multiplier**2] * 4)
    assert attacks.Likelihood().obstacle(observation) is None


@pytest.mark.parametrize("defense", ["dp-sgd(noise_multiplier=0.5, max_grad_norm=0.3)", "dp-sgd(noise_multiplier=0.5, max_grad_norm=100.0)",
                                     "clipping(norm=0.3)+noise(std=0.01)"])
def test_the_likelihood_clips_a_candidates_own_gradient(defense):
    """One half per entry at the original, whether it was clipped or not; and that of a batch takes the scale that fits."""
    observation, x = observation_of(defense, "mlp", victims=8)
    (variance,) = set(told(observation).variances.values())
    entries = sum(g[0].numel() for g in observation.shared.values())
    matcher = GradientMatcher(observation, observation.labels, replace(attacks.Likelihood().objective(observation), terms=()), seeds=range(8))
    cost = matcher.step(x)[1] / (2 * variance * entries)
    torch.testing.assert_close(cost, torch.full((8,), 0.5), rtol=0, atol=0.05)
    assert told(observation).clip and not told(observation).free_scale
    if observation.defense.guarantees:  # each image was clipped by itself
        batch = told(observation_of(defense, "mlp", batch_size=2)[0])
        assert batch.clip is None and batch.free_scale


def test_noise_behind_pruning_hides_what_was_pruned_and_the_candidate_is_pruned_first():
    observation, x = observation_of("pruning(p=0.5)+noise(std=0.01)", "lenet", dtype=torch.float64)
    known = told(observation)
    assert known.masks == {} and set(known.passes) == set(observation.shared)
    cost = cost_at(observation, attacks.Likelihood().objective(observation), x)
    entries = sum(g[0].numel() for g in observation.shared.values())
    torch.testing.assert_close(cost / (2 * 0.01**2 * entries), torch.full((3,), 0.5).double(), rtol=0, atol=0.05)
    behind = told(observation_of("noise(std=0.1)+pruning", "lenet")[0])
    assert set(behind.masks) == {"0.weight", "0.bias", "3.weight", "3.bias"} and not behind.passes


@pytest.mark.parametrize("defense", ["sign", "clipping(norm=0.1)+sign"])
def test_signs_are_matched_by_how_far_entries_are_on_the_wrong_side(defense):
    """By hand; whatever the scale. The cosine goes on with the signs themselves."""
    observation, x = observation_of(defense, "lenet", dtype=torch.float64)
    known = told(observation)
    assert set(known.judges) == set(observation.shared) and not known.free_scale
    cost = cost_at(observation, attacks.Likelihood().objective(observation), 0.7 * x)
    for victim in range(3):
        loss = F.cross_entropy(observation.module(0.7 * x[victim]), observation.labels[victim])
        expected = 0.0
        for g, signs in zip(torch.autograd.grad(loss, list(observation.module.parameters())), observation.shared.values(), strict=True):
            expected += float((1 + torch.exp(-5 * signs[victim] * g.sign() * (g.abs() / g.square().mean().sqrt()).sqrt())).log().sum())
        assert float(cost[victim]) == pytest.approx(expected)
    original, negative = (cost_at(observation, attacks.Likelihood().objective(observation), images) for images in (x, -x))
    assert (original < 0.5 * negative).all()
    assert attacks.InvertingGradients().objective(observation).judges == {}
    judge, own = known.judges["0.weight"], torch.randn(2, *observation.shared["0.weight"].shape[1:], dtype=torch.float64)
    signs = observation.shared["0.weight"][:1]
    torch.testing.assert_close(judge(7 * own, signs).nats, judge(own, signs).nats)
    hidden = torch.zeros_like(signs)
    assert (judge(own, hidden).nats > judge(own * 0, hidden).nats).all()  # of entries that were zero


def test_signs_of_which_some_were_hidden_or_that_noise_came_before_leave_the_scale_free():
    for defense in ("sign+pruning(p=0.5)", "noise(std=0.1)+sign"):
        known = told(observation_of(defense, "lenet")[0])
        assert known.free_scale and not known.judges


@pytest.mark.parametrize("defense", ["svd(energy=0.5)", "clipping(norm=0.1, per=tensor)"])
def test_a_candidate_is_cut_and_clipped_as_the_clients_gradient_was(defense):
    observation, x = observation_of(defense, "lenet", batch_size=2, dtype=torch.float64)
    attack = attacks.InvertingGradients()
    informed, blind = (cost_at(o, attack.objective(o), x) for o in (observation, observation.blind()))
    assert informed.abs().max() < 1e-9 < 1e-3 < blind.min()


assert {"rounded", "decoy"} <= set(TOYS)


def test_intervals_are_compared_by_what_a_candidate_becomes():
    observation, x = observation_of("rounded(width=0.01)", "lenet", dtype=torch.float64)
    attack = attacks.InvertingGradients()
    informed, blind = (cost_at(o, attack.objective(o), x) for o in (observation, observation.blind()))
    assert informed.abs().max() < 1e-9 < 1e-5 < blind.min()


@pytest.mark.parametrize("defense", [
    "noise(std=0.01)+pruning(p=0.5)+rounded", "pruning(p=0.5)+rounded+noise(std=0.01)", "clipping(norm=0.1)+pruning(p=0.5)+noise(std=0.01)",
    "pruning(p=0.5)+clipping(norm=0.1)", "noise(std=0.01)+rounded", "top-k(share=0.5)+noise(std=0.01)", "rounded+precode+pruning(p=0.5)"])
def test_any_chain_can_be_matched_and_scored(defense):
    observation, x = observation_of(defense, "lenet")
    for attack in (attacks.InvertingGradients(), attacks.FeatureMatching(), attacks.Likelihood(), attacks.IDLG()):
        if attack.obstacle(observation) is None:
            objective = attack.objective(observation) if hasattr(attack, "objective") else attack._objective(observation)
            derivative, cost = GradientMatcher(observation, observation.labels, objective, seeds=range(3)).step(0.9 * x)
            assert torch.isfinite(derivative).all() and torch.isfinite(cost).all() and derivative.abs().max() > 0
    assert torch.isfinite(score(observation, 0.9 * x, observation.labels, 0)).all()


def test_a_blind_attacker_is_told_nothing():
    observation, _ = observation_of("precode+pruning(p=0.5)+noise(std=0.1)", "mlp")
    blind = observation.blind()
    assert blind.defense is None and told(blind) == Told() and not blind.discloses
    assert "blind" in layers.replay_obstacle(blind)
    objective = attacks.InvertingGradients().objective(blind)
    assert objective.same_as(Objective(terms=(TotalVariation(1e-6),)))


def test_features_of_which_nothing_is_known_leave_the_objective_finite():
    term = Features(1.0, "layer", torch.zeros(2, 1, 3))
    assert term.distance(torch.nn.Identity(), {"layer": torch.ones(2, 3)}, 2).tolist() == [1, 1]


@pytest.mark.parametrize(("specification", "defense", "options", "reason"), [
    ("omit-stochastic", "none", {}, "no stochastic layer"),
    ("likelihood", "pruning", {}, "no noise of known variance"),
    ("likelihood", "decoy", {}, "no noise of known variance"),
    ("averaging", "pruning", {"rounds": 2}, "every round shares the same gradient"),
    ("averaging", "noise", {}, "one round was observed"),
    ("analytic", "none", {}, "the first layer is a convolution"),
    ("feature-matching", "none", {"batch_size": 2}, "not of 2"),
])
def test_attacks_say_why_they_do_not_apply(specification, defense, options, reason):
    observation, _ = observation_of(defense, "lenet", **options)
    attack = attacks.create(specification)
    assert reason in attack.obstacle(observation)
    with pytest.raises(ValueError, match=reason):
        attack.reconstruct(observation, seed=0)


@pytest.mark.parametrize("specification", ["omit-stochastic", "likelihood"])
def test_what_needs_the_defense_says_so_to_a_blind_attacker(specification):
    attack = attacks.create(specification)
    assert "defense" in attack.needs
    for defense in ("precode", "noise"):
        assert attack.obstacle(observation_of(defense, "lenet")[0].blind()).startswith("a blind attacker does not know")


def test_averaged_rounds_have_less_noise_and_no_code():
    observation, _ = observation_of("noise(std=0.1)", "lenet", rounds=4)
    means = observation.averaged()
    for name, g in means.shared.items():
        torch.testing.assert_close(g, torch.stack([one.shared[name] for one in observation.rounds]).mean(0))
    assert list(told(means).variances.values()) == pytest.approx([0.1**2 / 4] * 4)
    averaged = observation_of("precode", "lenet", rounds=4)[0].averaged()
    assert "differ between the rounds" in layers.replay_obstacle(averaged)
    pruned = observation_of("precode+pruning(p=0.5)", "lenet", rounds=4)[0].averaged()
    assert told(pruned) == Told() and all(release.form is None for release in pruned.releases().values())


def test_averaging_heeds_its_prior_under_noise():
    observation, _ = observation_of("noise(std=0.1)", "lenet", rounds=4)
    means = observation.averaged()
    weights = [attacks.Averaging(total_variation=weight).objective(means).terms[-1].weight for weight in (None, 0.1, 0.2)]
    assert weights[0] == weights[1] == pytest.approx(weights[2] / 2)


@pytest.mark.parametrize("model", ["lenet", "mlp"])
@pytest.mark.parametrize("defense", ["none", "precode", "pruning(p=0.5)", "noise(std=0.001)", "dp-sgd(noise_multiplier=0.001)", "ppp", "pruning(p=0.5)+noise(std=0.001)"])
def test_the_original_is_likelier_than_noise_and_than_grey(defense, model):
    observation, x = observation_of(defense, model)
    scores = [score(observation, images, observation.labels, 0) for images in (x, torch.randn(x.shape), torch.zeros_like(x))]
    assert (scores[0] < scores[1]).all() and (scores[0] < scores[2]).all()
    assert torch.isinf(score(observation, x * torch.nan, observation.labels, 0)).all()
