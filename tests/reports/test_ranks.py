"""What ranks tell, against enumeration, brute force and mechanisms whose numbers are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import rel_entr
from scipy.stats import binom, norm

from reports import ranks


def of(*victims):
    """Arrays of better, tied and candidates of some victims."""
    return tuple(np.array(column) for column in zip(*victims, strict=True))


def shares_of(places, size):
    return ranks.bin_shares(np.array(places) - 1, np.zeros(len(places), int), np.full(len(places), size), size)


@given(data=st.data())
def test_rates_are_those_of_all_pools(data):
    """Over every choice of the others, the ties among them broken evenly; bins likewise."""
    candidates = data.draw(st.integers(2, 7))
    better = data.draw(st.integers(0, candidates - 1))
    tied = data.draw(st.integers(0, candidates - 1 - better))
    size = data.draw(st.integers(2, candidates))
    scores = [-1] * better + [0] * tied + [1] * (candidates - 1 - better - tied)
    places = np.zeros(size)
    pools = list(itertools.combinations(scores, size - 1))
    for pool in pools:
        first, equal = pool.count(-1), pool.count(0)
        places[first : first + equal + 1] += 1 / (equal + 1) / len(pools)
    assert ranks.top_one(*of((better, tied, candidates)), [size]) == pytest.approx(places[0], abs=1e-12)
    firsts = [2**power - 1 for power in range(size.bit_length())]
    assert ranks.bin_shares(*of((better, tied, candidates)), size) == pytest.approx(np.add.reduceat(places, firsts), abs=1e-12)


@pytest.mark.parametrize("candidates", [2, 3, 200, 1000])
def test_a_constant_score_gives_chance(candidates):
    sizes = ranks.pool_sizes(candidates)
    assert sizes[0] == 2 and sizes[-1] == candidates and set(sizes) >= {size for size in (2, 10, 100, 1000) if size <= candidates}
    constant = of((0, candidates - 1, candidates))
    assert ranks.top_one(*constant, sizes)[0] == pytest.approx([1 / size for size in sizes], rel=1e-12)
    shares = ranks.bin_shares(*constant, candidates)
    assert shares.sum() == pytest.approx(1) and ranks.bits_leaked(shares, candidates) == pytest.approx(0, abs=1e-12)
    assert ranks.bits_limit(shares, candidates, 10_000) == 0


def test_bits_by_hand():
    assert ranks.bits_leaked(shares_of([1] * 5, 8), 8) == 3
    assert ranks.bits_leaked(shares_of(range(1, 9), 8), 8) == pytest.approx(0, abs=1e-12)
    assert ranks.bits_leaked(shares_of([1, 5], 7), 7) == pytest.approx(math.log2(3.5) / 2 + math.log2(7 / 8) / 2)


@given(weights=st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda weights: sum(weights) > 0.01))
def test_bits_are_no_more_than_the_ranks_tell(weights):
    chances, size = np.array(weights) / sum(weights), len(weights)
    shares = np.add.reduceat(chances, [2**power - 1 for power in range(size.bit_length())])
    entropy = -sum(chance * math.log2(chance) for chance in chances if chance)
    assert 0 <= ranks.bits_leaked(shares, size) <= math.log2(size) - entropy + 1e-9


def test_ranks_that_tell_nothing_give_no_bits():
    """At least 95 of 100 times, of so many draws that luck makes out 0.2 %; the estimate itself is above 0 each time."""
    generator = np.random.default_rng(1)
    drawn = [shares_of(generator.integers(1, 1001, 128), 1000) for _ in range(10_000)]
    assert sum(ranks.bits_limit(shares, 1000, 128) == 0 for shares in drawn) >= 0.95 * 10_000
    assert min(ranks.bits_leaked(shares, 1000) for shares in drawn) > 0


TWO, THREE = [(1.0, 0.0), (0.9, 0.1), (0.75, 0.25), (0.1, 0.9)], [(1.0, 0.0, 0.0), (0.6, 0.3, 0.1), (0.0, 0.5, 0.5), (0.05, 0.05, 0.9)]


@pytest.mark.parametrize(("size", "shares"), [(size, shares) for size in range(2, 8) for shares in (TWO if size < 4 else THREE)])
def test_the_limit_of_bits_is_the_least_of_all_that_are_near(size, shares):
    """On a grid of two or three bins."""
    shares, bins, victims = np.array(shares), len(shares), 40
    uniform = np.array([1, size - 1] if bins == 2 else [1, 2, size - 3]) / size
    fine = np.linspace(0, 1, 20_001 if bins == 2 else 901)
    grid = np.stack([fine, 1 - fine], 1) if bins == 2 else np.array([(a, b, 1 - a - b) for a, b in itertools.product(fine, fine) if a + b <= 1])
    near = grid[rel_entr(shares, grid).sum(1) <= ranks._radius(victims, size)]
    least = rel_entr(near, uniform).sum(1).min() / math.log(2)
    assert ranks.bits_limit(shares, size, victims) == pytest.approx(least, abs=1e-3 if bins == 2 else 6e-3)


def test_the_limit_of_bits_holds_for_ranks_that_tell_something():
    """Of 200 samples from known ranks at most 5 in 100 give more than there is, and the limit nears it with many victims."""
    generator, size = np.random.default_rng(2), 1000
    chances = 1 / np.arange(1, size + 1) ** 1.5
    chances /= chances.sum()
    true = np.add.reduceat(chances, [2**power - 1 for power in range(size.bit_length())])
    told = ranks.bits_leaked(true, size)
    limits = [ranks.bits_limit(generator.multinomial(64, true) / 64, size, 64) for _ in range(200)]
    assert np.mean(np.array(limits) > told) <= 0.05 and 0 < np.mean(limits) < told
    assert ranks.bits_limit(true, size, 10**7) == pytest.approx(told, rel=0.01)


def test_limits_of_privacy_by_hand():
    assert ranks.lower_limit(64, 64) == pytest.approx(0.05 ** (1 / 64)) and ranks.lower_limit(0, 64) == 0
    rate = ranks.lower_limit(20, 64)
    assert binom.sf(19, 64, rate) == pytest.approx(0.05)  # so many or more hits are then had in 5 % of cases
    assert ranks.epsilon_limit(0.5, 200, 1e-5) == pytest.approx(math.log(200 * 0.49999))
    assert ranks.epsilon_limit(0.004, 200, 0.0) == ranks.epsilon_limit(0.0, 200, 0.0) == ranks.epsilon_limit(0.3, 200, 0.3) == 0
    assert ranks.mu_limit(0.5, 200) == pytest.approx(2.5758293) and ranks.mu_limit(0.001, 200) == ranks.mu_limit(0.0, 200) == 0
    assert ranks.top_one_bound(1.0, 200) == pytest.approx(0.0575326, abs=1e-6) and ranks.top_one_bound(0.0, 200) == pytest.approx(1 / 200)
    assert ranks.top_one_bound(ranks.mu_limit(0.3, 1000), 1000) == pytest.approx(0.3)


@given(epsilon=st.floats(0.1, 8), size=st.integers(2, 1000))
def test_no_more_epsilon_than_there_is(epsilon, size):
    """A client that tells which candidate it has with e^epsilon times the chance of another is epsilon-DP: where it has none it tells
    any."""
    right = math.exp(epsilon) / (math.exp(epsilon) + size - 1)
    assert max(right * size, 1 / (right * size)) <= math.exp(epsilon) * (1 + 1e-12)
    assert 0 <= ranks.epsilon_limit(right, size, 0.0) <= epsilon + 1e-9


@pytest.mark.parametrize("mu", [0.25, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("size", [2, 3, 10, 100, 1000])
def test_the_likelihood_under_noise_stays_below_its_bound(mu, size):
    """Gradients of length mu in orthogonal directions under unit noise: the true one has the largest product with what was observed at
    a rate that is an integral; for two it is Phi(mu / sqrt 2)."""
    rate = quad(lambda t: norm.pdf(t - mu) * norm.cdf(t) ** (size - 1), -12, 12 + mu, limit=200)[0]
    assert size > 2 or rate == pytest.approx(norm.cdf(mu / math.sqrt(2)))
    assert 1 / size < rate < ranks.top_one_bound(mu, size)
    assert 0 < ranks.mu_limit(rate, size) < mu
