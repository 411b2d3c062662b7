"""From the tables of a defense to its entry."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import InputError
from benchmark.store.results import Cell
from benchmark.store.trials import Tried, best
from reports.attack_results import attack_results
from reports.entries import Entry, Trial
from reports.identification import identification_results, obstacles
from reports.statistics import accuracy_area, bootstrap_mean, epochs_to_converge
from reports.text import tried_with


@dataclass(frozen=True)
class Measured:
    """What there is of a defense: its rows of :data:`benchmark.store.tables.TRAINING`, of
    :func:`reports.worst_case.with_worst_cases` and of :data:`benchmark.store.tables.IDENTIFICATIONS` (None without any), its cells,
    what was tried to tune it, and why trials and cells are missing."""

    training: pd.DataFrame | None
    rebuilt: pd.DataFrame | None
    identified: pd.DataFrame | None
    cells: list[Cell]
    tried: list[Tried]
    failed_trials: list[str]
    problems: list[str]


class Trained:
    """The trainings of a defense, by seed; of a defense that was not trained there is nothing."""

    def __init__(self, training: pd.DataFrame) -> None:
        by_seed = training.sort_values("epoch", kind="stable").groupby("seed")["test_accuracy"]
        self.accuracies = {int(seed): accuracies.tolist() for seed, accuracies in by_seed}
        epochs = training[training["epoch"] > 0].groupby("seed")["seconds"]
        self.seconds = {int(seed): float(seconds) for seed, seconds in epochs.median().items()}
        self.memory, self.sent = _most(training["step_memory"]), _most(training["sent_bytes"])
        rounds, epochs = _most(training["rounds"]), _most(training["epoch"])
        self.rounds_per_epoch = round(rounds / epochs) if rounds and epochs else None
        final = training[training["epoch"] == training["epoch"].max()]
        self.epsilon, self.delta = _number(final["epsilon"].max()), _number(final["delta"].max())


def make_entry(defense: str, family: str, measured: Measured, undefended: Trained, *, compared: bool,
               modes: Sequence[str]) -> Entry:
    """The entry of a defense.

    Args:
        defense: its specification.
        family: the name of its family.
        measured: what there is of it.
        undefended: the trainings of the undefended model.
        compared: whether it is compared with these, or is that model.
        modes: of how many images gradients were observed.

    Raises:
        InputError: its parameters are no JSON object.
    """
    # Of a defense of which no trial can be taken each cell would say the same.
    training, trials, problems = measured.training, _trials(measured.tried), [
        *measured.failed_trials, *(_diverged(measured.tried) or measured.problems)]
    if training is None:
        return Entry(defense, family, {}, 0, trials=trials, problems=problems)
    own, plain, times = Trained(training), undefended.accuracies, undefended.seconds
    last = {seed: curve[-1] for seed, curve in own.accuracies.items()}
    changes = [last[seed] - plain[seed][-1] for seed in last if seed in plain]
    ratios = [own.seconds[seed] / times[seed] for seed in own.seconds if times.get(seed)]
    first = training.iloc[0]
    return Entry(
        defense=defense,
        family=family,
        parameters=_parameters(defense, first["defense_params"]),
        seeds=len(last),
        accuracy=bootstrap_mean(list(last.values())),
        change=bootstrap_mean(changes) if changes and compared else None,
        test_images=int(first["test_images"]),
        chance=float(first["chance"]),
        converged=[epochs_to_converge(curve, max(plain[seed])) for seed, curve in own.accuracies.items() if seed in plain],
        rounds_per_epoch=own.rounds_per_epoch,
        area=float(np.mean([accuracy_area(curve) for curve in own.accuracies.values()])),
        epsilon=own.epsilon,
        delta=own.delta,
        optimizer=first["optimizer"],
        learning_rate=float(first["learning_rate"]),
        batch_size=int(first["batch_size"]),
        validation=next((trial.validation_accuracy for trial in trials if trial.chosen), None),
        trials=trials,
        seconds_per_epoch=float(np.mean(list(own.seconds.values()))) if own.seconds else None,
        time_ratio=float(np.mean(ratios)) if ratios and compared else None,
        step_memory=own.memory,
        memory_ratio=own.memory / undefended.memory if own.memory is not None and undefended.memory and compared else None,
        sent_bytes=own.sent,
        sent_ratio=own.sent / undefended.sent if own.sent is not None and undefended.sent and compared else None,
        attacks=attack_results(measured.rebuilt, measured.cells, modes),
        identifications=identification_results(measured.identified, own.delta, modes),
        unidentified=obstacles(measured.cells),
        problems=problems,
    )


def _trials(tried: list[Tried]) -> list[Trial]:
    chosen = best(tried)
    return [Trial(each.spec.optimizer, each.spec.learning_rate, each.spec.batch_size, each.validation_accuracy,
                  None if math.isnan(each.train_loss) else each.train_loss, each is chosen) for each in tried]


def _diverged(tried: list[Tried]) -> list[str]:
    """What is wrong with a defense of which no trial can be taken."""
    if not tried or best(tried) is not None:
        return []
    losses = "; ".join(f"{tried_with(each.spec)}: {each.train_loss:g}" for each in tried)
    return [f"all {len(tried)} trials diverged, so that it was not trained; losses: {losses}"[:2000]]


def _parameters(defense: str, text: str) -> dict[str, Any]:
    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError):
        parameters = None
    if not isinstance(parameters, dict):
        raise InputError(f"the training table holds parameters of {defense} that are no JSON object: {text[:80]!r}")
    return parameters


def _most(column: pd.Series) -> int | None:
    found = column.dropna()
    return int(found.max()) if len(found) else None


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
