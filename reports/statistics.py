"""Estimates with their spread, and the convergence measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Share of the undefended model's best test accuracy that counts as converged.
CONVERGED = 0.95

_RESAMPLES = 10_000
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A mean with the bounds of its 95 % interval; no bounds where there is a single observation."""

    mean: float
    low: float | None
    high: float | None


def bootstrap_mean(values: Sequence[float]) -> Estimate:
    """Mean with a 95 % percentile bootstrap interval (Efron, 1979), resampled with a fixed seed.

    Values that are not finite (the PSNR of a perfect reconstruction) make mean and bounds infinite, as they should.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return Estimate(float(array.mean()), None, None)
    indices = np.random.default_rng(0).integers(len(array), size=(_RESAMPLES, len(array)))
    low, high = np.percentile(array[indices].mean(1), [2.5, 97.5], method="nearest")
    return Estimate(float(array.mean()), float(low), float(high))


def share(successes: int, count: int) -> Estimate:
    """A share with its 95 % Wilson interval (Wilson, 1927).

    Unlike the bootstrap's, it is not empty at none or all of few victims: 0 of 16 reaches up to 0.19.
    """
    mean = successes / count
    centre = (mean + _Z95**2 / (2 * count)) / (1 + _Z95**2 / count)
    reach = _Z95 / (1 + _Z95**2 / count) * math.sqrt(mean * (1 - mean) / count + _Z95**2 / (4 * count**2))
    # At none or all of the victims a bound is exactly 0 or 1; rounding must not leave it beside.
    return Estimate(mean, centre - reach if successes else 0.0, centre + reach if successes < count else 1.0)


def epochs_to_converge(accuracies: Sequence[float], undefended_best: float) -> int | None:
    """First epoch whose test accuracy is at least 95 % of the undefended model's best; None when it is not reached.

    Args:
        accuracies: test accuracy after epoch 0, 1, ...
        undefended_best: the highest test accuracy of the undefended model over its epochs.
    """
    reached = np.flatnonzero(np.asarray(accuracies) >= CONVERGED * undefended_best)
    return int(reached[0]) if len(reached) else None


def accuracy_area(accuracies: Sequence[float]) -> float:
    """Area under the accuracy curve by the trapezoidal rule, divided by the number of epochs: a mean accuracy in [0, 1]."""
    values = np.asarray(accuracies, dtype=np.float64)
    if len(values) < 2:
        return float(values[0])
    return float(((values[1:] + values[:-1]) / 2).mean())
