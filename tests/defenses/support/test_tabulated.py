from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from defenses.support.tabulated import Tabulated

CENTRE, FINEST, END = 1.0, 1e-3, 13.0


def steps(x):
    """What changes within thousandths of 1, in tenths of it and over all."""
    return sum(torch.erfc((x - 1) / scale).log1p() for scale in (FINEST, 0.1, 5.0)) - x.square()


TABLE = Tabulated(steps, centre=CENTRE, finest=FINEST, end=END)


@given(x=st.one_of(st.floats(-END, END), st.floats(CENTRE - 5 * FINEST, CENTRE + 5 * FINEST)))
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 2e-5)])
def test_value_and_slope_are_those_of_the_function(dtype, relative, x):
    at = torch.tensor([x], dtype=dtype, requires_grad=True)
    exact = at.detach().double().requires_grad_()
    found, expected = TABLE(at), steps(exact.abs())
    (slope,), (steep,) = torch.autograd.grad(found.sum(), at), torch.autograd.grad(expected.sum(), exact)
    assert found.dtype == dtype and abs(found.item() - expected.item()) <= relative * max(1.0, abs(expected.item()))
    if abs(x) < END:
        # Within rounding of the place, a slope may be that of its neighbours.
        assert abs(slope.item() - steep.item()) <= 10 * relative * max(1 / FINEST, abs(steep.item()))


def test_it_is_constant_beyond_its_end_and_not_a_number_of_what_is_none():
    at = torch.tensor([END + 1, -1e6, math.inf, math.nan], requires_grad=True)
    found = TABLE(at)
    assert found[:3].tolist() == pytest.approx([float(steps(torch.tensor(END)))] * 3, rel=2e-5) and bool(found[3].isnan())
    assert torch.autograd.grad(found[:3].sum(), at)[0].tolist() == [0.0] * 4
