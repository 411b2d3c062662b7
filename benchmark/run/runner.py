"""Running a grid: every defense is tuned, and every cell is trained, observed, attacked and written, once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

import defenses
from benchmark import models
from benchmark.config import Grid
from benchmark.data.datasets import Dataset, DatasetSource, find, load
from benchmark.errors import InputError
from benchmark.executors import Executor, Serial
from benchmark.measure import perceptual
from benchmark.measure.metrics import SSIM_WINDOW
from benchmark.measure.victims import most_public
from benchmark.measure.work import Todo, TrialWork, Work
from benchmark.plugins import Plugin
from benchmark.run import tuning
from benchmark.run.cells import attacks_of, cells_of, determinants, identifications_of, trials_of
from benchmark.run.folder import claim
from benchmark.run.progress import Display
from benchmark.run.provenance import provenance
from benchmark.run.recorder import Recorder
from benchmark.specification import AttackSpec, CellSpec, TrialSpec, attacks_on
from benchmark.store import layout, recording, results
from benchmark.store.result_files import TrainedPart, read_checkpoint, read_part


@dataclass(frozen=True)
class Cells:
    """A checked grid with its data sets loaded. ``depends_on`` is what a result depends on beside the grid; by their keys there are
    the ``trials``, the ``cells``, and the ``attacks`` and ``identifications`` that each cell is measured with."""

    grid: Grid
    device: torch.device
    datasets: dict[str, Dataset]
    plugins: tuple[Plugin, ...]
    depends_on: dict[str, Any]
    trials: dict[str, TrialSpec]
    cells: dict[str, CellSpec]
    attacks: dict[str, AttackSpec]
    identifications: dict[str, str]


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
    return Cells(grid, device, datasets, tuple(plugins), depends_on, trials_of(grid, depends_on, plugins),
                 cells_of(grid, depends_on, plugins), attacks_of(grid, plugins), identifications_of(grid))


def prepare(grid: Grid, out: Path, device: torch.device, *, data_root: Path | None = None, plugins: Sequence[Plugin] = (),
            load_on: torch.device | None = None, command: str = "", models_from: Sequence[Path] = (),
            results_from: Sequence[Path] = ()) -> Plan:
    """As :func:`identify`, and claim the output folder for this grid.

    Args:
        grid: what to run.
        out: the run folder; made, or continued where it holds the same grid, which may have got further attacks, further numbers of
            images behind a gradient, or identification.
        device: where to compute.
        data_root: see :func:`benchmark.data.datasets.find`.
        plugins: that were loaded.
        load_on: see :func:`identify`.
        command: as given, for the record.
        models_from: folders of other runs, whose trials and trained models are taken where they are those of this grid.
        results_from: as ``models_from``; and with a model what was measured on it is taken, where this grid has it.

    Raises:
        InputError: a model or data set cannot be used, the folder belongs to another grid, or another run is working in it.
    """
    found = identify(grid, device, data_root=data_root, plugins=plugins, load_on=load_on)
    for folder in (*models_from, *results_from):
        results.read_manifest(folder)
    manifest = {
        "format": results.FORMAT, "name": grid.name, "grid": grid.model_dump(mode="json"), "determinants": found.depends_on,
        "families": [family.model_dump() for family in grid.families],
        **{kind: {key: spec.model_dump() for key, spec in getattr(found, kind).items()} for kind in ("trials", "cells", "attacks")},
        "identifications": found.identifications,
        "undefended": next((label for label in grid.points if defenses.create(label).plain), None),
        "provenance": provenance(command, device),
    }
    plan = Plan(**found.__dict__, out=out, lock=claim(out, json.loads(json.dumps(manifest))))
    try:
        for folder in results_from:
            _take(plan, folder, measured=True)
        for folder in models_from:
            _take(plan, folder)
    except BaseException as error:
        plan.lock.release()
        if isinstance(error, OSError):
            raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
        raise
    return plan


def run(plan: Plan, display: Display, executor: Executor | None = None) -> Outcome:
    """Run what is not done, by default one after another in this process: trials, and then cells. One that fails is recorded and
    does not stop the others; what is damaged on disk is set aside and measured again."""
    executor = executor or Serial()
    try:
        for folder in (*(layout.trial_folder(plan.out, key) for key in plan.trials),
                       *(layout.cell_folder(plan.out, key) for key in plan.cells)):
            for part, problem in results.damage(folder).items():
                display.message(f"{problem}; it was moved to {recording.set_aside(plan.out, folder, part)}")
        found = {key: _found(plan, key) for key in plan.cells}
        todo = [key for key, (cell, missing) in found.items() if cell is None or missing]
        if kept := len(found) - len(todo):
            display.message(f"{plan.out}: {kept} of {len(found)} cells are done already and kept")
        trials = [key for key in plan.trials if results.find_trial(plan.out, key) is None]
        if trials:
            display.message(f"tuning: {len(trials)} trials; then each defense is trained on all images as in its best one")
            _executed(plan, display, executor, trials, lambda key: _trial(plan, key))
        tried = tuning.by_defense(plan.trials)
        recorder = _executed(plan, display, executor, todo, lambda key: _work(plan, key, tried))
        return Outcome(kept, recorder.finished, recorder.failed)
    finally:
        plan.lock.release()


def _executed(plan: Plan, display: Display, executor: Executor, todo: list[str], work: Callable[[str], Todo]) -> Recorder:
    recorder = Recorder(plan.out, {**plan.trials, **plan.cells}, display, len(todo))
    if todo:
        executor.run(todo, work, plan.datasets, plan.device, plan.plugins, recorder.tell)
    return recorder


def _found(plan: Plan, key: str) -> tuple[results.Cell | None, list[str]]:
    return results.find_cell(plan.out, key, attacks_on(plan.cells[key], plan.attacks), plan.identifications)


def _trial(plan: Plan, key: str) -> TrialWork:
    grid, spec = plan.grid, plan.trials[key]
    assert grid.tuning is not None
    return TrialWork(spec, tuning.training_of(spec, grid.training), grid.tuning.validation, grid.trial_epochs)


def _work(plan: Plan, key: str, tried: tuning.ByDefense) -> Work:
    """What is left to be done of a cell."""
    grid, spec = plan.grid, plan.cells[key]
    points = grid.checkpoints()
    cell, missing = _found(plan, key)
    weights = None if cell is None else {epoch: read_checkpoint(layout.checkpoint_path(cell.folder, epoch)) for epoch in points}
    training = tuning.training_for(plan.out, tried.get(tuning.place(spec), {}), spec, grid, cell)
    return Work(spec, training, grid.evaluation, points, weights,
                {attack: of for attack, of in plan.attacks.items() if attack in missing},
                {identification: mode for identification, mode in plan.identifications.items() if identification in missing})


def _take(plan: Plan, folder: Path, *, measured: bool = False) -> None:
    """Copy trials, and trained models that hold all checkpoints of this run, of another run, where they are whole; and what was
    ``measured`` on these models."""
    needed = set(plan.grid.checkpoints())
    for key in plan.trials:
        source = layout.trial_folder(folder, key)
        if source.is_dir() and not layout.trial_folder(plan.out, key).exists() and not results.damage(source):
            recording.copy_trial(folder, key, plan.out)
    for key, spec in plan.cells.items():
        source = layout.cell_folder(folder, key)
        if not (source / layout.TRAINED).is_dir() or (layout.cell_folder(plan.out, key) / layout.TRAINED).exists():
            continue
        damaged = results.damage(source)
        if layout.TRAINED in damaged or not needed <= set(read_part(source / layout.TRAINED, TrainedPart)["checkpoints"]):
            continue
        taken = [layout.TRAINED]
        if measured:
            taken += map(layout.attack_folder, attacks_on(spec, plan.attacks))
            taken += map(layout.identification_folder, plan.identifications)
        for part in taken:
            if part not in damaged and (source / part).is_dir():
                recording.copy_part(folder, key, part, plan.out)


def _check_dataset(grid: Grid, name: str, dataset: Dataset) -> None:
    images, victims = len(dataset.train), grid.evaluation.victims
    if victims > images:
        raise InputError(f"dataset {name} has {images} training images, but evaluation.victims is {victims}")
    if grid.tuning is not None and dataset.train.labels.bincount().max() < 2:
        raise InputError(f"dataset {name} has one training image of each class, so that none can be kept apart to tune by (tuning)")
    client, summed = grid.training.client, max(defenses.create(label).summed for label in grid.points)
    if client is not None:
        # Of the images that trials keep apart by class, there are at most so many less.
        left = images if grid.tuning is None else len(dataset.without_test(grid.tuning.validation).train)
        try:
            client.check_participants(max(client.participants, summed), left)
        except ValueError as error:
            raise InputError(f"dataset {name}: {error}") from error
    trained = [grid.training.observed_images] if client is not None or grid.tuning is None else grid.tuning.batch_sizes
    largest = summed * max(grid.evaluation.images_of(mode, batch) for mode in grid.evaluation.observed for batch in trained)
    private = images - most_public(grid.evaluation, images - victims)
    if largest > 1 and largest > private:
        raise InputError(f"dataset {name} has {images} training images, of which {images - private} are public: gradients of "
                         f"{largest} images cannot be observed (evaluation.observed)")
    shape = dataset.train.image_shape
    if grid.evaluation.lpips:
        perceptual.require(name, shape)
    if min(shape[1:]) < SSIM_WINDOW:
        raise InputError(f"dataset {name} has images of {shape[2]}x{shape[1]}; SSIM needs at least {SSIM_WINDOW} pixels a side")
    for model in grid.models:
        models.check(model, shape, len(dataset.classes))
