"""What a run has done and still has to do, and how long that takes by what was measured so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.config import make_grid
from benchmark.errors import InputError
from benchmark.run.progress import clock
from benchmark.run.rates import Parts, Rates
from benchmark.run.runner import Cells
from benchmark.specification import AttackSpec, CellSpec, TrialSpec, attacks_on
from benchmark.store import results

#: States of what is not measured again.
_KEPT = ("done", "taken")


@dataclass(frozen=True)
class PlannedCell:
    """A cell or trial with its state (``done``, ``taken`` as it is from another run, ``failed``, ``begun`` or ``to do``) and the
    seconds it took, or what is left of it is estimated to take (None: nothing alike was measured yet)."""

    spec: CellSpec | TrialSpec
    state: str
    seconds: float | None


def planned(found: Cells, out: Path, models_from: Sequence[Path] = (), results_from: Sequence[Path] = ()) -> list[PlannedCell]:
    """The trials and cells of a grid as they stand in a run folder. Reads, and writes nothing.

    Args:
        found: the grid, see :func:`benchmark.run.runner.identify`.
        out: the run folder, which may not be there yet.
        models_from: of other runs, from which :func:`benchmark.run.runner.prepare` would take trials and models, and by which times
            are estimated too: with other numbers of epochs, iterations, victims and checkpoints.
        results_from: as ``models_from``, with what was measured on the models.

    Raises:
        InputError: one of the others is no run.
    """
    rates, others = Rates(), [*results_from, *models_from]
    for run in others:
        _note_run(rates, run)
    trials, cells, parts = found.trials, found.cells, Parts(found.grid)
    of_keys = {key: parts.attack(spec) for key, spec in found.attacks.items()}
    of_keys |= {key: parts.identification(mode) for key, mode in found.identifications.items()}
    tried = {key: next(((run, trial) for run in (out, *others) if (trial := _find_trial(run, key)) is not None), None)
             for key in trials}
    stand = {key: _stand(found, key, out, models_from, results_from) for key in cells}
    for key, place in tried.items():
        if place is not None:
            rates.note(trials[key], parts.trial, place[1]["seconds"])
    for key, (run, cell, _) in stand.items():
        if cell is not None and run == out:  # those of others are noted
            _note_cell(rates, parts, cells[key], cell)
    planned = []
    for key, spec in trials.items():
        if (place := tried[key]) is not None:
            planned.append(PlannedCell(spec, "done" if place[0] == out else "taken", place[1]["seconds"]))
        else:
            planned.append(PlannedCell(spec, "failed" if _failed(out, key) else "to do", rates.sum_of(spec, [parts.trial])))
    for key, cell_spec in cells.items():
        run, cell, missing = stand[key]
        if cell is not None and not missing:
            planned.append(PlannedCell(cell_spec, "done" if run == out else "taken", sum(info["seconds"] for info in cell.parts())))
        else:
            left = [*([parts.training] if cell is None else []), *(of_keys[part] for part in missing)]
            state = "failed" if _failed(out, key) else "to do" if cell is None else "begun"
            planned.append(PlannedCell(cell_spec, state, rates.sum_of(cell_spec, left)))
    return planned


def _stand(found: Cells, key: str, out: Path, models_from: Sequence[Path], results_from: Sequence[Path]
           ) -> tuple[Path, results.Cell | None, list[str]]:
    """Where a cell lies, its own run first, and which of its parts are missing."""
    attacks, needed = attacks_on(found.cells[key], found.attacks), set(found.grid.checkpoints())
    cell, missing = _find(out, key, attacks, found.identifications)
    if cell is not None:
        return out, cell, missing
    for run in (*results_from, *models_from):
        other, left = _find(run, key, attacks, found.identifications)
        if other is not None and needed <= set(other.trained["checkpoints"]):
            return run, other, left if run in results_from else missing
    return out, None, missing


def _note_run(rates: Rates, run: Path) -> None:
    """What was measured in a run of another grid."""
    manifest = results.read_manifest(run)
    parts = Parts(make_grid(manifest["grid"], str(run / "run.json")))
    for key, content in manifest["cells"].items():
        cell, _ = _find(run, key, manifest["attacks"], manifest["identifications"])
        if cell is not None:
            _note_cell(rates, parts, CellSpec.model_validate(content), cell, other=True)


def _note_cell(rates: Rates, parts: Parts, spec: CellSpec, cell: results.Cell, *, other: bool = False) -> None:
    rates.note(spec, parts.training, cell.trained["seconds"], other=other)
    for info in cell.attacks.values():
        rates.note(spec, parts.attack(AttackSpec(attack=info["attack"], observed=info["observed"])), info["seconds"], other=other)
    for info in cell.identified.values():
        rates.note(spec, parts.identification(info["observed"]), info["seconds"], other=other)


def describe(cells: list[PlannedCell]) -> str:
    """A line for each, and the sum."""
    lines = [f"{cell.state:6}  {_time(cell):>13}  {cell.spec.name}" for cell in cells]
    trials = [cell for cell in cells if isinstance(cell.spec, TrialSpec)]
    left = [cell for cell in cells if cell.state not in _KEPT]
    known = [cell.seconds for cell in left if cell.seconds is not None]
    if not left:
        time = "nothing left to do"
    elif len(known) < len(left):
        time = "time left unknown until one like it is finished"
    else:
        time = f"time left about {clock(sum(known))}, one after another"
    done = [f"{sum(cell.state in _KEPT for cell in some)} of {len(some)} {name}" for some, name in (
        (trials, "trials"), ([cell for cell in cells if not isinstance(cell.spec, TrialSpec)], "cells")) if some]
    return "\n".join([*lines, f"{' and '.join(done)} done; {time}"])


def _time(cell: PlannedCell) -> str:
    if cell.seconds is None:
        return "" if cell.state in _KEPT else "unknown"
    return clock(cell.seconds) if cell.state in _KEPT else f"about {clock(cell.seconds)}"


def _failed(out: Path, key: str) -> bool:
    return (out / "failures" / f"{key}.json").is_file()


def _find_trial(out: Path, key: str) -> dict[str, Any] | None:
    try:
        return results.find_trial(out, key)
    except InputError:
        return None  # as below


def _find(out: Path, key: str, attacks: Iterable[str], identifications: Iterable[str]
          ) -> tuple[results.Cell | None, list[str]]:
    try:
        return results.find_cell(out, key, attacks, identifications)
    except InputError:
        return None, [*attacks, *identifications]  # a run finds out that the cell is damaged, and says so
