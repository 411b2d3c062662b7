"""Estimates with their spread, and the convergence measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema
from scipy.integrate import trapezoid
from scipy.stats import binomtest

from benchmark.specification import STRICT

#: Share of the undefended model's best test accuracy that counts as converged.
CONVERGED = 0.95

_RESAMPLES = 10_000


def _from_document(value: Any) -> Any:
    return {"Infinity": math.inf, "-Infinity": -math.inf}.get(value, value) if isinstance(value, str) else value


def _to_document(value: float) -> float | str:
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _a_number(value: float) -> float:
    if math.isnan(value):
        raise ValueError("must be a number, got nan")
    return value


#: A float that may be infinite; JSON has no such number, so that it is a text there.
Number = Annotated[float, AfterValidator(_a_number), BeforeValidator(_from_document),
                   PlainSerializer(_to_document, when_used="json"),
                   WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity"]}]})]


@dataclass(frozen=True)
class Estimate:
    """A mean with the bounds of its 95 % interval; no bounds where there is a single observation."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    mean: Number
    low: Number | None
    high: Number | None


def bootstrap_mean(values: Sequence[float]) -> Estimate:
    """Mean with a 95 % percentile bootstrap interval (Efron, 1979), resampled with a fixed seed.

    Values that are not finite (the PSNR of a perfect reconstruction) make mean and bounds infinite, as they should.
    """
    return bootstrap_means(np.asarray(values, dtype=np.float64)[:, None])[0]


def bootstrap_means(values: np.ndarray) -> list[Estimate]:
    """As :func:`bootstrap_mean`, of every column of ``values`` [count, columns]; much faster than one by one."""
    return bootstrap(values)[0]


def bootstrap(values: np.ndarray) -> tuple[list[Estimate], list[float]]:
    """As :func:`bootstrap_means`, and the one-sided upper 95 % limit of each mean; of a single observation it is infinite."""
    count = len(values)
    means = values.mean(0).tolist()
    if count < 2:
        return [Estimate(mean, None, None) for mean in means], [math.inf] * len(means)
    columns, finite = values.T, np.isfinite(values.T)
    resampled = np.where(finite, columns, 0.0) @ _resamples(count).T / count
    for column in np.flatnonzero(~finite.all(1)):
        drawn = _resamples(count) @ (~finite[column]).astype(float) > 0
        resampled[column, drawn] = columns[column, ~finite[column]].sum()
    # Of so many resamples the nearest, which are found faster than by sorting.
    places = [round(share * (_RESAMPLES - 1)) for share in (0.025, 0.95, 0.975)]
    low, limit, high = np.partition(resampled, places, axis=1)[:, places].T.tolist()
    return [Estimate(*bounds) for bounds in zip(means, low, high, strict=True)], limit


def bootstrap_ratio(over: np.ndarray, under: np.ndarray) -> Estimate:
    """The mean of some values by that of others, which are of the same things in the same order, with a 95 % percentile bootstrap
    interval over these, whose resamples are those of :func:`bootstrap_mean`; infinite where the lower mean is zero."""
    count = len(over)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = float(np.divide(over.mean(), under.mean()))
        if count < 2:
            return Estimate(mean, None, None)
        resampled = np.nan_to_num((_resamples(count) @ over) / (_resamples(count) @ under), nan=1.0, posinf=math.inf)
    low, high = np.quantile(resampled, (0.025, 0.975), method="nearest").tolist()
    return Estimate(1.0 if math.isnan(mean) else mean, low, high)


@lru_cache(maxsize=3)
def _resamples(count: int) -> np.ndarray:
    """How often each value is in each resample, [resamples, count]; kept, since a report has thousands of intervals over
    the same number of images."""
    indices = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
    offsets = np.arange(_RESAMPLES)[:, None] * count
    drawn = np.bincount((indices + offsets).ravel(), minlength=_RESAMPLES * count)
    # As floats, whose product with the values is fast.
    return drawn.reshape(_RESAMPLES, count).astype(float)


@cache
def share(successes: int, count: int) -> Estimate:
    """A share with its 95 % Wilson interval (Wilson, 1927); kept, since scipy also computes a test, which takes 0.3 ms.

    Unlike the bootstrap's, it is not empty at none or all of few victims: 0 of 16 reaches up to 0.19.
    """
    interval = binomtest(successes, count).proportion_ci(method="wilson")
    return Estimate(successes / count, float(interval.low), float(interval.high))


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
    return float(trapezoid(accuracies) / (len(accuracies) - 1)) if len(accuracies) > 1 else accuracies[0]
