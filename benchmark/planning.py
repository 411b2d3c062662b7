"""What a run has done and still has to do, and how long that takes by what was measured so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmark import results
from benchmark.errors import InputError
from benchmark.progress import clock
from benchmark.runner import CellSpec

#: By what cells are alike, most alike first: seeds of one defense, defenses of one model, models of one data set, all.
_ALIKE = (("dataset", "model", "defense"), ("dataset", "model"), ("dataset",), ())


@dataclass(frozen=True)
class PlannedCell:
    """A cell with its state (``done``, ``failed`` or ``to do``) and the seconds it took or is estimated to take (None: nothing
    was measured yet)."""

    spec: CellSpec
    state: str
    seconds: float | None


def planned(cells: Mapping[str, CellSpec], out: Path) -> list[PlannedCell]:
    """The cells of a grid as they stand in a run folder, which may not be there yet. Reads, and writes nothing."""
    infos = {key: _info(out, key) for key in cells if results.is_done(out, key)}
    measured = [info for info in infos.values() if isinstance(info.get("seconds"), float)]
    found = []
    for key, spec in cells.items():
        if key in infos:
            seconds = infos[key].get("seconds")
            found.append(PlannedCell(spec, "done", seconds if isinstance(seconds, float) else None))
        else:
            failed = (out / "failures" / f"{key}.json").is_file()
            found.append(PlannedCell(spec, "failed" if failed else "to do", _estimate(spec, measured)))
    return found


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
        time = f"time left about {clock(sum(known))}"
    return "\n".join([*lines, f"{len(cells) - len(left)} of {len(cells)} cells done; {time}"])


def _time(cell: PlannedCell) -> str:
    if cell.seconds is None:
        return "" if cell.state == "done" else "unknown"
    return clock(cell.seconds) if cell.state == "done" else f"about {clock(cell.seconds)}"


def _info(out: Path, key: str) -> dict[str, Any]:
    try:
        return results.read_info(out, key)
    except InputError:
        return {}  # a run finds out that the cell is damaged, and says so


def _estimate(spec: CellSpec, measured: list[dict[str, Any]]) -> float | None:
    for names in _ALIKE:
        alike = [info["seconds"] for info in measured if all(info.get(name) == getattr(spec, name) for name in names)]
        if alike:
            return mean(alike)
    return None
