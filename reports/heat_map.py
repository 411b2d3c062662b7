"""What was tried to tune a defense, as tables of step sizes by batch sizes."""

from __future__ import annotations

from dataclasses import dataclass

from reports import text
from reports.entries import Entry, Trial


@dataclass(frozen=True)
class Cell:
    """A trial: its validation accuracy as text, how it compares with the others of its defense (0 the lowest, 1 the highest; None
    where there is no number), and whether it was chosen."""

    text: str
    level: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class HeatMap:
    """The trials of a defense by one optimizer: a row per step size, a column per batch size."""

    defense: str
    optimizer: str
    batch_sizes: list[int]
    rows: list[tuple[str, list[Cell]]]


def heat_maps(entry: Entry) -> list[HeatMap]:
    """The tables of a defense, one per optimizer; none where nothing was tuned."""
    numbers = [trial.validation_accuracy for trial in entry.trials if not trial.diverged]
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    return [_map(entry, optimizer, low, high) for optimizer in dict.fromkeys(trial.optimizer for trial in entry.trials)]


def _map(entry: Entry, optimizer: str, low: float, high: float) -> HeatMap:
    trials = {(trial.learning_rate, trial.batch_size): trial for trial in entry.trials if trial.optimizer == optimizer}
    step_sizes, batch_sizes = (sorted(set(values)) for values in zip(*trials, strict=True))
    rows = [(f"{step:g}", [_cell(trials.get((step, int(batch))), low, high) for batch in batch_sizes]) for step in step_sizes]
    return HeatMap(text.labelled(entry), text.optimizer(optimizer), [int(batch) for batch in batch_sizes], rows)


def _cell(trial: Trial | None, low: float, high: float) -> Cell:
    if trial is None:
        return Cell("not run")
    if trial.diverged:
        return Cell("diverged")
    level = (trial.validation_accuracy - low) / (high - low) if high > low else 1.0
    return Cell(text.number(trial.validation_accuracy, 3), level, trial.chosen)
