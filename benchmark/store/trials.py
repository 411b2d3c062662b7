"""What was tried to tune a defense, and which of it is taken. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from benchmark.specification import TrialSpec


@dataclass(frozen=True)
class Tried:
    """A trial, with what it came to after its last epoch."""

    spec: TrialSpec
    validation_accuracy: float
    train_loss: float

    @property
    def diverged(self) -> bool:
        """Whether the loss of the last epoch is no number any more."""
        return not math.isfinite(self.train_loss)

def tried(table: pa.Table) -> list[Tried]:
    """The trials of a table of :data:`benchmark.store.tables.TRIALS`, in its order."""
    last: dict[TrialSpec, dict[str, Any]] = {}
    for row in table.to_pylist():
        spec = TrialSpec.model_validate({name: row[name] for name in TrialSpec.model_fields})
        if spec not in last or row["epoch"] > last[spec]["epoch"]:
            last[spec] = row
    return [Tried(spec, row["validation_accuracy"], row["train_loss"] if row["train_loss"] is not None else 0.0)
            for spec, row in last.items()]


def best(trials: Iterable[Tried]) -> Tried | None:
    """The one that is taken: of the highest validation accuracy among those that did not diverge, of equal ones the first; None
    where all diverged."""
    return max((one for one in trials if not one.diverged), key=lambda one: one.validation_accuracy, default=None)
