"""Costs from the comparisons of parameters, against vectors that are compared as they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.objective.comparison import explicit
from attacks.objective.costs import Cosine, Euclidean

WEIGHTS = {"a.weight": 1.0, "a.bias": 1.0, "b.weight": 0.3}


def case(seed: int):
    """Gradients of two victims with the observed ones, what the costs take of them, and each victim's as one weighted vector."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (3, 2), "a.bias": (3,), "b.weight": (4,)}
    own, observed = ({name: torch.randn(2, *shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()} for _ in range(2))
    compared = {name: explicit(own[name], observed[name]) for name in shapes}
    squares = {name: g.square().flatten(1).sum(1) for name, g in observed.items()}
    plain, weighted = ([torch.cat([factor(name) * g[name].flatten(1) for name in shapes], 1) for g in (own, observed)]
                       for factor in (lambda name: 1.0, lambda name: WEIGHTS[name] ** 0.5))
    return (compared, squares, WEIGHTS), plain, weighted


@given(seed=st.integers(0, 50))
def test_one_minus_the_cosine_over_all_and_per_layer(seed):
    arguments, _, (g, o) = case(seed)
    cosine = 1 - torch.nn.functional.cosine_similarity(g, o)
    torch.testing.assert_close(Cosine()(*arguments), cosine)
    of_layers = [1 - torch.nn.functional.cosine_similarity(g[:, part], o[:, part]) for part in (slice(0, 9), slice(9, 13))]
    torch.testing.assert_close(Cosine(per_layer=True)(*arguments), (of_layers[0] + 0.3 * of_layers[1]) / 1.3)


@given(seed=st.integers(0, 50), clip=st.floats(0.1, 10))
def test_the_distance_at_the_scale_of_one_of_clipping_and_of_the_best(seed, clip):
    arguments, (plain, _), (g, o) = case(seed)
    torch.testing.assert_close(Euclidean()(*arguments), (g - o).square().sum(1))
    clipped = (clip / plain.norm(dim=1)).clamp(max=1)[:, None]
    torch.testing.assert_close(Euclidean(clip=clip)(*arguments), (clipped * g - o).square().sum(1))
    best = torch.linalg.lstsq(g[..., None], o[..., None]).solution[:, 0]
    torch.testing.assert_close(Euclidean(free_scale=True)(*arguments), (best * g - o).square().sum(1))


def test_the_scale_matters_to_distances_alone():
    assert Cosine(per_layer=True).of_scale(clip=0.1, free=True) == Cosine(per_layer=True)
    assert Euclidean().of_scale(clip=0.1, free=False) == Euclidean(clip=0.1) and Euclidean(clip=1.0).of_scale(clip=None, free=True) == Euclidean(free_scale=True)


def test_gradients_of_zero_have_a_cosine_of_nothing():
    nothing = {"w": explicit(torch.zeros(1, 3), torch.ones(1, 3))}
    assert Cosine()(nothing, {"w": torch.tensor([3.0])}, {"w": 1.0}).item() == pytest.approx(1)
