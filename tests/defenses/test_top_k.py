from __future__ import annotations

import math
from itertools import pairwise

import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_cases import step_of

from defenses import Facts, Kept, OwnLikelihood, Release, TopK, Unknown

SCALES = [2.0**-i for i in range(12)]


def shares(defense: TopK, gradients: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What is shared of the gradients of some rounds, one after another, and what is remembered at the end."""
    step = step_of()
    step.state.update({"memory": {"w": torch.zeros_like(gradients[0])}})
    return [defense.transform_gradients({"w": g}, step)["w"] for g in gradients], step.state["memory"]["w"]


def test_by_hand():
    first, second = torch.tensor([[3.0, -1.0], [0.5, 0.25]]), torch.tensor([[0.5, -1.5], [1.0, 0.0]])
    shared, memory = shares(TopK(0.25), [first, second])
    assert [g.tolist() for g in shared] == [[[3.0, 0.0], [0.0, 0.0]], [[0.0, -2.5], [0.0, 0.0]]]
    assert memory.tolist() == [[0.5, 0.0], [1.5, 0.25]]


@given(entries=st.integers(1, 40), share=st.sampled_from([0.001, 0.1, 0.3, 0.5, 1.0]), rounds=st.integers(1, 4), seed=st.integers(0, 50))
def test_nothing_is_lost_and_the_largest_are_shared(entries, share, rounds, seed):
    gradients = list(torch.randn(rounds, entries, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    shared, memory = shares(TopK(share), gradients)
    torch.testing.assert_close(sum(shared) + memory, sum(gradients))
    kept = shared[-1] != 0
    assert int(kept.sum()) == max(1, math.ceil(round(share * entries, 6)))
    assert memory.abs().max() <= shared[-1][kept].abs().min() and (memory[kept] == 0).all()


def test_the_first_round_is_pruning_and_later_ones_are_not():
    shared = {"weight": torch.tensor([[[0.0, 3.0], [0.0, -2.0]]])}
    module = torch.nn.Linear(2, 2)
    first, later = (TopK(0.5).release(shared, Facts(1, round_, module, (2,)))["weight"] for round_ in (0, 1))
    (kept,) = first.stages
    assert kept.count == 2 and torch.equal(kept.mask, shared["weight"] != 0) and kept.threshold.tolist() == [2.0]
    (stage,) = later.stages
    assert isinstance(stage, OwnLikelihood) and not stage.exact and later.form.own is stage
    assert torch.equal(stage.seen(shared["weight"]), kept.mask)
    hidden = [TopK(0.5).release({"weight": None}, Facts(1, round_, module, (2,)))["weight"].stages for round_ in (0, 1)]
    assert hidden[0] == (Kept(2),) and isinstance(hidden[1][0], Unknown)
    assert TopK(1.0).release(shared, Facts(1, 1, module, (2,)))["weight"] == Release()


def remembered() -> OwnLikelihood:
    facts = Facts(1, 5, torch.nn.Linear(2, 2), (2,))
    return TopK(0.5).release({"weight": torch.ones(1, 2, 2)}, facts)["weight"].stages[0]


def test_the_likelihood_is_a_mixture_over_scales():
    """Against scipy, entry by entry, also of another magnitude of all."""
    for unit in (1.0, 1e-3):
        own = unit * torch.tensor([[2.5, -0.7, 0.9, -1.5, 0.01]], dtype=torch.float64)
        left = unit * torch.tensor([[3.0, -1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
        edge, expected = unit, 0.0
        for g, seen in zip(own[0].tolist(), left[0].tolist(), strict=True):
            laws = [scipy.stats.norm(g, s * edge) for s in SCALES]
            p = [law.pdf(seen) if seen else law.cdf(edge) - law.cdf(-edge) for law in laws]
            expected -= math.log(sum(p) / len(p))
        assert remembered().surprise(own, left).item() == pytest.approx(expected)


def test_what_is_typical_is_the_mean_and_variance_of_the_surprise_of_what_was_shared():
    left = torch.tensor([[3.0, -2.0, 0.0]], dtype=torch.float64)

    def mean_of(f):
        def integrand(x):
            p = sum(scipy.stats.norm.pdf(x, scale=s) for s in SCALES) / len(SCALES)
            return p * f(-math.log(p))

        edges = [0, *[s * m for s in reversed(SCALES) for m in (1, 1.5)], 3, 6]
        return 2 * sum(scipy.integrate.quad(integrand, a, b)[0] for a, b in pairwise(edges))

    mean, square = mean_of(lambda s: s), mean_of(lambda s: s * s)
    found = remembered().typical(left)
    assert found[0].item() == pytest.approx(2 * (math.log(2) + mean), rel=1e-3)  # a midpoint rule
    assert found[1].item() == pytest.approx(2 * (square - mean**2), rel=1e-3)


def test_a_parameter_of_which_nothing_was_shared_says_nothing_that_is_not_finite():
    stage, left = remembered(), torch.zeros(1, 3)
    own = torch.tensor([[1.0, -2.0, 0.0]], requires_grad=True)
    surprise = stage.surprise(own, left)
    (derivative,) = torch.autograd.grad(surprise.sum(), own)
    assert surprise.isfinite().all() and derivative.isfinite().all() and stage.as_noise(left) is None
    assert all(t.isfinite().all() for t in stage.typical(left))


@pytest.mark.parametrize("share", [0, 1.1, -0.5, "x"])
def test_bad_share_is_refused(share):
    with pytest.raises(ValueError, match="share must be a number > 0 and <= 1"):
        TopK(share)
