"""Choosing by what each defense is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmark.config import Grid, Training
from benchmark.errors import InputError
from benchmark.specification import CellSpec, TrialSpec
from benchmark.store import results
from benchmark.store.result_files import read_json
from benchmark.store.trials import Tried, best, tried


class NotTuned(InputError):
    """There is nothing to train a defense by."""


#: Trials by their keys, by the data set, model and defense that they are for.
ByDefense = dict[tuple[str, str, str], dict[str, TrialSpec]]


def place(spec: CellSpec | TrialSpec) -> tuple[str, str, str]:
    """What a choice is made for, alike for all seeds."""
    return spec.dataset, spec.model, spec.defense


def by_defense(trials: Mapping[str, TrialSpec]) -> ByDefense:
    """Of all trials of a run those of each defense, so that not every cell looks through all."""
    found: ByDefense = {}
    for key, spec in trials.items():
        found.setdefault(place(spec), {})[key] = spec
    return found


def training_of(spec: TrialSpec, training: Training) -> Training:
    """The training of a grid by the optimizer, step size and batch size of a trial."""
    return training.model_copy(update=spec.model_dump(include={"optimizer", "learning_rate", "batch_size"}))


def training_for(run: Path, trials: Mapping[str, TrialSpec], spec: CellSpec, grid: Grid, cell: results.Cell | None = None
                 ) -> Training:
    """How a cell is to be trained, or how it was, where it is there: gradients as trained are those of that training, even if
    trials that were tried again came to something else, as they may with another number of threads.

    Args:
        run: the folder of the run.
        trials: those of the grid, by their keys, or of them those for the cell's defense.
        spec: the cell.
        grid: of the run.
        cell: as it stands on disk.

    Raises:
        NotTuned: see :func:`chosen`.
    """
    if cell is not None:
        return grid.training.model_copy(update=results.trained_by(cell))
    return grid.training if grid.tuning is None else chosen(run, trials, spec, grid.training)


def chosen(run: Path, trials: Mapping[str, TrialSpec], cell: CellSpec, training: Training) -> Training:
    """The training of a grid as it is for a cell, by the best of the trials.

    Args:
        run: the folder of the run.
        trials: those of the grid, by their keys, or of them those for the cell's defense.
        cell: which is to be trained.
        training: that of the grid.

    Raises:
        NotTuned: a trial failed, or all diverged.
    """
    made: list[Tried] = []
    for key, spec in trials.items():
        if place(spec) != place(cell):
            continue
        if results.find_trial(run, key) is None:
            path = run / "failures" / f"{key}.json"
            reason = read_json(path, "").get("error") if path.is_file() else "it is not done"
            raise NotTuned(f"the {spec.combination} failed: {reason}")
        made += tried(results.read_trial(run, key, spec))
    found = best(made)
    if found is None:
        losses = "; ".join(f"{one.spec.combination}: loss {one.train_loss:g}" for one in made)
        raise NotTuned(f"all {len(made)} trials diverged: {losses}")
    return training_of(found.spec, training)
