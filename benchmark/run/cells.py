"""The trials and cells of a grid, and what identifies a trained model and an attack on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch

import attacks
import defenses
from attacks.portfolio import VERSION
from benchmark import models
from benchmark.config import Grid
from benchmark.measure.environment import versions
from benchmark.plugins import Plugin
from benchmark.specification import AttackSpec, CellSpec, TrialSpec
from benchmark.store import results


def determinants(device: torch.device, fingerprints: dict[str, str], plugins: Sequence[Plugin]) -> dict[str, Any]:
    """What results depend on beside the grid. Another version or type of device may round differently."""
    return {
        **versions(), "device": device.type,
        "plugins": {plugin.name: plugin.digest for plugin in plugins}, "portfolio": VERSION, "fingerprints": fingerprints,
    }


def cells_of(grid: Grid, depends_on: dict[str, Any], plugins: Sequence[Plugin]) -> dict[str, CellSpec]:
    """The cells by their keys. A key is a hash of all that determines the trained model, and nothing of how it is attacked: attacks
    that are added later find the model by it, also in the folder of another run."""
    specs = [CellSpec(dataset=d, model=m, defense=p, seed=s)
             for d in depends_on["fingerprints"] for m in grid.models for p in grid.points for s in grid.seeds]
    training, tuning = grid.training.model_dump(), None if grid.tuning is None else grid.tuning.model_dump()
    alike = _Alike(grid, depends_on, plugins)
    return {_hash([*alike.of_training(spec), training, tuning]): spec for spec in specs}


def trials_of(grid: Grid, depends_on: dict[str, Any], plugins: Sequence[Plugin]) -> dict[str, TrialSpec]:
    """The trials by their keys, which are hashes of all that determines what they come to."""
    if grid.tuning is None:
        return {}
    specs = [TrialSpec(dataset=d, model=m, defense=p, optimizer=optimizer, learning_rate=step, batch_size=batch)
             for d in depends_on["fingerprints"] for m in grid.models for p in grid.points
             for optimizer, step, batch in grid.tuning.combinations()]
    training = grid.training.model_dump(include={"epochs", "precision", "client"})
    how = [grid.tuning.validation, grid.trial_epochs, training]
    alike = _Alike(grid, depends_on, plugins)
    return {_hash(["trial", *alike.of_training(spec), *how]): spec for spec in specs}


def attacks_of(grid: Grid, plugins: Sequence[Plugin]) -> dict[str, AttackSpec]:
    """The grid's attacks, on gradients of so many images each, by their keys: hashes of all that determines the outcome on a given
    model."""
    # Without LPIPS it determines nothing, as before there was any.
    evaluation = grid.evaluation.model_dump(
        exclude={"candidates", "observed", "attack_seeds", *(() if grid.evaluation.lpips else ("lpips",))})
    return {
        _hash([results.FORMAT, VERSION, attack.label, mode, evaluation, _digests([attack, *attack.members()], plugins)]):
            AttackSpec(attack=attack.label, observed=mode, seeds=grid.evaluation.attack_seeds)
        for mode in grid.evaluation.observed for attack in map(attacks.create, grid.attacks)
    }


def identifications_of(grid: Grid) -> dict[str, str]:
    """Of how many images the gradients are in which victims are identified, by the keys of the identifications: hashes of all that
    determines the outcome on a given model. None where it is off."""
    if not grid.evaluation.candidates:
        return {}
    evaluation = grid.evaluation.model_dump(exclude={"images", "observed", "attack_seeds", "lpips"})
    return {_hash([results.FORMAT, VERSION, "identification", mode, evaluation]): mode for mode in grid.evaluation.observed}


class _Alike:
    """What determines any training of a model under a defense; what trainings of a grid have alike is found once."""

    def __init__(self, grid: Grid, depends_on: dict[str, Any], plugins: Sequence[Plugin]) -> None:
        self._environment = {name: depends_on[name] for name in (*versions(), "device")}
        self._fingerprints, self._image_size = depends_on["fingerprints"], grid.image_size
        self._digests = {(model, point): _digests([created, *defenses.create(point).parts], plugins)
                         for model in grid.models for created in [models.create(model)] for point in grid.points}

    def of_training(self, spec: CellSpec | TrialSpec) -> list[Any]:
        return [results.FORMAT, self._environment, self._fingerprints[spec.dataset], spec.model_dump(), self._image_size,
                self._digests[spec.model, spec.defense]]


def _digests(of: Any, plugins: Sequence[Plugin]) -> list[str]:
    """Of the objects that come from plugins, the hashes of their files. What a data set's file gives is in its fingerprint."""
    modules = {part.__module__ for part in of}
    return sorted(plugin.digest for plugin in plugins if plugin.module in modules)


def _hash(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
