"""How long the parts of cells take, by what was measured of others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import attacks
from benchmark.config import Grid
from benchmark.specification import SINGLE, AttackSpec, CellSpec, TrialSpec

#: By what cells are alike, most alike first: seeds of one defense, defenses of one model, models of one data set, all.
_ALIKE = (("dataset", "model", "defense"), ("dataset", "model"), ("dataset",), ())


@dataclass(frozen=True)
class Part:
    """A trial, a training, an identification or an attack.

    Attributes:
        name: as the grid has it, with the parameters of an attack.
        kind: without them.
        amount: of its work, in a unit of its kind: epochs, or iterations over images at checkpoints.
    """

    name: str
    kind: str
    amount: float


class Parts:
    """The parts of the cells of a grid."""

    def __init__(self, grid: Grid) -> None:
        evaluation = grid.evaluation
        self.trial = Part("trial", "training", grid.trial_epochs)
        self.training = Part("training", "training", max(grid.training.epochs, 1))
        self._observations = len(grid.checkpoints()) * len(evaluation.knowledge)
        self._victims, self._images, self._candidates = evaluation.victims, evaluation.images, evaluation.candidates

    def identification(self, mode: str) -> Part:
        name = f"identification, {mode}"
        return Part(name, name, self._observations * self._victims * self._candidates)

    def attack(self, spec: AttackSpec) -> Part:
        images = self._victims if spec.observed == SINGLE else self._images
        iterations = getattr(attacks.create(spec.attack), "iterations", 1)
        return Part(f"{spec.attack}, {spec.observed}", f"{spec.attack.partition('(')[0]}, {spec.observed}",
                    self._observations * images * iterations)


class Rates:
    """Measured seconds, by all that cells can have alike: of the same part, or else of its kind, in proportion to its amount."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], tuple[float, float]] = {}  # of seconds, and of amounts or the count

    def note(self, spec: CellSpec | TrialSpec, part: Part, seconds: float, *, other: bool = False) -> None:
        """Count what was measured; in a run of an ``other`` grid only in proportion to its amount."""
        for place in () if other else self._places(spec, part.name):
            self._add(place, seconds, 1)
        for place in self._places(spec, f"kind of {part.kind}"):
            self._add(place, seconds, part.amount)

    def sum_of(self, spec: CellSpec | TrialSpec, parts: Iterable[Part]) -> float | None:
        """The sum over parts of the mean of what was measured most alike; None where nothing alike was measured of one."""
        total = 0.0
        for part in parts:
            for name, amount in ((part.name, 1.0), (f"kind of {part.kind}", part.amount)):
                found = next((self._sums[place] for place in self._places(spec, name) if place in self._sums), None)
                if found is not None:
                    total += found[0] / found[1] * amount
                    break
            else:
                return None
        return total

    def _add(self, place: tuple[str, ...], seconds: float, amount: float) -> None:
        total, amounts = self._sums.get(place, (0.0, 0.0))
        self._sums[place] = total + seconds, amounts + amount

    @staticmethod
    def _places(spec: CellSpec | TrialSpec, name: str) -> list[tuple[str, ...]]:
        return [(name, *names, *(str(getattr(spec, each)) for each in names)) for names in _ALIKE]
