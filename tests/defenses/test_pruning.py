from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_cases import step_of

from defenses import Facts, GradientPruning, Kept, Release


def prune(p: float, gradient: torch.Tensor) -> torch.Tensor:
    return GradientPruning(p).transform_gradients({"w": gradient}, step_of())["w"]


def test_by_hand():
    gradient = torch.tensor([[0.5, -3.0, 0.1], [2.0, -0.2, 0.0]])
    assert prune(0.5, gradient).tolist() == [[0.5, -3.0, 0.0], [2.0, 0.0, 0.0]]


@given(tenths=st.integers(0, 10), tens=st.integers(1, 20), seed=st.integers(0, 100))
def test_exactly_the_share_is_zero_and_the_largest_stay(tenths, tens, seed):
    gradient = torch.randn(10 * tens, generator=torch.Generator().manual_seed(seed))
    pruned = prune(tenths / 10, gradient)
    kept = pruned != 0
    assert int((~kept).sum()) == tenths * tens
    assert torch.equal(pruned[kept], gradient[kept])
    if 0 < tenths < 10:
        assert gradient[~kept].abs().max() <= gradient[kept].abs().min()


def test_equal_magnitudes_are_pruned_to_the_share_too():
    assert int((prune(0.9, torch.ones(100)) == 0).sum()) == 90


def test_each_tensor_is_pruned_on_its_own():
    gradients = {"small": torch.full((10,), 1e-6), "large": torch.full((10,), 1e6)}
    pruned = GradientPruning(0.5).transform_gradients(gradients, step_of())
    assert [int((g == 0).sum()) for g in pruned.values()] == [5, 5]


@pytest.mark.parametrize("p", [-0.1, 1.1, "0.5", None])
def test_bad_share_is_refused(p):
    with pytest.raises(ValueError, match="p must be a number >= 0 and <= 1"):
        GradientPruning(p)


def test_the_release_tells_what_was_kept_and_that_nothing_larger_was_not():
    facts = Facts(1, 0, torch.nn.Linear(4, 2), (4,))
    shared = GradientPruning(0.5).transform_gradients({"weight": torch.tensor([[0.1, -3.0, 2.0, 0.2], [0.3, -1.0, 5.0, 0.0]])}, step_of())
    told = GradientPruning(0.5).release({"weight": shared["weight"][None], "bias": None}, facts)
    (kept,) = told["weight"].stages
    assert kept.count == 4 and kept.mask[0].tolist() == [[False, True, True, False], [False, True, True, False]]
    assert kept.threshold.tolist() == [1.0]
    assert told["bias"].stages == (Kept(1),)
    assert GradientPruning(0.0).release({"weight": None}, facts)["weight"] == Release()
