"""How long an attack optimises each victim, and how far each iteration goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The iterations of one victim.

    Args:
        iterations: of the optimiser, >= 0.
        step_size: in normalised space, > 0.
        patience: iterations without progress (the objective falls by a thousandth), >= 1, after which a victim goes on to the
            next smaller step size; after the smallest it is done. That the objective is small cannot tell: one minus a cosine is
            below 1e-6 on an untrained LeNet after a hundred iterations, at a mean SSIM of 0.77, and images go on to 0.91.
        eighths: of the iterations, after which the step size decays by 0.1 (Geiping et al., 2020).
    """

    iterations: int
    step_size: float
    patience: int
    eighths: tuple[int, ...] = (3, 5, 7)

    def ends(self) -> list[int]:
        """The iterations at which a step size ends."""
        return [*(self.iterations * part // 8 for part in self.eighths), self.iterations]

    def size_at(self, iteration: int) -> float:
        """The step size of an iteration."""
        return self.step_size * 0.1 ** sum(iteration >= end for end in self.ends()[:-1])

    def next_size(self, iteration: int) -> int:
        """The iteration at which the step size after that of ``iteration`` begins; the end after the smallest."""
        return next(end for end in self.ends() if iteration < end)
