from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_cases import step_of

from defenses import NoisyGradients


def noise_of(std: float, distribution: str, count: int = 200_000) -> torch.Tensor:
    zero = {"w": torch.zeros(count)}
    return NoisyGradients(std, distribution).transform_gradients(zero, step_of())["w"]


@given(std=st.floats(1e-6, 1e3), distribution=st.sampled_from(["gaussian", "laplacian"]))
def test_standard_deviation_is_the_stated_one(std, distribution):
    # The standard error of a standard deviation of 200,000 draws is 0.16 % (Gaussian) and 0.25 % (Laplacian): 2 % is 8 of them.
    noise = noise_of(std, distribution)
    assert noise.std().item() == pytest.approx(std, rel=0.02)
    assert abs(noise.mean().item()) < 0.02 * std


def test_kurtosis_tells_the_distributions_apart():
    """Fourth standardised moment: 3 for a Gaussian, 6 for a Laplacian."""
    for distribution, expected in (("gaussian", 3), ("laplacian", 6)):
        noise = noise_of(1.0, distribution, 2_000_000)
        assert ((noise / noise.std()) ** 4).mean().item() == pytest.approx(expected, rel=0.05)


def test_no_noise_is_no_defense():
    gradients = {"w": torch.randn(5)}
    assert torch.equal(NoisyGradients(0.0).transform_gradients(gradients, step_of())["w"], gradients["w"])


@pytest.mark.parametrize("arguments", [{"std": -1}, {"std": float("nan")}, {"std": "1"}, {"std": True}, {"distribution": "cauchy"}])
def test_bad_parameters_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        NoisyGradients(**arguments)
