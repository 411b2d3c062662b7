"""What is read from traces and counted in dispatch, and the same draws everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gpu import cases, watching
from gpu.checks import Bench
from gpu.draws import SameDraws

CPU = torch.device("cpu")


def event(category, name, ts, dur=1.0, correlation=None):
    return {"ph": "X", "cat": category, "name": name, "ts": ts, "dur": dur, "args": {} if correlation is None else {"correlation": correlation}}


#: As the profiler writes them: 20 launches, a copy to the host with the wait for it, and a graph within the mark; the wait of the
#: profiler itself behind it, and a kernel of a launch before it.
TRACE = [
    event("user_annotation", "leakboard watches", 100.0, 50.0), event("gpu_user_annotation", "leakboard watches", 90.0, 500.0),
    *[event("cuda_runtime", "cudaLaunchKernel", 101.0 + i, correlation=i) for i in range(20)],
    *[event("kernel", "gemm", 200.0 + i, 2.0, correlation=i) for i in range(20)],
    event("cuda_runtime", "cudaMemcpyAsync", 130.0, correlation=30), event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 250.0, correlation=30),
    event("cuda_runtime", "cudaStreamSynchronize", 131.0, correlation=31), event("cuda_driver", "cuLaunchKernel", 132.0, correlation=32),
    event("cuda_runtime", "cudaGraphLaunch", 133.0, correlation=33), event("kernel", "of the graph", 260.0, 10.0, correlation=33),
    event("cuda_runtime", "cudaDeviceSynchronize", 151.0, correlation=40), event("cuda_runtime", "cudaLaunchKernel", 99.0, correlation=41),
    event("kernel", "before", 120.0, 100.0, correlation=41), event("cpu_op", "aten::mm", 110.0), {"ph": "M", "name": "process_name"},
]


def test_waits_are_read_from_a_trace():
    found = watching.read_trace(TRACE)
    assert dict(found.waits) == {"cudaStreamSynchronize": 1} and found.to_host == 1
    assert found.launches == 21 and found.graphs == 1 and found.busy == pytest.approx(50e-6)


def test_a_profiler_that_sees_no_gpu_is_no_proof(monkeypatch):
    """Where the driver lets nobody trace it, no waits are seen; that is not to pass."""
    bench = Bench(torch.device("cuda"))
    monkeypatch.setattr(Bench, "wait", lambda self: None)
    with pytest.raises(RuntimeError, match="saw no launch"):
        watching.traced(bench, lambda: torch.ones(3).sum())


def test_what_a_cpu_does_is_traced(capfd):
    found = watching.traced(Bench(CPU), lambda: torch.ones(3).sum())
    assert found == watching.Traced()
    assert "profiler" not in capfd.readouterr().err


def test_operations_and_bytes_of_a_product():
    a, b = torch.ones(4, 8), torch.ones(8, 16)
    found = watching.work_of(lambda: (a @ b).t().relu_())
    assert found.flops == 2 * 4 * 8 * 16
    # Two factors and the product; then the view that is written in place, in and out.
    assert found.bytes == 4 * (32 + 128 + 64 + 2 * 64)


def test_operations_of_a_backward_pass():
    layer, x = nn.Linear(8, 16, bias=False), torch.ones(4, 8)
    assert watching.work_of(lambda: layer(x).sum().backward()).flops == 2 * (2 * 4 * 8 * 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_the_same_in_every_precision(dtype):
    def draw():
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(6)
        like = torch.zeros(3, dtype=dtype)
        return [torch.randn_like(like), torch.empty_like(like).normal_(1.0, 2.0, generator=generator), torch.rand(3, dtype=dtype),
                torch.empty_like(like).exponential_(2.0, generator=generator), nn.functional.dropout(torch.ones(20, dtype=dtype), 0.5)]

    with SameDraws():
        found = draw()
    torch.manual_seed(5)
    expected = torch.randn(3, dtype=torch.float64)
    assert all(tensor.dtype == dtype for tensor in found)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-7, atol=0)
    torch.set_default_dtype(torch.float64)
    try:
        wide = draw() if dtype == torch.float64 else [t.double() for t in found]
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, wide, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-7, atol=1e-7)


def test_the_dropout_of_a_gpu_is_that_of_the_cpu():
    x = torch.arange(1.0, 50.0, dtype=torch.float64)
    with SameDraws():
        torch.manual_seed(3)
        expected = nn.functional.dropout(x, 0.3)
        torch.manual_seed(3)
        found, kept = torch.ops.aten.native_dropout(x, 0.3, True)
    torch.testing.assert_close(found, expected)
    assert torch.equal(kept, expected != 0)


def test_moved_observations_say_the_same():
    case = cases.made("precode", "small lenet", "two rounds")
    moved = cases.moved(case.observation, "cpu", torch.float32)
    assert len(moved) == 3 and moved.rounds[0].shared is not case.observation.rounds[0].shared
    assert all(torch.equal(moved.shared[name], g.float()) for name, g in case.observation.shared.items())
    assert all(torch.equal(moved.rounds[1].shared[name], g.float()) for name, g in case.observation.rounds[1].shared.items())
    assert moved.rounds[1].module is moved.module and next(moved.module.parameters()).dtype == torch.float32
    assert next(case.observation.module.parameters()).dtype == torch.float64 and moved.defense == case.observation.defense


def test_differences_are_told():
    expected = torch.tensor([1.0, -1.0, torch.inf, 0.0])
    assert cases.apart(expected.clone(), expected, 1e-6) == 0
    assert cases.apart(expected + torch.tensor([1e-3, 0, 0, 0]), expected, 1e-4) == 0.25
    assert cases.apart(torch.tensor([1.0, -1.0, 5.0, torch.nan]), expected, 1e-4) == 0.5
    assert cases.distance(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])) == pytest.approx(1 / 34**0.5)
