"""From claims to the grids that test them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import defenses
from benchmark import claims
from benchmark.claims import Claim, Measure
from benchmark.config import Grid, make_grid
from benchmark.errors import InputError
from defenses.support.registry import unknown


def chosen(named: Sequence[str]) -> list[tuple[Claim, Grid]]:
    """The claims of some names or YAML files, or all that come with the package, each with its grid; see :func:`with_grid`.

    Raises:
        InputError: there is no such claim, two have one name, or one is not acceptable.
    """
    found = [_load(name) for name in dict.fromkeys(named)] or [claims.load(name) for name in claims.names()]
    for number, claim in enumerate(found):
        if any(claim.name == other.name for other in found[:number]):
            raise InputError(f"two claims have the name {claim.name!r}")
    return [with_grid(claim) for claim in found]


def with_grid(claim: Claim) -> tuple[Claim, Grid]:
    """A claim whose defenses have the names that they have in results, and its grid, which can show all of its figures.

    Raises:
        InputError: it cannot, or is no grid.
    """
    origin = f"claim {claim.name}"
    grid = make_grid({**claim.grid, "name": claim.name}, origin)
    if len(grid.evaluation.observed) > 1 or len(grid.datasets) > 1 or len(grid.models) > 1:
        raise InputError(f"{origin}: its grid must have one data set, one model and one number of images in evaluation.observed")
    expects, beside = ([_named(origin, grid, measure) for measure in measures] for measures in (claim.expects, claim.beside))
    claim = claim.model_copy(update={"expects": tuple(expects), "beside": tuple(beside)})
    for measure in claim.measures:
        _require(origin, grid, measure)
    return claim, grid


_Measure = TypeVar("_Measure", bound=Measure)


def _named(origin: str, grid: Grid, measure: _Measure) -> _Measure:
    return measure.model_copy(update={"of": _label(origin, grid, measure.of),
                                      "against": None if measure.against is None else _label(origin, grid, measure.against)})


def _label(origin: str, grid: Grid, defense: str) -> str:
    """The name that a defense of the grid has in results."""
    try:
        label = defenses.create(defense).label
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from error
    if label not in grid.points:
        raise InputError(f"{origin}: {unknown('defense of its grid', defense, grid.points)}")
    return label


def _require(origin: str, grid: Grid, measure: Measure) -> None:
    if measure.figure == "top-1" and not grid.evaluation.candidates:
        raise InputError(f"{origin}: top-1 needs evaluation.candidates")
    if measure.figure in ("asr", "mse-ratio") and not grid.attacks:
        raise InputError(f"{origin}: {measure.figure} needs attacks")
    if measure.figure != "change" and measure.attacker not in grid.evaluation.knowledge:
        raise InputError(f"{origin}: evaluation.knowledge lacks {measure.attacker}, of whom {measure.figure} is to be shown")
    if measure.figure == "change" and not any(defenses.create(label).plain for label in grid.points):
        raise InputError(f"{origin}: change needs the defense none in the grid")


def _load(name: str) -> Claim:
    if name in claims.names():
        return claims.load(name)
    if Path(name).suffix in (".yaml", ".yml"):
        return claims.load_file(Path(name))
    raise InputError(unknown("claim", name, claims.names()))
