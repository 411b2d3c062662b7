from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_cases import observation_of
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import FAKE_DEVICE, step_of
from torch._subclasses.fake_tensor import FakeTensorMode

from defenses import Facts, TruncatedSVD
from defenses.stages import Bounds
from defenses.svd import LowRank

SHAPES = [(4, 9), (9, 4), (6, 6), (5, 2, 3, 3), (8, 3, 1, 1), (1, 7), (3, 2, 4)]


def gradient(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def truncated(values: np.ndarray, energy: float) -> np.ndarray:
    """By numpy: the fewest components, largest first, whose squared singular values reach the share."""
    u, s, vh = np.linalg.svd(values.reshape(len(values), -1), full_matrices=False)
    rank = int(np.argmax(np.cumsum(s**2) >= energy * np.sum(s**2) * (1 - 1e-12))) + 1
    return ((u[:, :rank] * s[:rank]) @ vh[:rank]).reshape(values.shape)


@settings(max_examples=40)
@given(shape=st.sampled_from(SHAPES), energy=st.floats(0.05, 0.99), seed=st.integers(0, 100))
def test_it_is_numpys_truncation(shape, energy, seed):
    clean = gradient(shape, seed)
    shared = TruncatedSVD(energy).transform_gradients({"w": clean}, step_of())["w"]
    np.testing.assert_allclose(shared.numpy(), truncated(clean.numpy(), energy), atol=1e-10)


def test_by_hand():
    """Squared singular values 9, 4, 1: shares 0.64, 0.93, 1."""
    clean = torch.diag(torch.tensor([1.0, 3.0, 2.0]))
    for energy, kept in ((0.6, [0.0, 3.0, 0.0]), (0.65, [0.0, 3.0, 2.0]), (0.95, [1.0, 3.0, 2.0]), (1.0, [1.0, 3.0, 2.0])):
        shared = TruncatedSVD(energy).transform_gradients({"w": clean, "b": clean[1]}, step_of())
        torch.testing.assert_close(shared["w"], torch.diag(torch.tensor(kept)))
        assert torch.equal(shared["b"], clean[1])


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, "0.5"])
def test_a_share_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="energy must be a number > 0 and <= 1"):
        TruncatedSVD(value)


@pytest.mark.parametrize("energy", [0.1, 0.999])
def test_of_one_image_the_gradients_of_linear_layers_pass_untouched(energy):
    """Which have rank one; those of several images do not."""
    plain, _ = observation_of("none", "mlp")
    cut, _ = observation_of(TruncatedSVD(energy), "mlp")
    for name, g in plain.shared.items():
        torch.testing.assert_close(cut.shared[name], g, rtol=1e-5, atol=1e-7)
    batch, _ = observation_of("none", "lenet", batch_size=3)
    of_batch, _ = observation_of(TruncatedSVD(0.5), "lenet", batch_size=3)
    assert (of_batch.shared["3.weight"] - batch.shared["3.weight"]).norm() > 0.01 * batch.shared["3.weight"].norm()


def test_nothing_shared_of_nothing():
    assert TruncatedSVD().transform_gradients({"w": torch.zeros(3, 4)}, step_of())["w"].count_nonzero() == 0


def test_the_release_tells_of_weights_only():
    module = torch.nn.Linear(4, 2)
    told = TruncatedSVD(0.7).release({"weight": None, "bias": None}, Facts(1, 0, module, (2, 8, 8)))
    assert told["weight"].stages == (LowRank(0.7),) and told["bias"].stages == ()


@settings(max_examples=20)
@given(shape=st.sampled_from(SHAPES), energy=st.floats(0.1, 0.9), seed=st.integers(0, 100))
def test_what_left_shows_a_part_of_what_entered(shape, energy, seed):
    """Whatever has rows or columns in its span: there clean and shared gradient are the same; it is an orthogonal projection."""
    clean, other = gradient(shape, seed)[None], gradient(shape, seed + 1)[None]
    stage = LowRank(energy)
    left = stage.passed(clean)
    shown = stage.shown(left)
    torch.testing.assert_close(shown(clean), left, atol=1e-9, rtol=0)
    torch.testing.assert_close(shown(left), left, atol=1e-9, rtol=0)
    part = shown(other)
    torch.testing.assert_close(shown(part), part, atol=1e-9, rtol=0)
    torch.testing.assert_close(shown(clean + 2 * other), left + 2 * part, atol=1e-9, rtol=0)
    assert ((part * (other - part)).sum() / other.square().sum()).abs() < 1e-9  # across each other
    low, high = stage.before(Bounds(left, left))
    assert (low <= clean).all() and (clean <= high).all()


def test_the_derivative_is_the_exact_one_where_what_is_cut_is_small():
    """Of the truncation, by differences; within the ratio of the squared singular values."""
    u, v = (torch.linalg.qr(gradient(shape, seed))[0] for shape, seed in (((5, 5), 1), ((8, 8), 2)))
    values = torch.tensor([3.0, 2.0, 1e-3, 5e-4, 1e-4], dtype=torch.float64)
    clean, towards = ((u * values) @ v[:, :5].mT)[None], gradient((5, 8), 3)[None]
    stage = LowRank(0.99)
    _, found = torch.func.jvp(stage.passed, (clean,), (towards,))
    expected = (stage.passed(clean + 1e-6 * towards) - stage.passed(clean - 1e-6 * towards)) / 2e-6
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=2e-3)
    assert (found - towards).norm() > 0.1


def test_one_by_one_and_all_at_once_are_the_same():
    many = torch.stack([gradient((5, 2, 3, 3), seed) for seed in range(4)])
    at_once = LowRank(0.6).passed(many)
    torch.testing.assert_close(torch.func.vmap(lambda g: LowRank(0.6).passed(g[None])[0])(many), at_once)
    for own, of_all in zip(many, at_once, strict=True):
        torch.testing.assert_close(LowRank(0.6).passed(own[None])[0], of_all)


def test_it_stays_on_the_device():
    with FakeTensorMode(), torch.device(FAKE_DEVICE):
        assert LowRank(0.6).passed(torch.randn(2, 5, 2, 3, 3)).device.type == FAKE_DEVICE
