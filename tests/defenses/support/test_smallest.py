from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from defenses.support import smallest
from defenses.support.smallest import without_smallest


def by_sorting(values, count):
    """The largest zeroed and the smallest kept magnitude, NaN as the largest."""
    ordered = values.abs().nan_to_num(nan=torch.inf, posinf=torch.inf).sort().values
    return ordered[count - 1], ordered[count] if count < len(values) else torch.inf


@given(seed=st.integers(0, 50), length=st.integers(1, 300), share=st.floats(0, 1), kind=st.sampled_from(["normal", "ties", "tiny", "sparse"]))
@pytest.mark.parametrize("many", [1, 2**16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smallest_are_zero_and_the_others_as_they_were(dtype, many, seed, length, share, kind):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(length, generator=generator, dtype=dtype)
    if kind == "ties":
        values = values.round()
    elif kind == "tiny":  # subnormal ones and neighbours
        values = torch.nextafter(values.sign(), torch.tensor(2.0, dtype=dtype)) * 1e-40
    elif kind == "sparse":
        values *= values > 1
    count = max(1, int(share * length))
    before, patch = values.clone(), pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(smallest, "_MANY", many)
        pruned = without_smallest(values, count)
    assert torch.equal(values, before)  # what is given is not written into
    same = pruned == values
    assert torch.equal(pruned[~same], torch.zeros_like(pruned[~same]))
    below, above = by_sorting(values, count)
    assert int((pruned != 0).sum()) == min(length - count, int((values != 0).sum()))
    assert (values.abs()[~same] <= below).all() and (values.abs()[pruned != 0] >= above).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999, 1.0])
def test_many_entries_as_by_selection(share):
    values = torch.randn(2**17, generator=torch.Generator().manual_seed(0))
    values[3], values[5], values[7] = torch.nan, -torch.nan, -torch.inf
    count = int(share * len(values))
    expected = values.index_fill(0, values.abs().topk(count, largest=False).indices, 0.0)
    assert torch.equal(without_smallest(values, count).nan_to_num(7.0), expected.nan_to_num(7.0))
