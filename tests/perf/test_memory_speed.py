"""The likelihood of what top-k shares of a gradient and its memory, by table and by the formula.

Run with ``pytest tests/perf --benchmark-only -s``; both are measured in one run, in turns, and the ratio is printed.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from defenses import top_k


def test_ratio_of_the_likelihood_to_its_formula(benchmark):
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(128, 3600, generator=generator).requires_grad_()
    left = torch.where(own.abs() > own.abs().quantile(0.99), own, 0.0).detach()
    times = []

    def seconds() -> float:
        started = time.perf_counter()
        torch.autograd.grad(top_k.Remembered().surprise(own, left).sum(), own)
        return time.perf_counter() - started

    def both() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(top_k, "_DENSITY", top_k._log_density)
            patch.setattr(top_k, "_MASS", top_k._log_mass)
            formula = seconds()
        times.append((formula, seconds()))

    benchmark.pedantic(both, rounds=7, warmup_rounds=1)
    ratios = sorted(formula / table for formula, table in times)
    ratio, (formula_s, table_s) = statistics.median(ratios), map(statistics.median, zip(*times, strict=True))
    benchmark.extra_info.update(ratio=ratio, lowest=ratios[0], highest=ratios[-1], formula_s=formula_s, table_s=table_s)
    print(f"\ntop-k with memory, 3,600 entries of 128 victims: formula {formula_s * 1e3:.0f} ms, table {table_s * 1e3:.0f} ms, "
          f"ratio {ratio:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")
