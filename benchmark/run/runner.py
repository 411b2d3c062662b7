"""Running a grid: every cell is trained, observed, attacked and written, once."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

import defenses
from benchmark import models
from benchmark.config import Grid, recorded
from benchmark.data.datasets import Dataset, DatasetSource, find, load
from benchmark.errors import InputError
from benchmark.executors import Executor, Failed, Finished, Serial, Started
from benchmark.measure.measuring import Advanced, Attacked, EpochEnded, Event, Identified, Note, Part, Trained, Work
from benchmark.measure.metrics import SSIM_WINDOW
from benchmark.plugins import Plugin
from benchmark.run.cells import attacks_of, cells_of, determinants, identification_of
from benchmark.run.progress import Display
from benchmark.run.provenance import provenance
from benchmark.specification import CellSpec
from benchmark.store import recording, results, run_lock
from benchmark.store.result_files import read_checkpoint


@dataclass(frozen=True)
class Cells:
    """A checked grid with its data sets loaded. ``depends_on`` is what a result depends on beside the grid; ``cells`` and
    ``attacks`` map keys to cells, and to the specifications of the attacks that each cell is measured with; ``identification`` is
    the key of its identification, where it is on."""

    grid: Grid
    device: torch.device
    datasets: dict[str, Dataset]
    plugins: tuple[Plugin, ...]
    depends_on: dict[str, Any]
    cells: dict[str, CellSpec]
    attacks: dict[str, str]
    identification: str | None


@dataclass(frozen=True)
class Plan(Cells):
    """A checked grid, ready to run: its folder is prepared, and locked until :func:`run` ends."""

    out: Path
    lock: FileLock


@dataclass(frozen=True)
class Outcome:
    """How many cells of a run were already there, are new, and failed."""

    kept: int
    finished: int
    failed: int


class CannotWrite(InputError):
    """The run folder takes no more."""


def identify(grid: Grid, device: torch.device, *, data_root: Path | None = None, plugins: Sequence[Plugin] = (),
             load_on: torch.device | None = None) -> Cells:
    """Check everything that can be checked before work starts, and name the cells. Writes nothing.

    Args:
        grid: what to run.
        device: where to compute.
        data_root: see :func:`benchmark.data.datasets.find`.
        plugins: that were loaded.
        load_on: where data sets are loaded; by default where they are computed with.

    Raises:
        InputError: a model or data set cannot be used.
    """
    sources: dict[str, DatasetSource] = {}
    for given in grid.datasets:
        source = find(given, data_root, grid.image_size)
        if source.name in sources:
            raise InputError(f"two data sets of the grid have the name {source.name!r}, of which one is {given}")
        sources[source.name] = source
    datasets = {name: load(source, device if load_on is None else load_on) for name, source in sources.items()}
    for name, dataset in datasets.items():
        _check_dataset(grid, name, dataset)
    depends_on = determinants(device, {name: dataset.fingerprint for name, dataset in datasets.items()}, plugins)
    return Cells(grid, device, datasets, tuple(plugins), depends_on, cells_of(grid, depends_on, plugins), attacks_of(grid, plugins),
                 identification_of(grid))


def prepare(grid: Grid, out: Path, device: torch.device, *, data_root: Path | None = None, plugins: Sequence[Plugin] = (),
            load_on: torch.device | None = None, command: str = "", models_from: Sequence[Path] = ()) -> Plan:
    """As :func:`identify`, and claim the output folder for this grid.

    Args:
        grid: what to run.
        out: the run folder; made, or continued where it holds the same grid, which may have got further attacks, or identification.
        device: where to compute.
        data_root: see :func:`benchmark.data.datasets.find`.
        plugins: that were loaded.
        load_on: see :func:`identify`.
        command: as given, for the record.
        models_from: folders of other runs, whose trained models are taken where they are those of this grid.

    Raises:
        InputError: a model or data set cannot be used, the folder belongs to another grid, or another run is working in it.
    """
    found = identify(grid, device, data_root=data_root, plugins=plugins, load_on=load_on)
    for folder in models_from:
        results.read_manifest(folder)
    manifest = {
        "format": results.FORMAT, "name": grid.name, "grid": grid.model_dump(mode="json"), "determinants": found.depends_on,
        "cells": {key: spec.model_dump() for key, spec in found.cells.items()}, "attacks": found.attacks,
        "identification": found.identification,
        "undefended": next((label for label in grid.defenses if defenses.create(label).plain), None),
        "provenance": provenance(command, device),
    }
    plan = Plan(**found.__dict__, out=out, lock=_claim(out, json.loads(json.dumps(manifest))))
    try:
        for folder in models_from:
            _take_models(plan, folder)
    except BaseException as error:
        plan.lock.release()
        if isinstance(error, OSError):
            raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
        raise
    return plan


def run(plan: Plan, display: Display, executor: Executor | None = None) -> Outcome:
    """Run what is not done, by default one cell after another in this process. A cell that fails is recorded and does not stop the
    others; a part of one that is damaged on disk is set aside and measured again."""
    try:
        todo = _to_do(plan, display)
        kept = len(plan.cells) - len(todo)
        if kept:
            display.message(f"{plan.out}: {kept} of {len(plan.cells)} cells are done already and kept")
        recorder = _Recorder(plan, display, len(todo))
        if todo:
            (executor or Serial()).run(todo, lambda key: _work(plan, key), plan.datasets, plan.device, plan.plugins, recorder.tell)
        return Outcome(kept, recorder.finished, recorder.failed)
    finally:
        plan.lock.release()


def _to_do(plan: Plan, display: Display) -> list[str]:
    todo = []
    for key in plan.cells:
        for part, problem in results.damage(results.cell_folder(plan.out, key)).items():
            display.message(f"{problem}; it was moved to {recording.set_aside(plan.out, key, part)}")
        cell, missing = results.find_cell(plan.out, key, plan.attacks, plan.identification)
        if cell is None or missing:
            todo.append(key)
    return todo


def _work(plan: Plan, key: str) -> Work:
    """What is left to be done of a cell."""
    points = plan.grid.checkpoints()
    cell, missing = results.find_cell(plan.out, key, plan.attacks, plan.identification)
    weights = None if cell is None else {epoch: read_checkpoint(results.checkpoint_path(cell.folder, epoch)) for epoch in points}
    return Work(plan.cells[key], plan.grid.training, plan.grid.evaluation, points, weights,
                {attack: label for attack, label in plan.attacks.items() if attack in missing},
                plan.identification if plan.identification in missing else None)


def show(display: Display, name: str, event: Started | Advanced | EpochEnded | Note) -> None:
    """Tell a display how a cell, by its name, goes."""
    if isinstance(event, Started):
        display.start_cell(name)
    elif isinstance(event, Advanced):
        display.step(name, event.share, event.what)
    elif isinstance(event, EpochEnded):
        display.epoch(name, event.epoch, event.epochs)
    else:
        display.message(f"{name}: {event.text}")


class _Recorder:
    """Writes what is measured, and shows it."""

    def __init__(self, plan: Plan, display: Display, total: int) -> None:
        self._plan, self._display = plan, display
        self.finished = self.failed = 0
        self._started: dict[str, float] = {}
        display.begin(total)

    def tell(self, key: str, event: Event | Started | Finished | Failed) -> None:
        if isinstance(event, Started):
            self._started[key] = time.perf_counter()
        if isinstance(event, (Started, Advanced, EpochEnded, Note)):
            show(self._display, self._plan.cells[key].name, event)
        else:
            try:
                self._write(key, event)
            except OSError as error:
                text = error.strerror or str(error)
                raise CannotWrite(f"cannot write to {self._plan.out}: {text}; what is finished so far is kept") from error

    def _write(self, key: str, event: Part | Finished | Failed) -> None:
        out, spec = self._plan.out, self._plan.cells[key]
        if isinstance(event, Trained):
            recording.write_trained(out, key, info=event.info, training=event.training, weights=event.weights)
        elif isinstance(event, Attacked):
            recording.write_attacked(out, key, event.attack, info=event.info, reconstructions=event.reconstructions,
                                     images=event.images)
        elif isinstance(event, Identified):
            recording.write_identified(out, key, event.identification, info=event.info, identifications=event.identifications)
        elif isinstance(event, Finished):
            recording.remove_failure(out, key)
            self.finished += 1
            self._display.end_cell(spec.name, f"done in {time.perf_counter() - self._started[key]:.1f} s")
        else:
            recording.write_failure(out, key, {**spec.model_dump(), "error": event.error, "traceback": event.traceback})
            self.failed += 1
            self._display.end_cell(spec.name, f"FAILED: {event.error}")


def _take_models(plan: Plan, folder: Path) -> None:
    """Copy trained models of another run that hold all checkpoints of this one, where they are whole."""
    needed = set(plan.grid.checkpoints())
    for key in plan.cells:
        source = results.cell_folder(folder, key)
        if (source / results.TRAINED).is_dir() and not (results.cell_folder(plan.out, key) / results.TRAINED).exists() \
                and results.TRAINED not in results.damage(source):
            cell, _ = results.find_cell(folder, key, {})
            if cell is not None and needed <= set(cell.trained["checkpoints"]):
                recording.copy_trained(folder, key, plan.out)


def _check_dataset(grid: Grid, name: str, dataset: Dataset) -> None:
    needed = grid.evaluation.victims * grid.evaluation.batch_size
    if needed > len(dataset.train):
        raise InputError(f"dataset {name} has {len(dataset.train)} training images, but evaluation needs {needed} "
                         f"(victims x batch_size)")
    shape = dataset.train.image_shape
    if min(shape[1:]) < SSIM_WINDOW:
        raise InputError(f"dataset {name} has images of {shape[2]}x{shape[1]}; SSIM needs at least {SSIM_WINDOW} pixels a side")
    for model in grid.models:
        models.check(model, shape, len(dataset.classes))


def _claim(out: Path, manifest: dict[str, Any]) -> FileLock:
    """Make the run folder, or check that it holds the same grid and note what was added; returns its lock, taken."""
    try:
        new = not (out / "run.json").exists()
        if new and out.exists() and (
                not out.is_dir() or set(out.iterdir()) - {out / run_lock.NAME, *recording.drafts(out)}):
            raise InputError(f"the output folder {out} exists and is not a run of leakboard; name another with --out")
        out.mkdir(parents=True, exist_ok=True)
        held = run_lock.lock(out)
        try:
            existing = results.read_manifest(out) if (out / "run.json").exists() else None
            if existing is not None:
                _require_continuation(out, existing, manifest)
            recording.remove_drafts(out)
            if existing is None or any(existing.get(added) != manifest[added] for added in ("attacks", "identification")):
                recording.write_atomically(out / "run.json", json.dumps(manifest, indent=1))
            (out / "cells").mkdir(exist_ok=True)  # behind run.json, without which a folder is no run
        except BaseException:
            held.release()
            raise
        return held
    except OSError as error:
        raise InputError(f"cannot write the output folder {out}: {error.strerror or error}") from error


def _require_continuation(out: Path, existing: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a grid that is not that of the folder. It may have further attacks, also of further plugins, and identification."""
    given = wanted["grid"]["attacks"]
    gone = [attack for attack in existing["attacks"].values() if attack not in given]
    if gone:
        raise InputError(f"the output folder {out} was made by another grid: it has the attack {gone[0]}, which this one lacks; "
                         "attacks can be added to a run, not taken away: name it too, or another folder with --out")
    there, now = existing["determinants"], wanted["determinants"]
    if isinstance(there.get("plugins"), dict):
        now = {**now, "plugins": {name: now["plugins"].get(name) for name in there["plugins"]}}
    # Data sets are compared by name and fingerprint: where they lie may change.
    before, after = ({**recorded(of["grid"]), "attacks": None, "datasets": list(of["determinants"].get("fingerprints") or ())}
                     for of in (existing, wanted))
    evaluation, asked = before.get("evaluation"), after["evaluation"]["candidates"]
    if isinstance(evaluation, dict):
        if (candidates := evaluation["candidates"]) not in (0, asked):
            raise InputError(f"the output folder {out} was made by another grid: evaluation.candidates was {candidates!r} "
                             f"there and is {asked} now; identification can be added to a run, not changed or taken away: give "
                             f"--candidates {candidates!r}, or name another folder with --out")
        before["evaluation"] = {**evaluation, "candidates": asked}
    _require_same(out, before, after, "grid")
    _require_same(out, there, now, "determinants")


def _require_same(out: Path, existing: dict[str, Any], wanted: dict[str, Any], section: str) -> None:
    for key in sorted(existing.keys() | wanted.keys()):
        if existing.get(key) != wanted.get(key):
            raise InputError(f"the output folder {out} was made by another grid: {section} {key} was {existing.get(key)!r} "
                             f"there and is {wanted.get(key)!r} now; name another folder with --out")
