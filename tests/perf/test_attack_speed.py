"""A matching step of the engine, and the plain loop beside it: one victim, double backward by torch.autograd.grad, signed Adam.

And the plain loop as two processes of one thread each, which whoever runs it on two cores would choose.

Run with ``pytest tests/perf --benchmark-only -s``; both are measured in one run, in turns, and the ratio per victim and iteration is
printed.
"""

from __future__ import annotations

import statistics
import time

import pytest
from speed_cases import engine_iteration, milliseconds_in_processes, observe, plain_iteration

CASES = {
    "lenet, 128 victims": ("none", "lenet", 128),
    "mlp, 32 victims, full-rank gradients": ("noise(std=0.0001)", "mlp", 32),
    "precode on lenet, 64 victims": ("precode", "lenet", 64),
    "resnet18 in evaluation mode, 16 victims": ("none", "torchvision:resnet18", 16),
    "lenet, 1 victim": ("none", "lenet", 1),
    "lenet, 3 victims": ("none", "lenet", 3),
    "mlp, 1 victim": ("none", "mlp", 1),
    "mlp, 3 victims": ("none", "mlp", 3),
    "mlp, 1 victim, full-rank gradients": ("noise(std=0.0001)", "mlp", 1),
    "precode on lenet, 1 victim": ("precode", "lenet", 1),
}


@pytest.mark.parametrize("case", CASES)
def test_ratio_to_the_plain_loop(benchmark, case):
    defense, model, victims = CASES[case]
    observation = observe(defense, model, victims)
    plain, engine = plain_iteration(observation), engine_iteration(observation)
    repeats, times = 2 if model == "torchvision:resnet18" else 5 if victims > 3 else 25, []

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


@pytest.mark.parametrize("case", ["lenet, 128 victims", "mlp, 32 victims, full-rank gradients"])
def test_ratio_to_two_processes_of_the_plain_loop(benchmark, case):
    """The engine in one process of two threads, beside the plain loop in one of two threads and in two of one each."""
    defense, model, victims = CASES[case]
    ways = {
        "engine, two threads": ("engine", victims, 1, 2, 3),
        "plain, two threads": ("plain", 1, 1, 2, 40),
        "plain, two processes": ("plain", 1, 2, 1, 40),
        "engine, one thread": ("engine", victims, 1, 1, 3),
        "plain, one thread": ("plain", 1, 1, 1, 40),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}

    def each() -> None:
        for way, (loop, at_once, processes, threads, repeats) in ways.items():
            times[way].append(milliseconds_in_processes(loop, defense, model, at_once, processes=processes, threads=threads,
                                                        repeats=repeats))

    benchmark.pedantic(each, rounds=3, warmup_rounds=0)
    medians = {way: statistics.median(column) for way, column in times.items()}
    ratios = {way: statistics.median(a / b for a, b in zip(times[way], times["engine, two threads"], strict=True))
              for way in ("plain, two threads", "plain, two processes")}
    benchmark.extra_info.update(milliseconds=medians, ratios=ratios)
    figures = ", ".join(f"{way} {ms:.2f}" for way, ms in medians.items())
    print(f"\n{case}: {figures} ms per victim and iteration; " + ", ".join(f"{way} {r:.1f} times" for way, r in ratios.items()))
