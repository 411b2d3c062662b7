"""What identification must do over every defense; a new one is tested by being registered."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from identification_cases import Case, case_of, gradient_of
from toy_defenses import TOYS

import defenses
from attacks import Observation
from attacks.identification import Candidates, Identifier, simulation
from defenses.stochastic import stochastic_layers

DEFENSES = [*defenses.registry.names(), "precode+noise(std=0.001)", "pruning(p=0.5)+noise(std=0.001)", "dp-sgd+pruning(p=0.5)",
            "noise(std=0.001)+pruning(p=0.5)", "dp-sgd+decoy"]
assert set(TOYS) < set(DEFENSES)
METHODS = {"cosine", "exact", "likelihood", "features", "replayed", "whitened", "simulated", "span", "signless", "rebuilt"}


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    """Clients take the most time here; two draws are enough for a variance."""
    monkeypatch.setattr(simulation, "DRAWS", 2)


def known(case: Case) -> list[Observation]:
    """What informed and blind attackers observe."""
    return [case.observation, case.observation.blind()]


def scores(observation: Observation, candidates: Candidates) -> torch.Tensor:
    return Identifier().scores(observation, candidates, seed=0)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Up to what rounding in float32 makes of the differences between candidates; of scores without noise in units of its size."""
    scale = expected.abs().amax().clamp_min(1)
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", ["mlp", "batch-norm"])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("defense", DEFENSES)
def test_scores_are_finite_and_nothing_is_changed(defense, batch_size, model):
    """With labels and without; the name of the method is there, and whoever is told of the steps done is told of all."""
    for labels_known in (True, False):
        case = case_of(defense, model, batch_size=batch_size, labels_known=labels_known)
        for observation in known(case):
            module, shared = observation.module, {name: g.clone() for name, g in observation.shared.items()}
            before, random = {name: t.clone() for name, t in module.state_dict().items()}, torch.get_rng_state()
            modes = [layer.training for layer in module.modules()]
            told: list[tuple[int, int]] = []
            found = Identifier().scores(observation, case.candidates, seed=0, progress=lambda *done, told=told: told.append(done))
            assert found.shape == case.candidates.pools.shape and found.dtype == torch.float64 and found.isfinite().all()
            assert not found.requires_grad
            assert told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(done for done, _ in told)
            name, exact = Identifier().method(observation)
            assert name in METHODS and (name == "cosine") is (observation.defense is None and observation.batch_size == 1)
            assert not exact or (observation.defense is not None and observation.batch_size == 1)
            assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
            assert all(torch.equal(g, shared[name]) for name, g in observation.shared.items())
            assert all(p.grad is None for p in module.parameters()) and torch.equal(random, torch.get_rng_state())
            assert modes == [layer.training for layer in module.modules()]
            assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("defense", DEFENSES)
def test_the_order_of_candidates_and_victims_and_other_victims_change_nothing(defense, batch_size):
    case = case_of(defense, batch_size=batch_size)
    candidates, generator = case.candidates, torch.Generator().manual_seed(2)
    inside = torch.stack([torch.randperm(6, generator=generator) for _ in range(3)])
    images = torch.randperm(len(candidates.images), generator=generator)
    renamed = replace(candidates, images=candidates.images[images], labels=candidates.labels[images], pools=images.argsort()[candidates.pools])
    for observation in known(case):
        expected = scores(observation, candidates)
        close(scores(observation, replace(candidates, pools=candidates.pools.gather(1, inside))), expected.gather(1, inside))
        close(scores(observation, renamed), expected)
        # A search for the images of one victim alone rounds in another way.
        for order in ([2, 0, 1],) if Identifier().method(observation).name == "rebuilt" else ([2, 0, 1], [1]):
            close(scores(observation.select(order), replace(candidates, pools=candidates.pools[order])), expected[order])


@pytest.mark.parametrize("defense", DEFENSES)
def test_rounds_of_another_state_of_the_model_add_up(defense):
    """Each with its own noise and module, whether its noise is Gaussian or not. A blind attacker adds cosines."""
    case = case_of(defense, rounds=2)
    module = copy.deepcopy(case.observation.module)
    module.load_state_dict({name: value + 0.01 for name, value in module.state_dict().items()})
    rounds = (case.observation.rounds[0], replace(case.observation.rounds[1], module=module, number=4))
    for observation in known(replace(case, observation=replace(case.observation, rounds=rounds))):
        single = list(observation.by_round())
        assert single[1].module is module and single[1].rounds[0].number == 4
        # What is simulated, sampled or searched for is drawn anew in each round.
        name = Identifier().method(observation).name
        if name in ("simulated", "rebuilt") or (name == "cosine" and stochastic_layers(module)):
            assert scores(observation, case.candidates).isfinite().all()
            continue
        # Of a sum over clients, as of other batches, the first round says it.
        told = single if observation.batch_size == 1 else single[:1]
        close(scores(observation, case.candidates), sum(scores(one, case.candidates) for one in told))


@pytest.mark.parametrize("defense", ["noise(std=0.1)", "noise(std=0.1, distribution='laplacian')", "dp-sgd(noise_multiplier=0.3)",
                                     "noise(std=0.1)+pruning(p=0.5)", "pruning(p=0.5)+noise(std=0.1)", "precode+noise(std=0.1)", "none"])
def test_nothing_is_lost_where_rounds_are_averaged(defense):
    """Under Gaussian noise: up to a constant, the scores are the sums over rounds, as they are under other noise."""
    case = case_of(defense, rounds=3, dtype=torch.float64)
    found = scores(case.observation, case.candidates)
    expected = sum(scores(one, case.candidates) for one in case.observation.by_round())
    if defense == "none":  # whose rounds are all alike, and whose scores are in units of rounding
        expected = expected / 3
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("defense", ["noise(std=0.1)", "dp-sgd(noise_multiplier=0.3)", "pruning(p=0.5)", "noise(std=0.1, distribution='laplacian')"])
def test_rounds_of_several_images_are_averaged_or_the_first_is_taken(defense):
    """Their other images are the same in all rounds, so that likelihoods do not add up."""
    case = case_of(defense, batch_size=3, rounds=3)
    observation = case.observation
    expected = observation.averaged() if defense.startswith(("noise(std=0.1)", "dp-sgd")) else replace(observation, rounds=observation.rounds[:1])
    close(scores(observation, case.candidates), scores(expected, case.candidates))


@pytest.mark.parametrize("defense", ["noise(std=1.0)", "dp-sgd(noise_multiplier=0.3)"])
def test_more_rounds_tell_more(defense):
    """Of many victims, more are found; the likelihood of all rounds is that of independent noise."""
    found = {}
    for rounds in (1, 6):
        case = case_of(defense, victims=30, size=8, rounds=rounds)
        found[rounds] = (case.ranks(scores(case.observation, case.candidates)) == 0).double().mean()
    assert found[6] > found[1] + 0.15


@pytest.mark.parametrize("model", ["mlp", "batch-norm"])
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("defense", [
    "none", "noise(std=0.0001)", "pruning(p=0.5)", "precode(bottleneck_size=4)", "ppp(strength=0.0001)", "dp-sgd(noise_multiplier=0.001)",
    "clipping(norm=0.1)", "clipping(norm=0.1, per=tensor)", "quantisation(levels=1000)", "sign", "svd(energy=0.8)",
    "rounded(width=0.0001)", "decoy(weight=0.02)", "soteria", "top-k(share=0.5)", "grad-defense(std=0.0001)"])
def test_where_randomness_is_small_the_truth_is_found(defense, batch_size, model):
    case = case_of(defense, model, victims=6, batch_size=batch_size, public=80)
    ranks = case.ranks(scores(case.observation, case.candidates))
    # One image is simulated in the place of two.
    least = 6 if batch_size == 1 else 3 if Identifier().method(case.observation).name == "simulated" else 4
    assert (ranks == 0).sum() >= least, ranks


def test_the_cosine_by_hand():
    case = case_of("noise", "mlp", dtype=torch.float64)
    found = scores(case.observation.blind(), case.candidates)
    for victim, pool in enumerate(case.candidates.pools):
        shared = torch.cat([g[victim].flatten() for g in case.observation.shared.values()])
        for column, candidate in enumerate(pool):
            own = torch.cat([g.flatten() for g in gradient_of(
                case.observation.blind(), case.candidates.images[candidate], case.candidates.labels[candidate]).values()])
            assert -found[victim, column] == pytest.approx(torch.cosine_similarity(own, shared, dim=0).item())


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("defense", DEFENSES)
def test_a_candidate_that_is_there_twice_ties(defense, batch_size):
    """Exactly where it is the same place; where it is a copy, to rounding."""
    case = case_of(defense, batch_size=batch_size)
    candidates = case.candidates
    twice = replace(candidates, images=torch.cat([candidates.images, candidates.images[candidates.pools[:, 0]]]),
                    labels=torch.cat([candidates.labels, candidates.labels[candidates.pools[:, 0]]]),
                    pools=torch.cat([candidates.pools, candidates.pools[:, :1], len(candidates.images) + torch.arange(3)[:, None]], 1))
    for observation in known(case):
        found = scores(observation, twice)
        assert torch.equal(found[:, 6], found[:, 0])
        spread = found[:, :6].std(1, keepdim=True)
        torch.testing.assert_close(found[:, 7:] / spread, found[:, :1] / spread, rtol=1e-4, atol=1e-3)


def test_a_constant_score_where_nothing_tells_candidates_apart():
    case = case_of("none")
    same = replace(case.candidates, pools=case.candidates.pools[:, :1].expand(-1, 5))
    found = scores(case.observation, same)
    assert torch.equal(found, found[:, :1].expand_as(found))


def test_what_is_undisclosed_is_simulated_and_the_rest_is_not():
    found = {defense: Identifier().method(case_of(defense).observation) for defense in DEFENSES}
    assert {defense for defense, method in found.items() if method.name == "simulated"} == {"cvb", "decoy", "mixed-labels", "dp-sgd+decoy"}
    assert {defense for defense, method in found.items() if method.exact} == {
        "none", "dp-sgd", "pruning", "top-k", "noise", "clipping", "quantisation", "sign", "svd", "rounded", "mixup", "ats", "dp-fedavg",
        "pruning(p=0.5)+noise(std=0.001)", "dp-sgd+pruning(p=0.5)", "noise(std=0.001)+pruning(p=0.5)"}


@pytest.mark.parametrize("defense", ["none", "noise(std=0.001)", "dp-sgd"])
def test_dropout_at_the_client_leaves_no_likelihood_exact(defense):
    """Which is on where it trains; without it, batch norm is no obstacle."""
    observation = case_of(defense, "batch-norm").observation
    drops = next(layer for layer in observation.module.modules() if isinstance(layer, torch.nn.Dropout))
    assert drops.p > 0 and not Identifier().method(observation).exact
    drops.p = 0.0
    assert Identifier().method(observation).exact
