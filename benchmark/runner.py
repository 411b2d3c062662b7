"""Running a grid: every cell is trained, observed, attacked and written, once."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import save

import attacks
import defenses
from attacks import Progress, portfolio
from attacks.seeds import derive
from benchmark import models, results, run_lock
from benchmark.config import Grid
from benchmark.datasets import Dataset, find, load
from benchmark.errors import InputError
from benchmark.evaluation import attack_rows, choose_victims, observe
from benchmark.metrics import SSIM_WINDOW
from benchmark.progress import Display
from benchmark.training import make_private, train


@dataclass(frozen=True)
class CellSpec:
    """One cell of a grid: what is trained under which defense, from which seed."""

    dataset: str
    model: str
    defense: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset} / {self.model} / {self.defense} / seed {self.seed}"


@dataclass(frozen=True)
class Cells:
    """A checked grid with its data sets loaded. ``cells`` maps each cell's key to the cell; ``determinants`` is what a result
    depends on beside its cell."""

    grid: Grid
    device: torch.device
    datasets: dict[str, Dataset]
    determinants: dict[str, Any]
    cells: dict[str, CellSpec]


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


def identify(grid: Grid, device: torch.device, *, data_root: Path | None = None, plugins: dict[str, str] | None = None) -> Cells:
    """Check everything that can be checked before work starts, and name the cells. Writes nothing.

    Args:
        grid: what to run.
        device: where to compute.
        data_root: see :func:`benchmark.datasets.find`.
        plugins: name of each plugin file and the hash of its content.

    Raises:
        InputError: a model or data set cannot be used.
    """
    for name in grid.models:
        models.check_name(name)
    sources = {name: find(name, data_root, grid.image_size) for name in grid.datasets}
    datasets = {name: load(source, device) for name, source in sources.items()}
    for name, dataset in datasets.items():
        _check_dataset(grid, name, dataset)
    # Another version or device type may round differently.
    determinants = {
        "leakboard": version("leakboard"), "torch": torch.__version__, "opacus": version("opacus"), "device": device.type,
        "plugins": plugins or {}, "portfolio": _portfolio(),
        "fingerprints": {name: dataset.fingerprint for name, dataset in datasets.items()},
    }
    specs = [CellSpec(d, m, p, s) for d in grid.datasets for m in grid.models for p in grid.defenses for s in grid.seeds]
    return Cells(grid, device, datasets, determinants, {_key(grid, determinants, spec): spec for spec in specs})


def prepare(grid: Grid, out: Path, device: torch.device, *, data_root: Path | None = None, plugins: dict[str, str] | None = None,
            command: str = "") -> Plan:
    """As :func:`identify`, and claim the output folder for this grid.

    Args:
        grid: what to run.
        out: the run folder; made, or continued where it holds the same grid.
        device: where to compute.
        data_root: see :func:`benchmark.datasets.find`.
        plugins: name of each plugin file and the hash of its content.
        command: as given, for the record.

    Raises:
        InputError: a model or data set cannot be used, the folder belongs to another grid, or another run is working in it.
    """
    found = identify(grid, device, data_root=data_root, plugins=plugins)
    manifest = {
        "format": results.FORMAT, "name": grid.name, "grid": grid.model_dump(mode="json"), "determinants": found.determinants,
        "cells": {key: spec.__dict__ for key, spec in found.cells.items()}, "provenance": _provenance(command, device),
    }
    return Plan(**found.__dict__, out=out, lock=_claim(out, manifest))


def run(plan: Plan, display: Display) -> Outcome:
    """Run the cells that are not done. A cell that fails is recorded and does not stop the others; one that is damaged on disk is
    set aside and run again."""
    try:
        return _run(plan, display)
    finally:
        plan.lock.release()


def _run(plan: Plan, display: Display) -> Outcome:
    kept = []
    for key in [key for key in plan.cells if results.is_done(plan.out, key)]:
        problem = results.damage(plan.out, key)
        if problem is None:
            kept.append(key)
        else:
            display.message(f"{problem}; the cell was moved to {results.set_aside(plan.out, key)} and is run again")
    finished = failed = 0
    if kept:
        display.message(f"{plan.out}: {len(kept)} of {len(plan.cells)} cells are done already and kept")
    todo = {key: spec for key, spec in plan.cells.items() if key not in kept}
    for number, (key, spec) in enumerate(todo.items(), start=1):
        display.start_cell(number, len(todo), spec.name)
        started = time.perf_counter()
        try:
            content = _measure(plan, spec, display)
        except Exception as error:  # whatever a defense, model or attack raises, the other cells go on
            failed += 1
            reason = " ".join(str(error).split()) or "no text"
            results.write_failure(plan.out, key, {
                **spec.__dict__, "error": f"{type(error).__name__}: {reason}", "traceback": traceback.format_exc()})
            display.end_cell(f"FAILED: {type(error).__name__}: {reason}")
            continue
        content["info"]["seconds"] = time.perf_counter() - started
        try:
            results.write_cell(plan.out, key, **content)
        except OSError as error:
            text = error.strerror or str(error)
            raise InputError(f"cannot write to {plan.out}: {text}; the cells finished so far are kept") from error
        finished += 1
        display.end_cell(f"done in {time.perf_counter() - started:.1f} s")
    return Outcome(len(kept), finished, failed)


def _measure(plan: Plan, spec: CellSpec, display: Display) -> dict[str, Any]:
    """Train the cell's model, and attack it at the checkpoints; the content of :func:`results.write_cell`."""
    grid, dataset = plan.grid, plan.datasets[spec.dataset]
    defense = defenses.create(spec.defense)
    # An attack that runs others comes first: what it measured is not run again.
    chosen = sorted(map(attacks.create, grid.attacks), key=lambda attack: attack.tier != "worst case")
    epochs, points = grid.training.epochs, grid.checkpoints()
    victims = choose_victims(dataset, grid.evaluation, spec.seed)
    private = make_private(defense, dataset, spec.model, grid.training, spec.seed)
    columns = {"dataset": spec.dataset, "model": spec.model, "defense": spec.defense,
               "defense_params": json.dumps(defense.parameters()), "seed": spec.seed}
    training: list[dict[str, Any]] = []
    rebuilt: list[dict[str, Any]] = []
    inapplicable: list[dict[str, Any]] = []
    images: dict[str, np.ndarray] = {"original": _uint8(victims.pixels)}
    checkpoints: dict[int, bytes] = {}
    share = _Share(display, epochs + len(points) * len(chosen))
    forward = derive(spec.seed, spec.dataset, spec.model, spec.defense)
    steps = share.reporter("training")
    for epoch in train(private, dataset, epochs, forward, on_step=steps):
        training.append({**columns, **epoch.__dict__})
        share.done += epoch.epoch > 0
        display.epoch(epoch, epochs)
        if epoch.epoch not in points:
            continue
        checkpoints[epoch.epoch] = save({name: t.contiguous() for name, t in private.module.state_dict().items()})
        observation = observe(private, victims, dataset, grid.evaluation, derive(forward, "observe", epoch.epoch))
        measured: set[str] = set()
        for attack in chosen:
            obstacle = attack.obstacle(observation)
            if attack.label in measured:
                pass
            elif obstacle is not None:
                inapplicable.append({"checkpoint_epoch": epoch.epoch, "attack": attack.label, "reason": obstacle})
            else:
                seed = derive(spec.seed, spec.dataset, spec.model, "attack", epoch.epoch)
                rows, ordered = attack_rows(attack, observation, victims, seed, share.reporter(attack.name))
                rebuilt += [{**columns, "checkpoint_epoch": epoch.epoch, **row} for row in rows if row["attack"] not in measured]
                images |= {results.images_key(epoch.epoch, name): _uint8(pixels) for name, pixels in ordered.items()}
                measured |= ordered.keys()
            share.done += 1
    info = {**spec.__dict__, "epochs": epochs, "checkpoints": list(points), "inapplicable": inapplicable,
            "labels": grid.evaluation.labels, "classes": list(dataset.classes)}
    return {"info": info, "training": training, "reconstructions": rebuilt, "images": images, "checkpoints": checkpoints}


class _Share:
    """How much of a cell is done. Its parts are epochs and attacks; the display takes each for the same share."""

    def __init__(self, display: Display, parts: int) -> None:
        self._display, self._parts, self.done = display, max(parts, 1), 0

    def reporter(self, what: str) -> Progress:
        """A callback for the steps of one part."""
        return lambda step, total: self._display.step((self.done + step / total) / self._parts, f"{what} {step}/{total}")


def _uint8(pixels: np.ndarray) -> np.ndarray:
    return np.round(pixels * 255).astype(np.uint8)


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


def _portfolio() -> dict[str, Any]:
    """Which attacks ``worst-case`` runs: the version of the portfolio, and attacks of plugins, which take part."""
    own = [cls.name for cls in attacks.registry if not cls.__module__.startswith("attacks.")]
    return {"version": portfolio.VERSION, "added": sorted(own)}


def _key(grid: Grid, determinants: dict[str, Any], spec: CellSpec) -> str:
    """A hash of all that determines the content of a cell."""
    own = {key: value for key, value in determinants.items() if key != "fingerprints"}
    content = [results.FORMAT, own, determinants["fingerprints"][spec.dataset], spec.__dict__, grid.image_size, grid.attacks,
               grid.training.model_dump(), grid.evaluation.model_dump()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def _claim(out: Path, manifest: dict[str, Any]) -> FileLock:
    """Make the run folder, or check that it holds the same grid; returns its lock, taken."""
    try:
        new = not (out / "run.json").exists()
        if new and out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {run_lock.NAME}):
            raise InputError(f"the output folder {out} exists and is not a run of leakboard; name another with --out")
        out.mkdir(parents=True, exist_ok=True)
        held = run_lock.lock(out)
        try:
            if (out / "run.json").exists():
                existing = results.read_manifest(out)
                for section in ("grid", "determinants"):
                    _require_same(out, existing.get(section), manifest[section], section)
                for draft in (out / "cells").glob(".*"):  # left by a run that was killed while it wrote a cell
                    shutil.rmtree(draft, ignore_errors=True)
            else:
                (out / "cells").mkdir(exist_ok=True)
                results.write_atomically(out / "run.json", json.dumps(manifest, indent=1))
        except BaseException:
            held.release()
            raise
        return held
    except OSError as error:
        raise InputError(f"cannot write the output folder {out}: {error.strerror or error}") from error


def _require_same(out: Path, existing: Any, wanted: dict[str, Any], section: str) -> None:
    existing = existing if isinstance(existing, dict) else {}
    for key in sorted(existing.keys() | wanted.keys()):
        if existing.get(key) != json.loads(json.dumps(wanted.get(key))):
            raise InputError(f"the output folder {out} was made by another grid: {section} {key} was {existing.get(key)!r} "
                             f"there and is {wanted.get(key)!r} now; name another folder with --out")


def _provenance(command: str, device: torch.device) -> dict[str, Any]:
    packages = ("torch", "torchvision", "opacus", "numpy", "scikit-image", "pandas")
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": command,
        "python": sys.version.split()[0], "packages": {name: version(name) for name in packages},
        "platform": platform.platform(), "hardware": hardware, "threads": torch.get_num_threads(), "revision": _revision(),
    }


def _revision() -> str | None:
    """The git revision of this code, where it runs from a checkout."""
    file = Path(__file__).resolve()

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(file.parent), *arguments], capture_output=True, text=True, timeout=10)

    try:
        # An installed copy can lie within a checkout of something else.
        if git("ls-files", "--error-unmatch", file.name).returncode != 0:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40").stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None
