"""From the tables of runs to boards: one per data set, model and protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from pydantic import TypeAdapter

from benchmark.errors import InputError
from benchmark.specification import CellSpec, TrialSpec
from benchmark.store.results import Cell, FoundRun, MeasuredCell, joined, with_tables
from benchmark.store.trials import Tried, tried
from reports.boards import Board, Family, Protocol
from reports.documents import parse
from reports.families import ranked
from reports.measured import Measured, Trained, make_entry
from reports.text import tried_with
from reports.worst_case import with_worst_cases

_PROTOCOL = TypeAdapter(Protocol)


@dataclass
class Section:
    """A board with the tables and cells it was made from; the reconstructions are those of
    :func:`reports.worst_case.with_worst_cases`."""

    board: Board
    training: pd.DataFrame
    reconstructions: pd.DataFrame
    cells: list[Cell]


@dataclass
class Gathered:
    """What the runs hold for one board: families with their parameters and defenses, cells by their keys, and by their defenses
    the trials and why trials or cells are missing."""

    dataset: str
    model: str
    protocol: Protocol
    undefended: str | None = None
    families: dict[str, tuple[str | None, list[str]]] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    specs: dict[str, CellSpec] = field(default_factory=dict)
    trials: dict[str, list[Tried]] = field(default_factory=dict)
    failed_trials: dict[str, list[str]] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def outlined(self) -> list[Family]:
        """Its families, not yet ranked."""
        return _families(self)


def build(runs: Sequence[FoundRun]) -> list[Section]:
    """The boards of one or more runs: :func:`gather` and of each group :func:`section`."""
    return [section(group) for group in gather(runs)]


def gather(runs: Sequence[FoundRun]) -> list[Gathered]:
    """Group the cells of one or more runs by data set, model and protocol.

    A protocol is all that makes numbers comparable: the data's fingerprint, the training and its tuning, the observation and the
    attacks. Cells and trials that are in several runs count once.

    Raises:
        InputError: the description of a run lacks what a protocol needs.
    """
    gathered: dict[tuple[str, str, Protocol], Gathered] = {}
    for run in runs:
        cells = {cell.folder.name: cell for cell in run.cells}
        datasets = dict.fromkeys(spec["dataset"] for spec in run.manifest["cells"].values())
        protocols = {name: _protocol(run, name) for name in datasets}
        groups = {}
        for key, spec in run.manifest["cells"].items():
            place = spec["dataset"], spec["model"], protocols[spec["dataset"]]
            group = groups[place[:2]] = gathered.setdefault(place, Gathered(*place))
            if spec["defense"] == run.manifest["undefended"]:
                group.undefended = spec["defense"]
            problems = group.problems.setdefault(spec["defense"], [])
            if key in cells:
                group.cells.setdefault(key, cells[key])
                group.specs.setdefault(key, CellSpec.model_validate(spec))
            elif key not in group.cells:
                problems.append(f"seed {spec['seed']}: " + run.failures.get(key, {"error": "not run"})["error"])
        _gather_trials(run, groups)
        for group in groups.values():
            for family in run.manifest["families"]:
                _, defenses = group.families.setdefault(family["name"], (family["parameter"], []))
                defenses += [defense for defense in family["defenses"] if defense not in defenses]
    return list(gathered.values())


def _gather_trials(run: FoundRun, groups: dict[tuple[str, str], Gathered]) -> None:
    """Those of the run's cells: what they came to, and why some failed."""
    for each in tried(run.trials):
        if (group := groups.get((each.spec.dataset, each.spec.model))) is not None:
            trials = group.trials.setdefault(each.spec.defense, [])
            if all(each.spec != other.spec for other in trials):
                trials.append(each)
    for key, failure in run.failures.items():
        spec = run.manifest["trials"].get(key)
        if spec is not None and (group := groups.get((spec["dataset"], spec["model"]))) is not None:
            group.failed_trials.setdefault(spec["defense"], []).append(
                f"trial of {tried_with(TrialSpec.model_validate(spec))}: {failure['error']}")


def section(group: Gathered) -> Section:
    """Put the cells of a group together, whose tables are read where they are not yet, and rank the families of its defenses.

    Raises:
        InputError: a table is damaged.
    """
    training, attacked, identified = joined(cell if isinstance(cell, MeasuredCell) else with_tables(cell, group.specs[key])
                                            for key, cell in group.cells.items())
    rebuilt = with_worst_cases(attacked)
    curves, images, ranks = (dict(list(rows.groupby("defense"))) for rows in (training, rebuilt, identified))
    undefended = Trained(curves.get(group.undefended, training.iloc[:0]))
    cells: dict[str, list[Cell]] = {}
    for cell in group.cells.values():
        cells.setdefault(cell.trained["defense"], []).append(cell)
    families = _families(group)
    entries = []
    for family in families:
        for defense in family.defenses:
            measured = Measured(curves.get(defense), images.get(defense), ranks.get(defense), cells.get(defense, []),
                                group.trials.get(defense, []), group.failed_trials.get(defense, []), group.problems[defense])
            entries.append(make_entry(defense, family.name, measured, undefended, compared=defense != group.undefended,
                                      modes=group.protocol.evaluation.observed))
    board = Board(group.dataset, group.model, group.protocol, group.undefended, families, entries)
    return Section(ranked(board), training, rebuilt, list(group.cells.values()))


def _families(group: Gathered) -> list[Family]:
    """Each defense in one family: of several runs that name it in several, in that with a parameter."""
    named = [(name, parameter, defenses) for name, (parameter, defenses) in group.families.items()]
    named += [(defense, None, [defense]) for defense in group.problems]
    of: dict[str, tuple[str, str | None]] = {}
    for name, parameter, defenses in sorted(named, key=lambda family: family[1] is None):
        for defense in defenses:
            if defense in group.problems:
                of.setdefault(defense, (name, parameter))
    members: dict[tuple[str, str | None], list[str]] = {}
    for _, _, defenses in named:
        for defense in defenses:
            if defense in of and defense not in (together := members.setdefault(of[defense], [])):
                together.append(defense)
    return [Family(*family, defenses) for family, defenses in members.items()]


def _protocol(run: FoundRun, dataset: str) -> Protocol:
    grid, determinants = run.manifest.get("grid", {}), run.manifest.get("determinants", {})
    path = run.folder / "run.json"
    try:
        content = {
            "training": grid["training"], "tuning": grid["tuning"], "evaluation": grid["evaluation"], "attacks": grid["attacks"],
            "image_size": grid["image_size"], "fingerprint": determinants["fingerprints"][dataset],
            "portfolio": determinants["portfolio"],
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} lacks {error}") from error
    protocol: Protocol = parse(json.dumps(content), str(path), _PROTOCOL)
    return protocol
