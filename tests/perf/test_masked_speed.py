"""A matching step over the entries that pruning left, and the step over all entries of the same observation beside it.

Run with ``pytest tests/perf --benchmark-only -s``; both are measured in one run, in turns, and the ratio is printed.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from speed_cases import observe

from attacks.engine.matcher import GradientMatcher
from attacks.objective.objective import Objective


def test_ratio_to_the_step_without_masks(benchmark):
    victims = 32
    observation = observe("pruning(p=0.9)", "mlp", victims)
    masks = {name: gradient != 0 for name, gradient in observation.shared.items()}
    with pytest.MonkeyPatch.context() as patch:  # what is pruned has a high rank, for which no factors are found
        patch.setattr("attacks.engine.layers.rule.factors", lambda gradients, rank: None)
        matchers = [GradientMatcher(observation, observation.labels, objective, seeds=range(victims))
                    for objective in (Objective(), Objective(masks=masks))]
    images, times = torch.randn(victims, 1, 3, 32, 32), []

    def both() -> None:
        taken = []
        for matcher in matchers:
            started = time.perf_counter()
            for _ in range(5):
                matcher.step(images)
            taken.append((time.perf_counter() - started) / 5 / victims * 1e3)
        times.append(taken)

    benchmark.pedantic(both, rounds=7, warmup_rounds=1)
    ratios = sorted(masked / plain for plain, masked in times)
    ratio, (plain_ms, masked_ms) = statistics.median(ratios), map(statistics.median, zip(*times, strict=True))
    benchmark.extra_info.update(ratio=ratio, lowest=ratios[0], highest=ratios[-1], plain_ms=plain_ms, masked_ms=masked_ms)
    print(f"\nmlp, 32 victims, pruning: all entries {plain_ms:.2f} ms, masked {masked_ms:.2f} ms per victim and step, ratio {ratio:.2f} "
          f"({ratios[0]:.2f} to {ratios[-1]:.2f})")
