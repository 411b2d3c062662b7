from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from identification_cases import case_of
from model_cases import MODELS, batch, step_of
from torch.func import functional_call, vmap

from attacks.identification import Identifier
from attacks.identification.identifier import Method
from defenses import CENSOR, Batch, Step, client_loss
from defenses.censor import Orthogonal


def client(module: torch.nn.Module, seed: int = 0) -> Step:
    def losses(batch, replaced=None):
        return client_loss(None, module if replaced is None else replaced, *batch)

    return Step(module, Batch(*batch()), 6, torch.Generator().manual_seed(seed), {}, 0, losses)


@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=3), scale=st.sampled_from([1e-12, 1.0, 1e6]), seed=st.integers(0, 99))
def test_what_is_shared_is_orthogonal_to_the_gradient_and_as_long(shape, scale, seed):
    g = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shared = CENSOR(trials=1).transform_gradients({"w": g}, step_of(seed + 100))["w"]  # another stream than that of g
    assert abs(float((shared / scale * g / scale).sum())) < 1e-12 * max(1, float((g / scale).square().sum()))
    assert float(shared.norm()) / scale == pytest.approx(float(g.norm()) / scale if g.numel() > 1 else 0)


def test_directions_are_drawn_alike_in_the_orthogonal_plane():
    g = torch.tensor([1.0, 0.0, 0.0])
    drawn = torch.stack([CENSOR(trials=1).transform_gradients({"w": g}, step_of(seed))["w"] for seed in range(400)])
    angles = torch.atan2(drawn[:, 2], drawn[:, 1])
    # The mean of 400 unit vectors of uniform angle has a length of 0.05 on the average.
    assert math.hypot(angles.cos().mean(), angles.sin().mean()) < 0.15


def test_a_gradient_of_zero_stays_zero():
    assert CENSOR(trials=1).transform_gradients({"w": torch.zeros(3, 2)}, step_of())["w"].abs().sum() == 0


@pytest.mark.parametrize("model", MODELS)
def test_of_several_the_one_with_the_lowest_loss_after_a_trial_step_is_shared(model):
    defense, module = CENSOR(trials=5, step_size=0.5), MODELS[model]()
    step = client(module)
    gradients = step.gradient(step.batch)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    shared = defense.transform_gradients(gradients, client(module, seed=3))
    assert module.training and all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    # The same draws, one after another, each judged by a functional call in evaluation mode.
    generator, module = torch.Generator().manual_seed(3), module.eval()
    drawn = [CENSOR(trials=1).transform_gradients(gradients, replace(step, generator=generator)) for _ in range(5)]
    losses = [torch.nn.functional.cross_entropy(
        functional_call(module, {name: p - 0.5 * of[name] for name, p in module.named_parameters()}, step.batch.images),
        step.batch.targets) for of in drawn]
    lowest = int(torch.stack(losses).argmin())
    assert all(torch.equal(shared[name], g) for name, g in drawn[lowest].items())
    assert len(set(torch.stack(losses).tolist())) == 5


def test_a_candidate_counts_by_its_cosine_and_by_its_length():
    left = torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64)
    own = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 0.0, math.sqrt(3)], [2 * math.exp(1e-3), 0.0, 0.0], [2.0, 2e-3, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(Orthogonal().surprise(own, left), torch.tensor([0.0, 0.0, 0.5, 0.5], dtype=torch.float64), atol=1e-5, rtol=0)
    one = torch.ones(1, 1)
    assert Orthogonal().surprise(one, 0 * one) == 0


def test_it_can_be_differentiated_and_vmapped_also_where_a_gradient_is_zero():
    own = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    own[1] = 0
    own.requires_grad_()
    left = torch.zeros(3, 4)
    left[:2] = 1.0
    each = vmap(lambda a, b: Orthogonal().surprise(a[None], b[None])[0])(own, left)
    torch.testing.assert_close(each, Orthogonal().surprise(own, left))
    (derivative,) = torch.autograd.grad(each.sum(), own)
    assert derivative.isfinite().all()


def test_one_image_is_identified():
    case = case_of(CENSOR(trials=3), victims=3, size=20)
    assert Identifier().method(case.observation) == Method("likelihood", False)
    scores = Identifier().scores(case.observation, case.candidates, seed=0)
    assert case.ranks(scores).tolist() == [0, 0, 0]
    assert scores.gather(1, case.true[:, None]).max() < 0.01


@pytest.mark.parametrize(("arguments", "message"), [
    ({"trials": 0}, "trials must be a whole number >= 1"), ({"step_size": -1.0}, "step_size must be a number >= 0")])
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CENSOR(**arguments)
