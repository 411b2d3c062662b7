"""What the ranks of true candidates tell: rates by the size of the pool, bits, and limits of privacy.

A rank is given by how many of M candidates were scored strictly likelier than the true one (``better``) and how many others have
its very score (``tied``): it is uniform over better + 1 .. better + tied + 1. A pool of m candidates is the true one and m - 1 of
the others, drawn without replacement.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, rel_entr, wrightomega
from scipy.stats import beta, binom, chi2, hypergeom

_LEVEL = 0.95
#: Draws of uniform ranks behind what chance alone tells.
_DRAWS = 10_000


def pool_sizes(candidates: int) -> list[int]:
    """1-2-5 steps below M, from 2 on, and M itself."""
    steps = (digit * 10**power for power in range(len(str(candidates))) for digit in (1, 2, 5))
    return [*(size for size in steps if 1 < size < candidates), candidates]


def top_one(better: np.ndarray, tied: np.ndarray, candidates: np.ndarray, sizes: list[int]) -> np.ndarray:
    """The chance that the true candidate comes first in a pool of each size, [victims, sizes].

    Of rank R among M it is C(M - R, m - 1) / C(M - 1, m - 1), averaged over the ranks that ties leave; a constant score gives 1/m.
    """
    return np.hstack([_at_most((1,), better, tied, candidates, size) for size in sizes])


def bin_shares(better: np.ndarray, tied: np.ndarray, candidates: np.ndarray, size: int) -> np.ndarray:
    """The share of victims whose rank in a pool of this size lies in {1}, {2, 3}, {4..7}, ..., [bins]; the last bin is cut at the
    size. A victim whose rank is not certain counts in each bin by its chance."""
    last = tuple(np.cumsum(_widths(size)).tolist())
    return np.diff(_at_most(last, better, tied, candidates, size).mean(0), prepend=0.0).clip(0.0)


def bits_leaked(shares: np.ndarray, size: int) -> float:
    """What ranks in these bins tell at least of which of M candidates it was, in bits of log2 M.

    The entropy of the rank R is at most that of its bin b and of a uniform place in it, H(R) <= H(b) + sum p_b log2 |b|, so that
    log2 M - H(R) is at least KL(p || q) with q_b = |b| / M.
    """
    return float(max(rel_entr(shares, _widths(size) / size).sum(), 0.0) / np.log(2))


def bits_limit(shares: np.ndarray, size: int, victims: int) -> float:
    """The lower 95 % limit of :func:`bits_leaked`: the least KL(p || q) over all p with KL(shares || p) <= r.

    r is what chance alone reaches in 5 % of draws, so that ranks that tell nothing give 0 in the other 95. By Lagrange
    p_b (log(p_b / q_b) + c) = l shares_b, hence p_b = l shares_b / W(e^t shares_b / q_b) with t = c + log l and Lambert's W: l
    follows from the sum of p, and p goes from q to the shares as t grows.
    """
    uniform, radius = _widths(size) / size, _radius(victims, size)
    with np.errstate(divide="ignore"):
        surplus = np.log(shares / uniform)

    def between(t: float) -> np.ndarray:
        weights = np.where(shares > 0, shares / np.where(shares > 0, wrightomega(surplus + t), 1.0), uniform * np.exp(-t))
        return weights / weights.sum()

    def excess(t: float) -> float:
        return float(rel_entr(shares, between(t)).sum() - radius)

    low, high = -30.0, 1.0
    if excess(low) <= 0:
        return 0.0
    while excess(high) > 0:
        low, high = high, 2 * high
    return bits_leaked(between(brentq(excess, low, high, xtol=1e-12)), size)


def lower_limit(hits: int, victims: int, level: float = _LEVEL) -> float:
    """The one-sided Clopper-Pearson limit (Clopper and Pearson, 1934) of the rate behind so many hits."""
    return float(beta.ppf(1 - level, hits, victims - hits + 1)) if hits else 0.0


def upper_limit(hits: int, count: int, level: float = _LEVEL) -> float:
    """As above, from the other side."""
    return float(beta.ppf(level, hits + 1, count - hits)) if hits < count else 1.0


def epsilon_limit(rate: float, size: int, delta: float) -> float:
    """The least epsilon, at this delta and for adding or removing an image, under which one of M candidates is named rightly at
    this rate; at least 0.

    Let a_i be the chance that candidate i is named where the target's image is absent; their sum is at most 1. With candidate i
    present it is at most e^epsilon a_i + delta, so that the rate, the mean over i, is at most e^epsilon / M + delta.
    """
    return float(max(np.log(size * (rate - delta)), 0.0)) if rate > delta else 0.0


def mu_limit(rate: float, size: int) -> float:
    """As :func:`epsilon_limit`, the least mu of Gaussian differential privacy: solved from :func:`top_one_bound`."""
    return float(max(ndtri(rate) - ndtri(1 / size), 0.0))


def top_one_bound(mu: float, size: int) -> float:
    """The highest rate at which any attacker names the true one of m candidates, where what was observed is mu-GDP for the presence
    of one image (Dong, Roth, Su, 2022).

    To name candidate i or not is a test of "i is present" against "the target is absent", with power p_i and level a_i. The tests
    are a partition: whatever is observed, at most one candidate is named, so that the mean of the levels is at most 1/m. The
    trade-off function of mu-GDP, Phi(Phi^-1(1 - a) - mu), gives p_i <= Phi(Phi^-1(a_i) + mu), increasing and concave in a_i: by
    Jensen's inequality the mean of the powers, which is the rate, is at most Phi(Phi^-1(1/m) + mu).
    """
    return float(ndtr(ndtri(1 / size) + mu))


def _at_most(places: tuple[int, ...], better: np.ndarray, tied: np.ndarray, candidates: np.ndarray, size: int) -> np.ndarray:
    """The chance that the rank in a pool of this size is at most each of these places, [victims, places]."""
    chances = np.empty((len(better), len(places)))
    for count in np.unique(candidates):
        of = candidates == count
        first, behind = better[of], better[of] + tied[of] + 1
        summed = _summed(places, int(count), size)
        chances[of] = (summed[behind] - summed[first]) / (behind - first)[:, None]
    return chances


@cache
def _summed(places: tuple[int, ...], candidates: int, size: int) -> np.ndarray:
    """Sums over the first 0 .. M ranks among all candidates of the chance that the rank in the pool is at most each place: that at
    most place - 1 of the better ones are drawn."""
    rank = np.arange(1, candidates + 1)[:, None]
    chances = hypergeom.cdf(np.asarray(places) - 1, candidates - 1, rank - 1, size - 1)
    return np.concatenate([np.zeros((1, len(places))), chances.cumsum(0)])


@cache
def _widths(size: int) -> np.ndarray:
    """The number of ranks in each bin."""
    first = 2 ** np.arange(size.bit_length())
    return np.diff(first, append=size + 1)


@cache
def _radius(victims: int, size: int) -> float:
    """The 95 % quantile of KL(shares || q) of uniform ranks, by simulation with a fixed seed, or by its limit for many victims
    where that is larger."""
    uniform = _widths(size) / size
    drawn = np.random.default_rng(0).multinomial(victims, uniform, _DRAWS) / victims
    # So far up among the draws that the quantile is not above it, but for one time in a thousand.
    simulated = np.sort(rel_entr(drawn, uniform).sum(1))[int(binom.ppf(0.999, _DRAWS, _LEVEL))]
    return float(max(simulated, chi2.ppf(_LEVEL, len(uniform) - 1) / (2 * victims)))
