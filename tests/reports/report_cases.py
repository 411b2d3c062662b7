"""Runs made by hand, for the tests of reports."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from benchmark.store import recording, results
from benchmark.store.results import images_key

ATTACK = "inverting-gradients(iterations=1)"
KNOWN = ("blind", "informed")
IDENTIFICATION = "0" * 20


def write_run(folder: Path, accuracies: dict[tuple[str, int], list[float]], ssims: dict[tuple[str, int], list[float]], *,
              epochs: int = 2, missing: tuple[tuple[str, int], ...] = (), knowledge: str = "both", attack: str = ATTACK,
              dataset: str = "digits", known: tuple[str, ...] = KNOWN, candidates: int = 0) -> Path:
    """A run of one data set and model; accuracies per epoch and SSIM per victim for each (defense, seed). Where there are candidates,
    victims have the ranks 1 and 2 and a guarantee."""
    ranks = {"better": [0, 1], "mu": [2.0, 2.0], "label_share": [1.0, 0.5]}
    cells = {
        (dataset, "lenet", defense, seed): {
            "accuracies": values, "attacks": {(0, attack, knowledge): ssims.get((defense, seed), [])},
            "identifications": {(0, "both"): ranks}, "unidentified": [(1, "blind", "not finite")]}
        for (defense, seed), values in accuracies.items() if (defense, seed) not in missing}
    return write_cells(folder, cells, epochs=epochs, attacks=[attack], victims=2, known=known, candidates=candidates,
                       failed=[(dataset, "lenet", *cell) for cell in missing])


def write_cells(folder: Path, cells: dict[tuple[str, str, str, int], dict], *, epochs: int, attacks: list[str], victims: int,
                failed: list[tuple[str, str, str, int]] = [], size: int = 8, batch: int = 1,  # noqa: B006
                known: tuple[str, ...] = KNOWN, candidates: int = 0) -> Path:
    """A run of cells (data set, model, defense, seed): ``accuracies`` per epoch; for each (checkpoint, attack, knowledge) either SSIM
    per image, by which the scores then go, or columns per image; ``obstacles`` (checkpoint, attack, knowledge, reason); and, where
    they matter, other columns of ``training`` per epoch, and ``identifications``: for each (checkpoint, knowledge) columns per victim,
    of which ``better`` must be there; ``unidentified`` (checkpoint, knowledge, reason)."""
    specs = {}
    for cell in [*cells, *failed]:
        key = hashlib.sha256(repr((cell, epochs, attacks, victims)).encode()).hexdigest()[:20]
        specs[key] = dict(zip(("dataset", "model", "defense", "seed"), cell, strict=True))
    datasets = {spec["dataset"] for spec in specs.values()}
    manifest = {
        "format": results.FORMAT, "name": "test",
        "grid": {"training": {"epochs": epochs, "batch_size": 64, "learning_rate": 1e-3},
                 "evaluation": {"victims": victims, "batch_size": batch, "labels": "known", "checkpoints": [0], "rounds": 1,
                                "knowledge": list(known), **({"candidates": candidates} if candidates else {})},
                 "attacks": attacks, "image_size": None},
        "determinants": {"leakboard": "1", "torch": "2", "opacus": "1", "device": "cpu", "plugins": {}, "portfolio": 1,
                         "fingerprints": {name: hashlib.sha256(name.encode()).hexdigest() for name in datasets}},
        "provenance": {"started": "2026-01-01", "hardware": "cpu", "command": "leakboard run", "packages": {"torch": "2"}},
        "cells": specs,
        "attacks": {attack_key(attack): attack for attack in attacks},
        "identification": IDENTIFICATION if candidates else None,
        "undefended": "none" if "none" in {spec["defense"] for spec in specs.values()} else None,
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
        given = {place: values if isinstance(values, dict) else {"ssim": values} for place, values in cell["attacks"].items()}
        count = max((len(columns["ssim"]) for columns in given.values()), default=0) // batch or victims
        originals = generator.integers(0, 255, (count, batch, 3, size, size), dtype=np.uint8)
        for label in attacks:
            rebuilt, images = [], {"original": originals}
            for (checkpoint, attack, knowledge), columns in given.items():
                if attack != label:
                    continue
                place = {"checkpoint_epoch": checkpoint, "attack": attack, "attack_params": "{}", "knowledge": knowledge}
                for i, ssim in enumerate(columns["ssim"]):
                    row = {"mse": 0.1, "psnr": 10.0, "ssim": ssim, "label_correct": None, "cost": 0.5, "score": -ssim,
                           "blind_score": None if knowledge == "informed" else -ssim, "seconds": 2.0}
                    rebuilt.append({**common, **place, "victim": i // batch, "image": i % batch, **row,
                                    **{column: values[i] for column, values in columns.items()}})
                if rebuilt:
                    images[images_key(checkpoint, attack, knowledge)] = generator.integers(0, 255, originals.shape, dtype=np.uint8)
            obstacles = [dict(zip(("checkpoint_epoch", "attack", "knowledge", "reason"), obstacle, strict=True))
                         for obstacle in cell.get("obstacles", []) if obstacle[1] == label]
            info = {"attack": label, "inapplicable": obstacles, "seconds": 2.0}
            recording.write_attacked(folder, key, attack_key(label), info=info, reconstructions=rebuilt, images=images)
        if candidates:
            rows = [{**common, "checkpoint_epoch": checkpoint, "knowledge": knowledge, "victim": i, "method": "likelihood", "exact": False,
                     "candidates": candidates, "tied": 0, "label_share": None, "mu": None, "seconds": 0.01,
                     **{column: values[i] for column, values in columns.items()}}
                    for (checkpoint, knowledge), columns in cell.get("identifications", {}).items() for i in range(len(columns["better"]))]
            obstacles = [dict(zip(("checkpoint_epoch", "knowledge", "reason"), obstacle, strict=True)) for obstacle in cell.get("unidentified", [])]
            info = {"candidates": candidates, "inapplicable": obstacles, "seconds": 1.0}
            recording.write_identified(folder, key, IDENTIFICATION, info=info, identifications=rows)
    return folder


def attack_key(attack: str) -> str:
    return hashlib.sha256(attack.encode()).hexdigest()[:20]


def large_run(folder: Path, datasets: int = 4, models: int = 5, defenses: int = 20, seeds: int = 5, victims: int = 16,
              candidates: int = 1000) -> Path:
    """A run of datasets x models x defenses x seeds cells, attacked in three ways and identified at two checkpoints."""
    generator = np.random.default_rng(0)
    attacks = ["inverting-gradients(iterations=300)", "analytic"]

    def cell(defended: bool) -> dict:
        knowledge = {name: ["both"] if not defended else ["blind"] if name == "analytic" else list(KNOWN) for name in attacks}
        best = generator.random()
        return {"accuracies": (0.1 + 0.8 * generator.random() * np.linspace(0, 1, 11)).tolist(),
                "attacks": {(epoch, name, known): {"ssim": (best * generator.random(victims)).tolist(), "score": generator.random(victims).tolist()}
                            for epoch in (0, 10) for name in attacks for known in knowledge[name]},
                "identifications": {(epoch, known): {"better": (best * candidates * generator.random(victims) ** 3).astype(int).tolist()}
                                    for epoch in (0, 10) for known in (KNOWN if defended else ("both",))}}

    cells = {(f"data{d}", f"model{m}", "none" if p == 0 else f"noise(std={p / 1000})", seed): cell(p > 0)
             for d in range(datasets) for m in range(models) for p in range(defenses) for seed in range(seeds)}
    return write_cells(folder, cells, epochs=10, attacks=attacks, victims=victims, size=32, candidates=candidates)
