"""The cells of a grid, and what identifies a trained model and an attack on it."""

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
from benchmark.specification import CellSpec
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
    names = depends_on["fingerprints"]  # of the data sets, which the grid may give as paths
    specs = [CellSpec(dataset=d, model=m, defense=p, seed=s)
             for d in names for m in grid.models for p in grid.defenses for s in grid.seeds]
    environment = {name: depends_on[name] for name in (*versions(), "device")}
    return {
        _hash([results.FORMAT, environment, depends_on["fingerprints"][spec.dataset], spec.model_dump(), grid.image_size,
               grid.training.model_dump(),
               _digests([models.create(spec.model), *defenses.create(spec.defense).parts], plugins)]): spec
        for spec in specs
    }


def attacks_of(grid: Grid, plugins: Sequence[Plugin]) -> dict[str, str]:
    """The specifications of the grid's attacks by their keys: hashes of all that determines the outcome on a given model."""
    evaluation = grid.evaluation.model_dump(exclude={"candidates"})
    return {
        _hash([results.FORMAT, VERSION, attack.label, evaluation, _digests([attack], plugins)]): attack.label
        for attack in map(attacks.create, grid.attacks)
    }


def identification_of(grid: Grid) -> str | None:
    """The key of the grid's identification: a hash of all that determines the outcome on a given model. None where it is off."""
    if not grid.evaluation.candidates:
        return None
    return _hash([results.FORMAT, VERSION, "identification", grid.evaluation.model_dump()])


def _digests(of: Any, plugins: Sequence[Plugin]) -> list[str]:
    """Of the objects that come from plugins, the hashes of their files. What a data set's file gives is in its fingerprint."""
    modules = {part.__module__ for part in of}
    return sorted(plugin.digest for plugin in plugins if plugin.module in modules)


def _hash(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
