from __future__ import annotations

import math
from dataclasses import replace

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from identification_cases import case_of
from model_cases import step_of
from torch import nn

from attacks.identification import Identifier
from defenses import Facts, GradientPruning, Kept, Outpost
from defenses.outpost import Perturbed

MODULE = nn.Linear(20, 10, dtype=torch.float64)


def gradients(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return {"weight": torch.randn(10, 20, generator=generator, dtype=torch.float64),
            "bias": scale * torch.randn(10, generator=generator, dtype=torch.float64)}


def shared(defense: Outpost, given: dict[str, torch.Tensor], seed: int = 0, round_: int = 0) -> dict[str, torch.Tensor]:
    return defense.transform_gradients(given, replace(step_of(seed), module=MODULE, round=round_))


@pytest.mark.parametrize("without", [{"scale": 0.0}, {"perturbed": 0.0}])
def test_without_noise_each_tensor_is_pruned(without):
    given = gradients(0)
    pruned = GradientPruning(0.8).transform_gradients(given, step_of())
    found = shared(Outpost(**without), given)
    assert all(torch.equal(found[name], g) for name, g in pruned.items())


def test_noise_is_added_to_the_largest_entries_of_the_model_by_the_variance_of_their_weights():
    given = gradients(1, scale=0.1)
    clean = torch.cat([g.flatten() for g in given.values()]).abs()
    edge = clean.sort(descending=True).values[round(0.4 * 210) - 1]
    pruned = GradientPruning(0.8).transform_gradients(given, step_of())
    drawn = {name: [] for name in given}
    for seed in range(200):
        for name, g in shared(Outpost(), given, seed).items():
            noise = g - pruned[name]
            assert (noise[given[name].abs() < edge] == 0).all()
            drawn[name].append(noise[given[name].abs() >= edge])
    assert len(drawn["bias"][0]) == 0 < len(drawn["weight"][0]) == 84  # all of the model's are in the larger tensor
    std = 0.8 * MODULE.weight.detach().var().item()
    assert scipy.stats.kstest(torch.cat(drawn["weight"]).numpy(), scipy.stats.norm(scale=std).cdf).pvalue > 0.01


@given(seed=st.integers(0, 99), scale=st.sampled_from([0.01, 1.0, 100.0]))
def test_what_is_not_zero_is_what_was_kept_or_what_has_noise_whichever_is_more(seed, scale):
    given = gradients(seed, scale)
    edge = torch.cat([g.flatten() for g in given.values()]).abs().sort(descending=True).values[round(0.4 * 210) - 1]
    for name, g in shared(Outpost(), given, seed).items():
        top = int((given[name].abs() >= edge).sum())
        nonzero = g != 0
        assert int(nonzero.sum()) == max(g.numel() // 5, top)
        assert given[name][nonzero].abs().min() >= given[name][~nonzero].abs().max() if not nonzero.all() else True


@pytest.mark.parametrize(("round_", "share"), [(0, 1.0), (8, 0.5), (72, 0.1)])
def test_fewer_steps_are_defended_the_later_it_is(round_, share):
    given = gradients(2)
    defended = sum(not torch.equal(shared(Outpost(), given, seed, round_)["weight"], given["weight"]) for seed in range(300))
    assert scipy.stats.binomtest(defended, 300, share).pvalue > 0.01
    told = Outpost().release({"weight": None, "bias": None}, Facts(1, round_, MODULE, (2, 8, 8)))
    assert told["weight"].stages[-1].probability == pytest.approx(share)


def test_candidates_are_pruned_where_the_client_surely_did():
    stages = [Outpost().release({"weight": None}, Facts(1, round_, MODULE, (2, 8, 8)))["weight"].stages for round_ in (0, 1)]
    assert stages[0][0] == Kept(40) and [len(of) for of in stages] == [2, 1]
    assert len(Outpost(p=0.0).release({"weight": None}, Facts(1, 0, MODULE, (2, 8, 8)))["weight"].stages) == 1


def test_what_is_said_of_a_tensor_is_the_density_of_its_entries():
    """One of six entries was kept. First three are not zero, so that all have noise; then one, which has or has not."""
    own = torch.tensor([[3.0, -2.0, 1.5, 0.2, 0.1, 0.0], [0.1, 1.0, 1.5, 0.2, 3.0, 0.0]], dtype=torch.float64)
    for left in ([2.8, 0.3, -0.2, 0.0, 0.0, 0.0], [2.8, 0, 0, 0, 0, 0], [3.0, 0, 0, 0, 0, 0], [3.0, -2.0, 1.5, 0.2, 0.1, 1e-9]):
        left = torch.tensor([left], dtype=torch.float64)
        rounding = 1e-3 * left.square().mean().sqrt().item()
        for probability in (1.0, 0.25):
            found = Perturbed(1, torch.tensor(0.5, dtype=torch.float64), probability).surprise(own, left)
            for candidate, nats in zip(own, found, strict=True):
                kept = torch.where(candidate.abs() == candidate.abs().max(), candidate, 0.0)
                noisy = scipy.stats.norm.logpdf(left[0], kept, math.hypot(0.5, rounding))
                exact = scipy.stats.norm.logpdf(left[0], kept, rounding)
                entries = noisy if int((left != 0).sum()) > 1 else scipy.special.logsumexp([noisy, exact], 0, b=0.5)
                entries = torch.where(left[0] == 0, torch.tensor(exact), torch.tensor(entries)).sum().item() + math.log(probability)
                if probability < 1:
                    plain = scipy.stats.norm.logpdf(left[0], candidate, rounding).sum() + math.log(1 - probability)
                    entries = float(scipy.special.logsumexp([entries, plain]))
                # The stage leaves out the constant of the normal distribution, once for each entry.
                assert nats.item() == pytest.approx(-entries - 6 * 0.5 * math.log(2 * math.pi), rel=1e-9)


@pytest.mark.parametrize(("scale", "round_"), [(100.0, 0), (0.01, 0), (1.0, 72)])
def test_what_is_expected_is_found_at_the_original(scale, round_):
    given = gradients(3, scale)
    told = Outpost().release(dict.fromkeys(given), Facts(1, round_, MODULE, (2, 8, 8)))
    for name, g in given.items():
        stage = told[name].stages[-1]
        left = torch.stack([shared(Outpost(), given, seed, round_)[name] for seed in range(400)])
        mean, variance = stage.typical(left)
        away = stage.surprise(g.expand_as(left), left) - mean
        # Where as many are not zero as were kept, which of them carry noise is not told, and so half of each is not expected.
        tolerance = (left != 0).flatten(1).sum(1).double().mean()
        few = int((left[0] != 0).sum()) <= stage.count
        assert abs(away.mean()) < (tolerance if few else 0.3 + 4 * (variance.mean() / 400).sqrt())
        if not few and round_ == 0:
            assert float(away.var()) == pytest.approx(float(variance.mean()), rel=0.25)


@pytest.mark.parametrize("round_", [0, 50])
def test_one_image_is_identified(round_):
    """Also in a later round, where most steps were not defended and nothing says which."""
    case = case_of(Outpost(), victims=3, size=20)
    observation = replace(case.observation, rounds=(replace(case.observation.rounds[0], number=round_),), kept={})
    assert case.ranks(Identifier().scores(observation, case.candidates, seed=0)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"decay": -1.0}, "decay must be a number >= 0"), ({"p": 1.0}, "p must be a number >= 0 and < 1"),
    ({"perturbed": 1.1}, "perturbed must be a number >= 0 and <= 1"), ({"scale": -1.0}, "scale must be a number >= 0")])
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Outpost(**arguments)


def test_as_noise_it_is_what_was_added_where_something_was():
    """Nothing where a step was not defended; else of the entries that are not zero all, or half where that is not told."""
    stage = Perturbed(count=2, std=torch.tensor(0.5), probability=0.5)
    left = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 0], [1, 2, 0, 0]])
    torch.testing.assert_close(stage.as_noise(left), torch.tensor([0.0, 0.75 * 0.25, 0.5 * 0.5 * 0.25], dtype=torch.float64))
    surely = Perturbed(count=2, std=torch.tensor(0.5), probability=1.0)
    assert float(surely.as_noise(left)[0]) == 0.25
