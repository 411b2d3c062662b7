"""What a run has done and still has to do, and how long that takes by what was measured so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmark.errors import InputError
from benchmark.run.progress import clock
from benchmark.specification import CellSpec
from benchmark.store import results

#: By what cells are alike, most alike first: seeds of one defense, defenses of one model, models of one data set, all.
_ALIKE = (("dataset", "model", "defense"), ("dataset", "model"), ("dataset",), ())
#: Parts that are no attacks.
_TRAINING, _IDENTIFICATION = "training", "identification"


@dataclass(frozen=True)
class PlannedCell:
    """A cell with its state (``done``, ``failed``, ``begun`` or ``to do``) and the seconds it took, or what is left of it is
    estimated to take (None: nothing alike was measured yet)."""

    spec: CellSpec
    state: str
    seconds: float | None


def planned(cells: Mapping[str, CellSpec], attacks: Mapping[str, str], identification: str | None, out: Path) -> list[PlannedCell]:
    """The cells of a grid as they stand in a run folder, which may not be there yet. Reads, and writes nothing."""
    parts = {**attacks, **({} if identification is None else {identification: _IDENTIFICATION})}
    found = {key: _find(out, key, attacks, identification) for key in cells}
    rates = _Rates()
    for key, (cell, _) in found.items():
        if cell is not None:
            rates.note(cells[key], _TRAINING, cell.trained["seconds"])
            for info in cell.attacks.values():
                rates.note(cells[key], info["attack"], info["seconds"])
            for info in cell.identified.values():
                rates.note(cells[key], _IDENTIFICATION, info["seconds"])
    planned = []
    for key, spec in cells.items():
        cell, missing = found[key]
        if cell is not None and not missing:
            planned.append(PlannedCell(spec, "done", sum(info["seconds"] for info in cell.parts())))
        else:
            failed = (out / "failures" / f"{key}.json").is_file()
            left = [*([_TRAINING] if cell is None else []), *(parts[part] for part in missing)]
            state = "failed" if failed else "to do" if cell is None else "begun"
            planned.append(PlannedCell(spec, state, rates.sum_of(spec, left)))
    return planned


def describe(cells: list[PlannedCell]) -> str:
    """A line per cell, and the sum."""
    lines = [f"{cell.state:6}  {_time(cell):>13}  {cell.spec.name}" for cell in cells]
    left = [cell for cell in cells if cell.state != "done"]
    known = [cell.seconds for cell in left if cell.seconds is not None]
    if not left:
        time = "nothing left to do"
    elif len(known) < len(left):
        time = "time left unknown until a cell is finished"
    else:
        time = f"time left about {clock(sum(known))}, one cell after another"
    return "\n".join([*lines, f"{len(cells) - len(left)} of {len(cells)} cells done; {time}"])


def _time(cell: PlannedCell) -> str:
    if cell.seconds is None:
        return "" if cell.state == "done" else "unknown"
    return clock(cell.seconds) if cell.state == "done" else f"about {clock(cell.seconds)}"


def _find(out: Path, key: str, attacks: Mapping[str, str], identification: str | None) -> tuple[results.Cell | None, list[str]]:
    try:
        return results.find_cell(out, key, attacks, identification)
    except InputError:
        return None, [*attacks, *filter(None, [identification])]  # a run finds out that the cell is damaged, and says so


class _Rates:
    """Measured seconds of the parts of cells, by all that cells can have alike."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}

    def note(self, spec: CellSpec, part: str, seconds: float) -> None:
        for names in _ALIKE:
            self._seconds.setdefault(self._place(spec, part, names), []).append(seconds)

    def sum_of(self, spec: CellSpec, parts: list[str]) -> float | None:
        """The sum over parts of the mean of what was measured most alike; None where nothing alike was measured of one."""
        total = 0.0
        for part in parts:
            places = [self._place(spec, part, names) for names in _ALIKE]
            alike = next((self._seconds[place] for place in places if place in self._seconds), None)
            if alike is None:
                return None
            total += mean(alike)
        return total

    @staticmethod
    def _place(spec: CellSpec, part: str, names: tuple[str, ...]) -> tuple[str, ...]:
        return (part, *names, *(str(getattr(spec, name)) for name in names))
