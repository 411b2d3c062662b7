"""All attacks at once, of which each victim gets the iterations that pay for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.portfolio import settings, with_effort
from attacks.reading.labels import label_obstacle
from attacks.registry import registry
from attacks.score import score_and_explained
from defenses.support import checks
from defenses.support.upload import upload

#: Each heat has this many times the iterations of the one before.
_FACTOR = 3


@dataclass(frozen=True)
class Race(Attack):
    """Run the attacks of the portfolio on each victim, and drop those that trail (successive halving; Jamieson & Talwalkar, AISTATS
    2016): what an attacker does who has one gradient and little time (ours).

    The attacks that read an image are run first. A victim whose gradient one of them explains up to rounding is done: nothing else
    is as precise by chance. Of the others all that search run a short heat; the likeliest of them, by
    :func:`attacks.score.score`, run three times as long, and again, until the last heat of ``iterations``. A heat begins anew, so
    that what an attack finds in it is what it finds by itself with as many iterations. The likeliest of all that was found is
    returned. Originals are not looked at.

    The attacks that a defense was published with have their own rows where they are named beside the race.

    The defaults were chosen on 12 CIFAR-10 victims, LeNet, untrained and trained, under noise of 0.001, pruning of 0.9 and PRECODE,
    one heat of 300 before 1,000 iterations: mean SSIM 0.680, the portfolio's 0.672, in 0.47 of its time where nothing is read; with
    one kept 0.676 in 0.44; a heat of 100 before saves a third more and loses 0.12 under pruning. On 32 other victims, with
    undefended ones: SSIM lower by 0.007 at most, one victim more or less, in 0.36 of the time.

    Args:
        iterations: of the last heat, >= 1.
        heat: at most so many in the first heat, >= 1.
        keep: how many attacks are kept after the first heat, >= 1; after each further one half of them.
        margin: attacks whose score is higher than the lowest by more than this are dropped in any case, >= 0.
        restarts: of each search in the last heat, >= 1; one before.
    """

    name: ClassVar[str] = "race"
    summary: ClassVar[str] = "the portfolio, of which each victim gets what is likeliest by short heats"
    paper: ClassVar[str] = "Leakboard"
    threat_model: ClassVar[str] = "B"
    of_others: ClassVar[bool] = True
    takes_updates: ClassVar[bool] = True  # as far as its members do

    iterations: int = 1000
    heat: int = 400
    keep: int = 2
    margin: float = 0.2
    restarts: int = 1

    def __post_init__(self) -> None:
        for name in ("iterations", "heat", "keep", "restarts"):
            checks.whole(name, getattr(self, name), at_least=1)
        checks.number("margin", self.margin, at_least=0)

    def own_obstacle(self, observation: Observation) -> str | None:
        reason = label_obstacle(observation)
        if reason is None and not any(attack.obstacle(observation) is None for attack in self.members()):
            return "no attack applies"
        return reason

    def members(self) -> list[Attack]:
        return settings(registry)

    def heats(self) -> list[int]:
        """The iterations of each heat."""
        ladder = [self.iterations]
        while ladder[0] > self.heat:
            ladder.insert(0, -(-ladder[0] // _FACTOR))
        return ladder

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        members = [attack for attack in self.members() if attack.obstacle(observation) is None]
        reading = [attack for attack in members if not attack.searches]
        searching = [attack for attack in members if attack.searches]
        heats = self.heats()
        told = _Told(progress, len(reading) + len(searching) * len(heats))
        field = _Field(observation, seed)
        everyone = list(range(len(observation)))
        for attack in reading:
            field.run(attack, everyone, seed)
            told.more(1)
        left = field.unexplained()
        racing, keep = dict.fromkeys(searching, left), self.keep
        for place, iterations in enumerate(heats):
            if not any(racing.values()):
                break  # all were read, or no score is finite
            last = place == len(heats) - 1
            scores: dict[Attack, Tensor] = {}
            for attack, victims in racing.items():
                scores[attack] = field.run(with_effort(attack, iterations, self.restarts if last else 1), victims, seed)
                told.more(1)
            if not last:
                racing = _ahead(scores, racing, keep, self.margin, len(observation))
                told.more(len(searching) - len(racing))
                keep = max(1, keep // 2)
        told.end()
        return field.likeliest()


def _ahead(scores: dict[Attack, Tensor], racing: dict[Attack, list[int]], keep: int, margin: float, victims: int
           ) -> dict[Attack, list[int]]:
    """Of each victim the attacks that go on."""
    table = torch.full((len(scores), victims), torch.inf, dtype=torch.float64)
    for row, (attack, found) in enumerate(scores.items()):
        table[row, racing[attack]] = found.double().cpu()
    # Of equal ones the first, so that no order of memory decides.
    rank = table.argsort(dim=0, stable=True).argsort(dim=0, stable=True)
    ahead = (rank < keep) & (table <= table.amin(0, keepdim=True) + margin) & torch.isfinite(table)
    return {attack: ahead[row].nonzero().flatten().tolist() for row, attack in enumerate(scores) if bool(ahead[row].any())}


class _Field:
    """The likeliest reconstruction of each victim so far."""

    def __init__(self, observation: Observation, seed: int) -> None:
        self._observation, self._seed = observation, seed
        n, b = len(observation), observation.batch_size
        self._images = observation.mean.new_zeros(n, b, *observation.image_shape)
        self._labels = torch.zeros(n, b, dtype=torch.long, device=observation.device)
        self._scores = observation.mean.new_full((n,), torch.inf)
        self._filled = torch.zeros(n, dtype=torch.bool, device=observation.device)
        self._explained = torch.zeros(n, dtype=torch.bool, device=observation.device)

    def run(self, attack: Attack, victims: list[int], seed: int) -> Tensor:
        """Attack some victims; their scores."""
        whole = len(victims) == len(self._observation)
        observation = self._observation if whole else self._observation.select(victims)
        found = attack.reconstruct(observation, seed=seed)
        mean, std = observation.mean.view(-1, 1, 1), observation.std.view(-1, 1, 1)
        images = (found.images - mean) / std
        scores, explained = score_and_explained(observation, images, found.labels, self._seed)
        index = upload(victims, observation.device, torch.long)
        better = (scores < self._scores[index]) | ~self._filled[index]
        for kept, new in ((self._images, found.images), (self._labels, found.labels), (self._scores, scores)):
            kept[index] = torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, kept[index])
        self._filled[index] = True
        if not attack.searches:
            self._explained[index] |= explained
        return scores

    def unexplained(self) -> list[int]:
        return (~self._explained).nonzero().flatten().tolist()

    def likeliest(self) -> Reconstruction:
        return Reconstruction(self._images, self._labels, self._scores)


class _Told:
    """The progress, in runs of attacks."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def more(self, runs: int) -> None:
        """So many more are done, or left out."""
        for _ in range(runs):
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)

    def end(self) -> None:
        self.more(self._total - self._done)
