from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_cases import step_of

from defenses import Clipped, Facts, GradientClipping


def clip(gradients, **arguments):
    return GradientClipping(**arguments).transform_gradients(gradients, step_of())


def test_by_hand():
    gradients = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    whole, tensor, longer = clip(gradients, norm=1.0), clip(gradients, norm=1.0, per="tensor"), clip(gradients, norm=5.0)
    torch.testing.assert_close(whole, {"a": torch.tensor([0.6, 0.0]), "b": torch.tensor([[0.8]])})
    torch.testing.assert_close(tensor, {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([[1.0]])})
    assert all(torch.equal(longer[name], g) for name, g in gradients.items())


@given(norm=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_it_is_pytorchs_clipping(norm, seed):
    generator = torch.Generator().manual_seed(seed)
    gradients = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in (("a", (3, 4)), ("b", (5,)))}
    parameters = {name: torch.nn.Parameter(torch.zeros_like(g)) for name, g in gradients.items()}
    for per in ("whole", "tensor"):
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].clone()
        for together in [list(parameters.values())] if per == "whole" else [[p] for p in parameters.values()]:
            torch.nn.utils.clip_grad_norm_(together, norm)
        torch.testing.assert_close(clip(gradients, norm=norm, per=per), {name: p.grad for name, p in parameters.items()},
                                   rtol=1e-4 if norm < 0.1 else 1e-5, atol=0)


def test_a_gradient_of_zero_stays():
    assert clip({"a": torch.zeros(3)}, per="tensor")["a"].tolist() == [0.0, 0.0, 0.0]


def test_the_release_tells_over_what_the_norm_was_taken():
    facts = Facts(4, 0, torch.nn.Linear(2, 1), (2,))
    whole, tensor = (GradientClipping(0.5, per).release({"weight": None, "bias": None}, facts) for per in ("whole", "tensor"))
    assert {release.stages for release in whole.values()} == {(Clipped(0.5, ("weight", "bias")),)}
    assert {name: release.stages for name, release in tensor.items()} == {name: (Clipped(0.5, (name,)),) for name in ("weight", "bias")}
    assert all(release.stages[0].alone for release in tensor.values()) and not whole["bias"].stages[0].alone


@pytest.mark.parametrize(("arguments", "message"), [
    ({"norm": 0.0}, "norm must be a number > 0, got 0.0"), ({"norm": math.inf}, "norm must be a number > 0"),
    ({"per": "layer"}, "per must be one of whole, tensor, got 'layer'")])
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradientClipping(**arguments)
