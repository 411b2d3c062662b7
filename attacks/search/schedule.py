"""How long an attack optimises each victim, and how far each iteration goes."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The iterations of one victim.

    Args:
        iterations: of Adam, >= 1.
        step_size: of Adam, in normalised space, > 0; it decays by 0.1 after 3/8, 5/8 and 7/8 of the iterations (Geiping et al.,
            2020).
        patience: iterations without progress (the objective falls by a thousandth), >= 1, after which a victim goes on to the
            next smaller step size; after the smallest it is done.
        converged: a victim is also done when its objective is at most this; by default never. One minus a cosine cannot tell: on an
            untrained LeNet it is below 1e-6 after a hundred iterations, at a mean SSIM of 0.77, and images go on to 0.91.
    """

    iterations: int
    step_size: float
    patience: int
    converged: float = -math.inf

    def ends(self) -> list[int]:
        """The iterations at which a step size ends."""
        return [*(self.iterations * part // 8 for part in (3, 5, 7)), self.iterations]

    def size_at(self, iteration: int) -> float:
        """The step size of an iteration."""
        return self.step_size * 0.1 ** sum(iteration >= end for end in self.ends()[:-1])

    def next_size(self, iteration: int) -> int:
        """The iteration at which the step size after that of ``iteration`` begins; the end after the smallest."""
        return next(end for end in self.ends() if iteration < end)
