"""Products with matrices from both sides: compiled, or by torch in parts, against float64."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from attacks.engine.kernels import products

TYPES = [torch.float32, torch.bool]


@pytest.fixture(autouse=True, scope="module")
def two_threads():
    """The tests run with one, of which the compiled function would make no team."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def anew():
    """Have the library compiled again, before and after."""
    products._library.cache_clear()
    yield
    products._library.cache_clear()


def given_and_expected(dtype, slots, positions, rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(slots, rows, columns, generator=generator)
    matrices = matrices > 1 if dtype == torch.bool else matrices.to(dtype)
    left, right = torch.randn(slots, positions, rows, generator=generator), torch.randn(slots, positions, columns, generator=generator)
    return (matrices, left, right), (left.double() @ matrices.double(), right.double() @ matrices.double().mT)


def check(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5 * float(theirs.abs().max() + 1))


@pytest.mark.skipif(products._library() is None, reason="no C compiler")
@given(slots=st.integers(1, 5), positions=st.integers(1, 4), rows=st.integers(1, 13), columns=st.integers(1, 70),
       dtype=st.sampled_from(TYPES), seed=st.integers(0, 20))
def test_compiled_products(slots, positions, rows, columns, dtype, seed):
    arguments, expected = given_and_expected(dtype, slots, positions, rows, columns, seed)
    check(products.compiled_products(*arguments), expected)


@given(slots=st.integers(1, 5), positions=st.integers(1, 4), rows=st.integers(1, 13), columns=st.integers(1, 70), part=st.integers(1, 2000),
       dtype=st.sampled_from(TYPES))
def test_products_in_parts(slots, positions, rows, columns, part, dtype):
    arguments, expected = given_and_expected(dtype, slots, positions, rows, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_PART", part)
        patch.setattr(products, "applies", lambda *tensors: False)
        check(products.both_products(*arguments), expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_large_matrices_take_the_compiled_way_and_a_trace_sees_it(dtype):
    arguments, expected = given_and_expected(dtype, torch.get_num_threads(), 1, 1024, 1024)
    assert products.applies(*arguments[:2]) == (products._library() is not None)
    check(products.both_products(*arguments), expected)
    graph = make_fx(products.both_products)(*arguments)
    check(graph(*arguments), expected)
    other, expected = given_and_expected(dtype, torch.get_num_threads(), 1, 1024, 1024, seed=1)
    check(graph(*other), expected)  # nothing of the traced numbers is left in the graph


def test_float64_and_few_elements_do_not():
    (matrices, left, _), _ = given_and_expected(torch.float32, 4, 1, 1024, 1024)
    assert not products.applies(matrices.double(), left.double())
    assert not products.applies(matrices[:, :8], left[..., :8])
    assert not products.applies(matrices, left.expand(4, 9, -1))


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_compiler_torch_does_the_work(anew, monkeypatch, caplog, compiler):
    monkeypatch.setenv("CC", compiler)
    arguments, expected = given_and_expected(torch.float32, torch.get_num_threads(), 1, 1024, 1024)
    with caplog.at_level(logging.INFO, "leakboard"):
        check(products.both_products(*arguments), expected)
        check(products.both_products(*arguments), expected)
    assert caplog.text.count("products.c is not compiled, torch does its work") == 1
