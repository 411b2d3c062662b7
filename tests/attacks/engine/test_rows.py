"""Rows in either form against dense linear algebra."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.engine.rows import FormedRows, OuterRows, joined, rows_of

NUMBERS = st.integers(1, 6)


class Case:
    """Rows [K, O * I] of both forms, with the same entries, and other rows, observed gradients and masks."""

    def __init__(self, images: int, positions: int, rows: int, columns: int, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(images + 10 * positions + 100 * rows + 1000 * columns)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.a, self.delta = random(images, positions, columns), random(images, positions, rows)
        self.dense = torch.einsum("kpo,kpi->koi", self.delta.double(), self.a.double())
        self.outer, self.formed = OuterRows(self.a, self.delta), FormedRows(self.dense.flatten(1).to(dtype))
        self.other = OuterRows(random(3, positions + 1, columns), random(3, positions + 1, rows))
        self.observed, self.masks = random(2, rows, columns), random(2, rows, columns) > 0
        self.factors = random(images)


CASES = st.builds(Case, NUMBERS, st.integers(1, 5), NUMBERS, NUMBERS)


@given(case=CASES)
def test_products_against_dense_algebra(case):
    flat, observed, masks = case.dense.flatten(1), case.observed.flatten(1), case.masks.flatten(1).double()
    others = torch.einsum("kpo,kpi->koi", case.other.delta, case.other.a).flatten(1)
    for rows, other in ((case.outer, case.other), (case.formed, FormedRows(others)), (case.formed, case.other)):
        assert len(rows) == len(flat)
        torch.testing.assert_close(rows.entries(None), flat)
        torch.testing.assert_close(rows.products(case.observed), observed @ flat.T)
        torch.testing.assert_close(rows.gram(other), flat @ others.T)
        torch.testing.assert_close(rows.squared(), flat.square().sum(1))
        torch.testing.assert_close(rows.masked_squared(case.masks), masks @ flat.square().T)
        torch.testing.assert_close(rows.scaled(-3.0).entries(None), -3 * flat)
        torch.testing.assert_close(rows.scaled(case.factors).entries(None), case.factors[:, None] * flat)
        torch.testing.assert_close(joined([rows, rows.scaled(2.0)]).entries(None), torch.cat([flat, 2 * flat]))
        places = torch.arange(flat.shape[1]).flip(0)[::2]
        torch.testing.assert_close(rows.entries(places), flat[:, places])


def test_the_form_that_takes_less_is_chosen():
    def of(positions: int, rows: int, columns: int):
        case = Case(2, positions, rows, columns)
        found = rows_of(case.a, case.delta)
        torch.testing.assert_close(found.entries(None), case.dense.flatten(1))
        return type(found)

    assert of(1, 40, 40) is of(4, 40, 40) is OuterRows
    assert of(5, 400, 400) is of(4, 10, 10) is of(1, 2, 100) is FormedRows


def test_float32_keeps_what_tells_gradients_of_large_layers_apart():
    """Of gradients that are all but the same, in float32, the distances that follow from inner products."""
    case = Case(4, 1, 64, 64, torch.float32)
    rows = OuterRows(case.a[:1] + 1e-2 * case.a, case.delta[:1].expand_as(case.delta).contiguous())
    dense = torch.einsum("kpo,kpi->koi", rows.delta.double(), rows.a.double()).flatten(1)
    gram = rows.gram(rows)
    assert gram.dtype == torch.float64
    found = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    torch.testing.assert_close(found, torch.cdist(dense, dense).square(), rtol=1e-4, atol=1e-7)
