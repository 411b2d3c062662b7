"""Runs made by hand, for the tests of reports."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from benchmark import recording, results
from benchmark.results import images_key

ATTACK = "inverting-gradients(iterations=1)"


def write_run(folder: Path, accuracies: dict[tuple[str, int], list[float]], ssims: dict[tuple[str, int], list[float]], *,
              epochs: int = 2, missing: tuple[tuple[str, int], ...] = (), tier: str = "static", attack: str = ATTACK,
              dataset: str = "digits") -> Path:
    """A run of one data set and model; accuracies per epoch and SSIM per victim for each (defense, seed)."""
    cells = {
        (dataset, "lenet", defense, seed): {
            "accuracies": values, "attacks": {(0, attack, tier): ssims.get((defense, seed), [])}}
        for (defense, seed), values in accuracies.items() if (defense, seed) not in missing}
    return write_cells(folder, cells, epochs=epochs, attacks=[attack], victims=2,
                       failed=[(dataset, "lenet", *cell) for cell in missing])


def write_cells(folder: Path, cells: dict[tuple[str, str, str, int], dict], *, epochs: int, attacks: list[str], victims: int,
                failed: list[tuple[str, str, str, int]] = [], size: int = 8) -> Path:  # noqa: B006
    """A run of cells (data set, model, defense, seed): ``accuracies`` per epoch, SSIM per victim by (checkpoint, attack, tier), and,
    where they matter, other columns of ``training`` per epoch."""
    specs = {}
    for cell in [*cells, *failed]:
        key = hashlib.sha256(repr((cell, epochs, attacks, victims)).encode()).hexdigest()[:20]
        specs[key] = dict(zip(("dataset", "model", "defense", "seed"), cell, strict=True))
    datasets = {spec["dataset"] for spec in specs.values()}
    manifest = {
        "format": results.FORMAT, "name": "test",
        "grid": {"training": {"epochs": epochs, "batch_size": 64, "learning_rate": 1e-3},
                 "evaluation": {"victims": victims, "batch_size": 1, "labels": "known", "checkpoints": [0], "rounds": 1},
                 "attacks": attacks, "image_size": None},
        "determinants": {"leakboard": "1", "torch": "2", "opacus": "1", "device": "cpu", "plugins": {}, "portfolio": {"version": 1, "added": []},
                         "fingerprints": {name: hashlib.sha256(name.encode()).hexdigest() for name in datasets}},
        "provenance": {"started": "2026-01-01", "hardware": "cpu", "command": "leakboard run", "packages": {"torch": "2"}},
        "cells": specs,
        "attacks": {attack_key(attack): attack for attack in attacks},
    }
    (folder / "cells").mkdir(parents=True)
    recording.write_atomically(folder / "run.json", json.dumps(manifest))
    generator = np.random.default_rng(0)
    for key, spec in specs.items():
        cell = cells.get(tuple(spec.values()))
        if cell is None:
            recording.write_failure(folder, key, {**spec, "error": "RuntimeError: broken"})
            continue
        common = {**spec, "defense_params": json.dumps({"strength": 1})}
        training = [{**common, "epoch": epoch, "train_loss": None, "test_accuracy": accuracy, "epsilon": None, "delta": None,
                     "seconds": 1.0 + spec["seed"] * (spec["defense"] != "none"), "step_memory": 1000 if epoch == 1 else None,
                     **{column: values[epoch] for column, values in cell.get("training", {}).items()}}
                    for epoch, accuracy in enumerate(cell["accuracies"])]
        recording.write_trained(folder, key, info={**spec, "checkpoints": [], "seconds": 1.0}, training=training, weights={})
        count = max((len(scores) for scores in cell["attacks"].values()), default=0) or victims
        originals = generator.integers(0, 255, (count, 1, 3, size, size), dtype=np.uint8)
        for label in attacks:
            rebuilt, images = [], {"original": originals}
            for (checkpoint, attack, tier), scores in cell["attacks"].items():
                if attack != label and not (label == attacks[0] and attack not in attacks):  # what the first one runs itself
                    continue
                rebuilt += [{**common, "checkpoint_epoch": checkpoint, "attack": attack, "attack_params": "{}", "tier": tier,
                             "won_by": "a" if tier in ("worst case", "oracle bound") else None, "victim": v, "image": 0,
                             "mse": 0.1, "psnr": 10.0, "ssim": score, "label_correct": None, "cost": 0.5, "seconds": 2.0}
                            for v, score in enumerate(scores)]
                if len(scores):
                    images[images_key(checkpoint, attack)] = generator.integers(0, 255, (len(scores), 1, 3, size, size), dtype=np.uint8)
            info = {"attack": label, "inapplicable": [], "measured": [], "seconds": 2.0}
            recording.write_attacked(folder, key, attack_key(label), info=info, reconstructions=rebuilt, images=images)
    return folder


def attack_key(attack: str) -> str:
    return hashlib.sha256(attack.encode()).hexdigest()[:20]


def large_run(folder: Path, datasets: int = 4, models: int = 5, defenses: int = 20, seeds: int = 5, victims: int = 16) -> Path:
    """A run of datasets x models x defenses x seeds cells, with three attacks at two checkpoints."""
    generator = np.random.default_rng(0)
    attacks = {"inverting-gradients": "static", "mask-aware": "adaptive", "worst-case": "worst case"}
    cells = {
        (f"data{d}", f"model{m}", "none" if p == 0 else f"noise(std={p / 1000})", seed): {
            "accuracies": (0.1 + 0.8 * generator.random() * np.linspace(0, 1, 11)).tolist(),
            "attacks": {(epoch, attack, tier): generator.random(victims).tolist() for epoch in (0, 10) for attack, tier in attacks.items()}}
        for d in range(datasets) for m in range(models) for p in range(defenses) for seed in range(seeds)}
    return write_cells(folder, cells, epochs=10, attacks=list(attacks), victims=victims, size=32)
