"""What a run has done and still has to do, and how long that takes by what was measured so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import InputError
from benchmark.run.progress import clock
from benchmark.specification import AttackSpec, CellSpec, TrialSpec, attacks_on
from benchmark.store import results

#: By what cells are alike, most alike first: seeds of one defense, defenses of one model, models of one data set, all.
_ALIKE = (("dataset", "model", "defense"), ("dataset", "model"), ("dataset",), ())
#: Parts that are no attacks.
_TRIAL, _TRAINING, _IDENTIFICATION = "trial", "training", "identification"


@dataclass(frozen=True)
class PlannedCell:
    """A cell or trial with its state (``done``, ``failed``, ``begun`` or ``to do``) and the seconds it took, or what is left of it
    is estimated to take (None: nothing alike was measured yet)."""

    spec: CellSpec | TrialSpec
    state: str
    seconds: float | None


def planned(trials: Mapping[str, TrialSpec], cells: Mapping[str, CellSpec], attacks: Mapping[str, AttackSpec],
            identifications: Mapping[str, str], out: Path) -> list[PlannedCell]:
    """The trials and cells of a grid as they stand in a run folder, which may not be there yet. Reads, and writes nothing."""
    parts = {key: _attack(spec.attack, spec.observed) for key, spec in attacks.items()}
    parts |= {key: _attack(_IDENTIFICATION, mode) for key, mode in identifications.items()}
    tried = {key: _find_trial(out, key) for key in trials}
    found = {key: _find(out, key, attacks_on(spec, attacks), identifications) for key, spec in cells.items()}
    rates = _Rates()
    for key, trial in tried.items():
        if trial is not None:
            rates.note(trials[key], _TRIAL, trial["seconds"])
    for key, (cell, _) in found.items():
        if cell is not None:
            rates.note(cells[key], _TRAINING, cell.trained["seconds"])
            for info in (*cell.attacks.values(), *cell.identified.values()):
                rates.note(cells[key], _attack(info.get("attack", _IDENTIFICATION), info["observed"]), info["seconds"])
    planned = []
    for key, spec in trials.items():
        if (trial := tried[key]) is not None:
            planned.append(PlannedCell(spec, "done", trial["seconds"]))
        else:
            planned.append(PlannedCell(spec, "failed" if _failed(out, key) else "to do", rates.sum_of(spec, [_TRIAL])))
    for key, cell_spec in cells.items():
        cell, missing = found[key]
        if cell is not None and not missing:
            planned.append(PlannedCell(cell_spec, "done", sum(info["seconds"] for info in cell.parts())))
        else:
            left = [*([_TRAINING] if cell is None else []), *(parts[part] for part in missing)]
            state = "failed" if _failed(out, key) else "to do" if cell is None else "begun"
            planned.append(PlannedCell(cell_spec, state, rates.sum_of(cell_spec, left)))
    return planned


def describe(cells: list[PlannedCell]) -> str:
    """A line for each, and the sum."""
    lines = [f"{cell.state:6}  {_time(cell):>13}  {cell.spec.name}" for cell in cells]
    trials = [cell for cell in cells if isinstance(cell.spec, TrialSpec)]
    left = [cell for cell in cells if cell.state != "done"]
    known = [cell.seconds for cell in left if cell.seconds is not None]
    if not left:
        time = "nothing left to do"
    elif len(known) < len(left):
        time = "time left unknown until one like it is finished"
    else:
        time = f"time left about {clock(sum(known))}, one after another"
    done = [f"{sum(cell.state == 'done' for cell in some)} of {len(some)} {name}" for some, name in (
        (trials, "trials"), ([cell for cell in cells if not isinstance(cell.spec, TrialSpec)], "cells")) if some]
    return "\n".join([*lines, f"{' and '.join(done)} done; {time}"])


def _time(cell: PlannedCell) -> str:
    if cell.seconds is None:
        return "" if cell.state == "done" else "unknown"
    return clock(cell.seconds) if cell.state == "done" else f"about {clock(cell.seconds)}"


def _attack(name: str, observed: str) -> str:
    return f"{name}, {observed}"


def _failed(out: Path, key: str) -> bool:
    return (out / "failures" / f"{key}.json").is_file()


def _find_trial(out: Path, key: str) -> dict[str, Any] | None:
    try:
        return results.find_trial(out, key)
    except InputError:
        return None  # as below


def _find(out: Path, key: str, attacks: Mapping[str, AttackSpec], identifications: Mapping[str, str]
          ) -> tuple[results.Cell | None, list[str]]:
    try:
        return results.find_cell(out, key, attacks, identifications)
    except InputError:
        return None, [*attacks, *identifications]  # a run finds out that the cell is damaged, and says so


class _Rates:
    """Measured seconds of the parts of cells, by all that cells can have alike."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], tuple[float, int]] = {}  # sum and count

    def note(self, spec: CellSpec | TrialSpec, part: str, seconds: float) -> None:
        for names in _ALIKE:
            place = self._place(spec, part, names)
            total, count = self._seconds.get(place, (0.0, 0))
            self._seconds[place] = total + seconds, count + 1

    def sum_of(self, spec: CellSpec | TrialSpec, parts: list[str]) -> float | None:
        """The sum over parts of the mean of what was measured most alike; None where nothing alike was measured of one."""
        total = 0.0
        for part in parts:
            places = [self._place(spec, part, names) for names in _ALIKE]
            alike = next((self._seconds[place] for place in places if place in self._seconds), None)
            if alike is None:
                return None
            total += alike[0] / alike[1]
        return total

    @staticmethod
    def _place(spec: CellSpec | TrialSpec, part: str, names: tuple[str, ...]) -> tuple[str, ...]:
        return (part, *names, *(str(getattr(spec, name)) for name in names))
