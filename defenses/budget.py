"""Privacy budgets by Opacus' accountants, which are imported where they are used."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache

from defenses.release import Release
from defenses.stages import Unknown
from defenses.support import checks

#: What is told of a gradient by whoever does not know the training.
UNPLANNED = Release((Unknown("the noise multiplier follows from a plan that is not known"),))


def check(noise_multiplier: float | None, target_epsilon: float | None, delta: float, accountant: str) -> None:
    """Check the parameters that defenses with a budget have in common, of which the first two exclude each other.

    Raises:
        ValueError: one is out of its range, or both are given.
    """
    if noise_multiplier is not None and target_epsilon is not None:
        raise ValueError("give either noise_multiplier or target_epsilon, not both")
    if noise_multiplier is not None:
        checks.number("noise_multiplier", noise_multiplier, at_least=0)
    if target_epsilon is not None:
        checks.number("target_epsilon", target_epsilon, above=0)
    checks.number("delta", delta, above=0, below=1)
    checks.choice("accountant", accountant, ("prv", "rdp"))


@lru_cache(maxsize=64)
def noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str) -> float:
    """With which so many steps at a sampling rate spend at most epsilon at delta. Kept, since it takes seconds to find, and
    trainings that differ in something else have it alike."""
    from opacus.accountants.utils import get_noise_multiplier

    with _all_sampled():
        return get_noise_multiplier(target_epsilon=epsilon, target_delta=delta, sample_rate=sample_rate, steps=steps,
                                    accountant=accountant)


class OpacusAccount:
    """A privacy accountant of Opacus, told the multiplier and the sampling rate once; ``counts`` is that of
    :class:`defenses.Account`."""

    def __init__(self, mechanism: str, delta: float, noise_multiplier: float, sample_rate: float, *,
                 counts: str = "steps") -> None:
        from opacus.accountants import create_accountant

        self.delta, self.counts = delta, counts
        self._accountant = create_accountant(mechanism)
        self._noise_multiplier, self._sample_rate = noise_multiplier, sample_rate

    def step(self) -> None:
        self._accountant.step(noise_multiplier=self._noise_multiplier, sample_rate=self._sample_rate)

    def epsilon(self, delta: float) -> float:
        """Spent so far; infinite without noise."""
        if not self._accountant.history:
            return 0.0
        if self._noise_multiplier == 0:
            return float("inf")
        with _all_sampled():
            return float(self._accountant.get_epsilon(delta=delta))


def _all_sampled() -> AbstractContextManager[None]:
    """Opacus takes the logarithm of the share that is not sampled, and what follows of it is right where that is zero."""
    import numpy as np

    return np.errstate(divide="ignore")
