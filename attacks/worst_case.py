"""The strongest attacker at hand: all attacks that apply, and of each victim the likeliest reconstruction."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import Attack, Candidates, Observation, Progress, Reconstruction
from attacks.portfolio import BUDGETS, portfolio
from attacks.score import score
from defenses import checks

#: Steps of progress that are told of each attack.
_STEPS = 100


@dataclass(frozen=True)
class WorstCase(Attack):
    """Run every attack that applies, with the settings of a fixed portfolio (:mod:`attacks.portfolio`), and choose for each victim
    the reconstruction that is likeliest by :func:`attacks.score.score`, which looks at no original.

    Args:
        budget: ``fast`` (300 iterations), ``standard`` (1,000) or ``thorough`` (3,000, two restarts).
    """

    name: ClassVar[str] = "worst-case"
    summary: ClassVar[str] = "all attacks that apply; per victim the likeliest reconstruction"
    paper: ClassVar[str] = "Leakboard"
    tier: ClassVar[str] = "worst case"
    threat_model: ClassVar[str] = "B"

    budget: str = "standard"

    def __post_init__(self) -> None:
        checks.choice("budget", self.budget, tuple(BUDGETS))

    def members(self, observation: Observation) -> list[Attack]:
        """The attacks of the portfolio that apply."""
        from attacks import registry  # which this attack is a member of

        return [attack for attack in portfolio(list(registry), self.budget) if attack.obstacle(observation) is None]

    def obstacle(self, observation: Observation) -> str | None:
        return None if self.members(observation) else "none of the attacks applies"

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        members = self.members(observation)
        if not members:
            raise ValueError("none of the attacks applies")
        told = 0

        def tell(at: int) -> None:
            nonlocal told
            while progress is not None and told < at:
                told += 1
                progress(told, _STEPS * len(members))

        reconstructions, scores, seconds = [], [], []
        mean, std = observation.mean.view(-1, 1, 1), observation.std.view(-1, 1, 1)
        for place, attack in enumerate(members):
            before = _STEPS * place

            def part(done: int, total: int, before: int = before) -> None:
                tell(before + _STEPS * done // total)

            started = time.perf_counter()
            found = attack.reconstruct(observation, seed=seed, progress=part)
            seconds.append(time.perf_counter() - started)
            reconstructions.append(found)
            scores.append(score(observation, (found.images - mean) / std, found.labels, seed))
            tell(before + _STEPS)
        all_scores = torch.stack(scores)
        chosen, victims = all_scores.argmin(0), torch.arange(len(observation), device=all_scores.device)
        images, labels = (torch.stack(tensors)[chosen, victims] for tensors in (
            [found.images for found in reconstructions], [found.labels for found in reconstructions]))
        candidates = Candidates(tuple(members), tuple(reconstructions), all_scores, tuple(seconds))
        return Reconstruction(images, labels, all_scores[chosen, victims], candidates)
