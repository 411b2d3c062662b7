"""A matching step of the engine, and the plain loop beside it: one victim, double backward by torch.autograd.grad, signed Adam.

Run with ``pytest tests/perf --benchmark-only -s``; both are measured in one run, in turns, and the ratio per victim and iteration is
printed.
"""

from __future__ import annotations

import statistics
import time

import pytest
from speed_cases import engine_iteration, observe, plain_iteration

CASES = {
    "lenet, 128 victims": ("none", "lenet", 128),
    "mlp, 32 victims, full-rank gradients": ("noise(std=0.0001)", "mlp", 32),
    "precode on lenet, 64 victims": ("precode", "lenet", 64),
    "resnet18 in evaluation mode, 16 victims": ("none", "torchvision:resnet18", 16),
}


@pytest.mark.parametrize("case", CASES)
def test_ratio_to_the_plain_loop(benchmark, case):
    defense, model, victims = CASES[case]
    observation = observe(defense, model, victims)
    plain, engine = plain_iteration(observation), engine_iteration(observation)
    repeats, times = (2, []) if model == "torchvision:resnet18" else (5, [])

    def both() -> None:
        taken = []
        for iteration, per_call in ((plain, 1), (engine, victims)):
            started = time.perf_counter()
            for _ in range(repeats):
                iteration()
            taken.append((time.perf_counter() - started) / repeats / per_call * 1e3)
        times.append(taken)

    benchmark.pedantic(both, rounds=7, warmup_rounds=1)
    ratio = statistics.median(a / b for a, b in times)
    plain_ms, engine_ms = (statistics.median(column) for column in zip(*times, strict=True))
    benchmark.extra_info.update(ratio=ratio, plain_ms=plain_ms, engine_ms=engine_ms)
    print(f"\n{case}: plain {plain_ms:.2f} ms, engine {engine_ms:.2f} ms per victim and iteration, ratio {ratio:.1f}")
