"""Measuring cells of a finished run again, and comparing the tables."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.config import Grid, make_grid
from benchmark.errors import InputError
from benchmark.executors import Executor, Failed, Finished, Started
from benchmark.measure.work import Advanced, Attacked, EpochEnded, Event, Identified, Note, Part, Trained, Work
from benchmark.plugins import Plugin
from benchmark.run import tuning
from benchmark.run.progress import Display
from benchmark.run.provenance import provenance
from benchmark.run.recorder import show
from benchmark.run.runner import identify
from benchmark.specification import AttackSpec, CellSpec, TrialSpec, attacks_on
from benchmark.store import results

#: The largest difference in SSIM, and in test accuracy, of what counts as the same.
TOLERANCE = 1e-4

_EPOCH = ("epoch",)
_IMAGE = ("observed", "checkpoint_epoch", "attack", "knowledge", "victim", "image")
_VICTIM = ("observed", "checkpoint_epoch", "knowledge", "victim")
#: What one measurement takes for itself.
_TIMES = "seconds"


@dataclass(frozen=True)
class Comparison:
    """A cell that was measured again.

    Attributes:
        spec: the cell.
        identical: whether all columns of all rows, but for times, are equal bit for bit.
        accuracy, ssim, rank: the largest absolute differences; infinite where a row is missing on one side. A rank is that of a
            victim's own image among its candidates.
        where: the row with the largest difference in SSIM, or what failed.
    """

    spec: CellSpec
    identical: bool
    accuracy: float
    ssim: float
    rank: float
    where: str

    @property
    def same(self) -> bool:
        """Whether the differences are within the tolerance, and all ranks the same."""
        return self.accuracy <= TOLERANCE and self.ssim <= TOLERANCE and self.rank == 0

    def text(self) -> str:
        """In one line."""
        if self.identical:
            return f"identical  {self.spec.name}"
        state = "same     " if self.same else "DIFFERENT"
        ranks = f", {self.rank:g} in the rank of a victim's own image" if self.rank else ""
        return (f"{state}  {self.spec.name}: differs by up to {self.accuracy:.1g} in test accuracy, {self.ssim:.1g} in SSIM "
                f"({self.where}){ranks}")


@dataclass(frozen=True)
class Sample:
    """Cells of a run to be measured again; ``notes`` say what is not as it was when the run was made."""

    run: Path
    grid: Grid
    trials: dict[str, TrialSpec]
    cells: dict[str, CellSpec]
    attacks: dict[str, AttackSpec]
    identifications: dict[str, str]
    datasets: dict[str, Any]
    device: torch.device
    notes: list[str]


def draw(run: Path, count: int, device: torch.device, *, seed: int | None = None, data_root: Path | None = None,
         plugins: Sequence[Plugin] = (), load_on: torch.device | None = None) -> Sample:
    """Choose finished cells of a run at random, and load what they need.

    Args:
        run: the folder of the run.
        count: how many cells, at most all.
        device: where to compute.
        seed: of the choice; None for another one each time.
        data_root: see :func:`benchmark.data.datasets.find`.
        plugins: that were loaded.
        load_on: see :func:`benchmark.run.runner.identify`.

    Raises:
        InputError: the run cannot be read or has no finished cell, or its data or a plugin are not those that it was made with.
    """
    if count < 1:
        raise InputError(f"--sample must be at least 1, got {count}")
    manifest = results.read_manifest(run)
    grid = make_grid(manifest["grid"], str(run / "run.json"))
    before = manifest["determinants"]
    found = identify(grid, device, data_root=data_root, plugins=plugins, load_on=load_on)
    now = found.depends_on
    for kind, hint in (("fingerprints", "data set"), ("plugins", "plugin")):
        there, here = before.get(kind), now[kind]
        if not isinstance(there, dict):
            raise InputError(f"{run / 'run.json'}: determinants.{kind}: expected an object, got {there!r}")
        for name in there:
            if there[name] != here.get(name):
                missing = "is not given; name it with --plugin" if here.get(name) is None else "is not that of the run"
                raise InputError(f"the {hint} {name} of {run} {missing}")
    finished = {}
    attacks = {key: AttackSpec.model_validate(spec) for key, spec in manifest["attacks"].items()}
    for key, content in manifest["cells"].items():
        spec = CellSpec.model_validate(content)
        cell, missing_parts = results.find_cell(run, key, attacks_on(spec, attacks), manifest["identifications"])
        if cell is not None and not missing_parts:
            finished[key] = spec
    if not finished:
        raise InputError(f"{run} has no finished cell")
    chosen = random.Random(seed).sample(sorted(finished), min(count, len(finished)))
    made, here = manifest["provenance"], provenance("", device)
    names = ("leakboard", "torch", "opacus", "device", "portfolio")
    notes = [f"{name} was {before.get(name)!r}, is {now[name]!r} here" for name in names if before.get(name) != now[name]]
    notes += [f"{name} was {made.get(name)!r}, is {here[name]!r} here" for name in ("hardware", "threads", "platform")
              if made.get(name) != here[name]]
    trials = {key: TrialSpec.model_validate(spec) for key, spec in manifest["trials"].items()}
    return Sample(run, grid, trials, {key: finished[key] for key in chosen}, attacks, manifest["identifications"], found.datasets,
                  device, notes)


def reproduce(sample: Sample, display: Display, executor: Executor, plugins: Sequence[Plugin] = ()) -> list[Comparison]:
    """Train, identify and attack in the cells of a sample from the beginning, and compare with what the run has. What was tried to
    tune a defense is not tried again. Writes nothing."""
    measured: dict[str, list[Part]] = {key: [] for key in sample.cells}
    compared: dict[str, Comparison] = {}
    display.begin(len(sample.cells))

    def tell(key: str, event: Event | Started | Finished | Failed) -> None:
        spec = sample.cells[key]
        if isinstance(event, Started):
            measured[key].clear()
        if isinstance(event, (Started, Advanced, EpochEnded, Note)):
            show(display, spec.name, event)
        elif isinstance(event, Part):
            measured[key].append(event)
        elif isinstance(event, Failed):
            compared[key] = Comparison(spec, False, math.inf, math.inf, math.inf, event.error)
            display.end_cell(spec.name, f"FAILED: {event.error}")
        else:
            compared[key] = _compare(sample, key, measured[key])
            display.end_cell(spec.name, "measured again")

    def work(key: str) -> Work:
        grid, spec = sample.grid, sample.cells[key]
        training = tuning.training_for(sample.run, sample.trials, spec, grid)
        return Work(spec, training, grid.evaluation, grid.checkpoints(), None, attacks_on(spec, sample.attacks),
                    sample.identifications)

    executor.run(list(sample.cells), work, sample.datasets, sample.device, plugins, tell)
    return [compared[key] for key in sample.cells]


def _compare(sample: Sample, key: str, events: list[Part]) -> Comparison:
    cell, _ = results.find_cell(sample.run, key, attacks_on(sample.cells[key], sample.attacks), sample.identifications)
    assert cell is not None
    stored = results.with_tables(cell, sample.cells[key])
    before = [_by(table.to_pylist(), names) for table, names in (
        (stored.training, _EPOCH), (stored.reconstructions, _IMAGE), (stored.identifications, _VICTIM))]
    now = [_by([row for event in events if isinstance(event, Trained) for row in event.training], _EPOCH),
           _by([{"lpips": None, **row} for event in events if isinstance(event, Attacked) for row in event.reconstructions],
               _IMAGE),
           _by([row for event in events if isinstance(event, Identified) for row in event.identifications], _VICTIM)]
    accuracies, similarities = (_differences(before[i], now[i], column) for i, column in enumerate(("test_accuracy", "ssim")))
    ranks = [max(_differences(before[2], now[2], column).values(), default=0.0) for column in ("better", "tied")]
    farthest = max(similarities, key=lambda place: similarities[place], default=None)
    where = "no reconstructions"
    if farthest is not None:
        observed, epoch, attack, knowledge, victim, _ = farthest
        where = f"{attack}, {observed}, after {epoch} epochs, {knowledge}, victim {victim}"
    return Comparison(
        sample.cells[key], all(_without_times(a) == _without_times(b) for a, b in zip(before, now, strict=True)),
        max(accuracies.values(), default=0.0), max(similarities.values(), default=0.0), max(ranks), where)


_Rows = dict[tuple[Any, ...], dict[str, Any]]


def _by(rows: list[dict[str, Any]], names: tuple[str, ...]) -> _Rows:
    return {tuple(row[name] for name in names): row for row in rows}


def _without_times(rows: _Rows) -> Mapping[tuple[Any, ...], Any]:
    # NaN equals itself here: a training that diverged does so again.
    return {place: {name: str(value) for name, value in row.items() if name != _TIMES} for place, row in rows.items()}


def _differences(before: _Rows, now: _Rows, column: str) -> dict[tuple[Any, ...], float]:
    found = {}
    for place in before.keys() | now.keys():
        if place in before and place in now:
            a, b = before[place][column], now[place][column]
            difference = 0.0 if str(a) == str(b) else abs(a - b)
            found[place] = math.inf if math.isnan(difference) else difference
        else:
            found[place] = math.inf
    return found
