from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.statistics import accuracy_area, bootstrap_mean, epochs_to_converge, share


@given(count=st.integers(1, 300), part=st.floats(0, 1))
def test_share_has_wilsons_interval(count, part):
    """Its bounds are the shares from which the measured one is 1.96 standard errors away (Wilson, 1927, by its closed form), and
    exactly 0 and 1 at none and all."""
    successes, z = round(part * count), 1.959963984540054
    estimate, mean = share(successes, count), successes / count
    centre = (mean + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(mean * (1 - mean) / count + z**2 / (4 * count**2))
    assert estimate.mean == mean
    assert estimate.low == pytest.approx(centre - reach, abs=1e-12) and estimate.high == pytest.approx(centre + reach, abs=1e-12)
    assert successes or estimate.low == 0.0
    assert successes < count or estimate.high == 1.0


def test_none_of_sixteen_is_not_certainly_none():
    assert share(0, 16).high == pytest.approx(0.194, abs=1e-3)


def test_bootstrap_covers_the_mean_in_about_95_of_100_samples():
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        estimate = bootstrap_mean(generator.normal(2.0, 1.0, 40).tolist())
        inside += estimate.low <= 2.0 <= estimate.high
    assert 0.90 <= inside / 300 <= 0.98


def test_one_value_has_no_interval_and_infinite_ones_stay():
    assert bootstrap_mean([0.5]).low is None
    assert bootstrap_mean([math.inf, math.inf]).mean == math.inf
    assert math.isinf(bootstrap_mean([20.0, math.inf, math.inf]).high)


def test_convergence_by_hand():
    assert epochs_to_converge([0.1, 0.5, 0.76, 0.9], undefended_best=0.8) == 2  # 0.95 * 0.8 = 0.76
    assert epochs_to_converge([0.1, 0.73, 0.75, 0.77], undefended_best=0.8) == 3  # 91 and 94 % of the best are not 95
    assert epochs_to_converge([0.1, 0.5], undefended_best=0.8) is None
    assert accuracy_area([0.0, 0.5, 1.0]) == pytest.approx(0.5)
    assert accuracy_area([0.3]) == 0.3


@given(values=st.lists(st.floats(-50, 50), min_size=2, max_size=60))
def test_bootstrap_is_that_of_resampled_indices(values):
    """Against the definition: means of samples drawn with replacement, by the same draws."""
    indices = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(np.asarray(values)[indices].mean(1), [2.5, 97.5], method="nearest")
    estimate = bootstrap_mean(values)
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
