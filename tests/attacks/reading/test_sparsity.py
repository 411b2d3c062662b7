"""Batches told apart by the zeros that a ReLU leaves in the errors of the layer before it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import FAKE_DEVICE
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from attacks.reading.sparsity import Separated, separated_by_sparsity


def layer_of(units: int, inputs: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(units, inputs, generator=generator, dtype=torch.float64)
    return weight, torch.randn(units, generator=generator, dtype=torch.float64)


def gradients_of(x: torch.Tensor, layer: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator, *, relu: bool = True):
    """Of images x [N, B, I] with random errors behind the layer: [N, O, I] and [N, O]."""
    outputs = x @ layer[0].T + layer[1]
    errors = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    if relu:
        errors = errors * (outputs > 0)
    return torch.einsum("nbo,nbi->noi", errors, x), errors.sum(1)


def in_order(found: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Of each image [B, I] what was found nearest to it."""
    return found[torch.cdist(x, found).argmin(1)]


@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 5), units=st.integers(48, 96), inputs=st.integers(8, 40), seed=st.integers(0, 1000))
def test_all_inputs_of_a_batch_are_told_exactly(batch, units, inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    x, layer = torch.randn(1, batch, inputs, generator=generator, dtype=torch.float64), layer_of(units, inputs, generator)
    found = separated_by_sparsity(gradients_of(x, layer, generator), layer, batch, 2**14, [seed])
    torch.testing.assert_close(in_order(found.inputs[0], x[0]), x[0], rtol=0, atol=1e-6)
    assert found.agreement.item() > 0.99


def case(victims: int = 3, batch: int = 4, **options) -> tuple[torch.Tensor, Separated]:
    generator = torch.Generator().manual_seed(3)
    x, layer = torch.randn(victims, batch, 20, generator=generator, dtype=torch.float64), layer_of(64, 20, generator)
    return x, separated_by_sparsity(gradients_of(x, layer, generator, **options), layer, batch, 2**13, list(range(victims)))


def test_without_zeros_nothing_is_said_to_be_right():
    """As behind an activation that is not a ReLU: half of the units agree by chance, or less."""
    x, found = case(relu=False)
    assert torch.isfinite(found.inputs).all() and (found.agreement < 0.8).all()
    assert all((in_order(read, own) - own).abs().amax() > 0.1 for own, read in zip(x, found.inputs, strict=True))


def test_the_agreement_is_the_share_of_errors_that_are_zero_just_where_units_are_inactive():
    """With one unit active against the ReLU, of one image: one in 2 x 40 does not agree."""
    generator = torch.Generator().manual_seed(1)
    x, (weight, bias) = torch.randn(1, 2, 12, generator=generator, dtype=torch.float64), layer_of(40, 12, generator)
    outputs = x[0] @ weight.T + bias
    errors = torch.randn(2, 40, generator=generator, dtype=torch.float64) * (outputs > 0)
    unit = int(((outputs[0] > 0) & (outputs[1] > 0)).nonzero()[0])
    errors[0, unit] = 0
    found = separated_by_sparsity((errors.T[None] @ x, errors.sum(0)[None]), (weight, bias), 2, 2**12, [0])
    torch.testing.assert_close(found.agreement, torch.tensor([1 - 1 / 80], dtype=torch.float64))
    torch.testing.assert_close(in_order(found.inputs[0], x[0]), x[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", ["twice the same image", "an image without an error"])
def test_images_that_leave_no_rank_are_left_out(change):
    generator = torch.Generator().manual_seed(2)
    x, layer = torch.randn(1, 3, 16, generator=generator, dtype=torch.float64), layer_of(64, 16, generator)
    own = x[:, :2]
    seen = own[:, [0, 1, 1]] if change == "twice the same image" else own
    found = separated_by_sparsity(gradients_of(seen, layer, generator), layer, 3, 2**12, [0])
    torch.testing.assert_close(in_order(found.inputs[0, :2], own[0]), own[0], rtol=0, atol=1e-6)
    assert not found.inputs[0, 2].any()


def test_victims_of_other_ranks_beside_it_do_not_change_one():
    generator = torch.Generator().manual_seed(5)
    x, layer = torch.randn(3, 3, 16, generator=generator, dtype=torch.float64), layer_of(64, 16, generator)
    x[1, 2] = x[1, 1]
    weight, bias = gradients_of(x, layer, generator)
    together = separated_by_sparsity((weight, bias), layer, 3, 2**12, [0, 1, 2])
    for victim in range(3):
        apart = separated_by_sparsity((weight[[victim]], bias[[victim]]), layer, 3, 2**12, [victim])
        torch.testing.assert_close(apart.inputs[0], together.inputs[victim], rtol=0, atol=1e-9)


def test_a_layer_without_an_error_is_no_image():
    layer = torch.ones(4, 3), torch.zeros(4)
    found = separated_by_sparsity((torch.zeros(1, 4, 3), torch.zeros(1, 4)), layer, 2, 10, [0])
    assert found.inputs.shape == (1, 2, 3) and not found.inputs.any()


def test_it_stays_on_the_device(monkeypatch):
    """On fake tensors of another device, which have no numbers to look at between the rounds."""
    monkeypatch.setattr("attacks.reading.sparsity._by_rank", lambda size, batch_size: {batch_size: list(range(len(size)))})
    monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: [0] * len(tensor))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(FAKE_DEVICE):
        weight, bias = torch.zeros(2, 32, 12), torch.zeros(2, 32)
        found = separated_by_sparsity((weight, bias), (weight[0], bias[0]), 3, 2**13, [0, 1])
        assert found.inputs.shape == (2, 3, 12) and {part.device.type for part in found} == {FAKE_DEVICE}
