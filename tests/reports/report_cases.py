"""Runs made by hand, for the tests of reports."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from benchmark.specification import AS_TRAINED, SINGLE, TrialSpec
from benchmark.store import recording, results
from benchmark.store.layout import images_key
from benchmark.store.trials import Tried, best

ATTACK = "inverting-gradients(iterations=1)"
KNOWN = ("blind", "informed")


def write_run(folder: Path, accuracies: dict[tuple[str, int], list[float]], ssims: dict[tuple[str, int], list[float]], *,
              epochs: int = 2, missing: tuple[tuple[str, int], ...] = (), knowledge: str = "both", attack: str = ATTACK,
              dataset: str = "digits", candidates: int = 0, trials: dict[str, list[tuple]] | None = None, **more) -> Path:
    """A run of one data set and model, of single images unless ``more`` says otherwise; accuracies per epoch and SSIM per victim for each
    (defense, seed), and trials by defense, as :func:`write_cells` has them. Where there are candidates, victims have the ranks 1 and 2
    and a guarantee."""
    ranks = {"better": [0, 1], "mu": [2.0, 2.0], "label_share": [1.0, 0.5]}
    cells = {
        (dataset, "lenet", defense, seed): {
            "accuracies": values, "attacks": {(0, attack, knowledge): ssims.get((defense, seed), [])},
            "identifications": {(0, "both"): ranks}, "unidentified": [(1, "blind", "not finite")]}
        for (defense, seed), values in accuracies.items() if (defense, seed) not in missing}
    return write_cells(folder, cells, epochs=epochs, attacks=[attack], victims=2, candidates=candidates,
                       trials={(dataset, "lenet", defense): tried for defense, tried in (trials or {}).items()},
                       failed=[(dataset, "lenet", *cell) for cell in missing], **more)


def write_cells(folder: Path, cells: dict[tuple[str, str, str, int], dict], *, epochs: int, attacks: list[str], victims: int,
                failed: list[tuple[str, str, str, int]] = [], size: int = 8, known: tuple[str, ...] = KNOWN,  # noqa: B006
                candidates: int = 0, observed: tuple[str, ...] = (SINGLE,), batch_size: int = 64,
                families: list[tuple[str, str | None, list[str]]] | None = None,
                trials: dict[tuple[str, str, str], list[tuple]] | None = None, tuned_epochs: int | None = None) -> Path:
    """A run of cells (data set, model, defense, seed).

    A cell has ``accuracies`` per epoch; ``attacks``: for each (checkpoint, attack, knowledge) either SSIM per image, by which the scores
    then go, or columns per image; ``obstacles`` (checkpoint, attack, knowledge, reason); where they matter, other columns of
    ``training`` per epoch; ``identifications``: for each (checkpoint, knowledge) columns per victim, of which ``better`` must be there;
    ``unidentified`` (checkpoint, knowledge, reason). Behind each of these places may stand the mode; it is else the first one of
    ``observed``. As trained gradients are of ``batch_size`` images, or of what was chosen among the trials.

    ``families`` are (name, parameter, defenses), by default each defense its own; ``trials`` of a (data set, model, defense) are (step
    size, batch size, validation accuracy, loss), all by Adam.
    """
    every = [*cells, *failed]
    specs = {_key(cell, epochs, attacks, victims): dict(zip(("dataset", "model", "defense", "seed"), cell, strict=True)) for cell in every}
    tried = {place: [Tried(TrialSpec(dataset=place[0], model=place[1], defense=place[2], optimizer="adam", learning_rate=step_size,
                                     batch_size=batch), accuracy, loss) for step_size, batch, accuracy, loss in of]
             for place, of in (trials or {}).items()}
    defenses = list(dict.fromkeys(cell[2] for cell in every))
    combinations = [trial.spec for of in tried.values() for trial in of]
    tuning = {"step_sizes": sorted({spec.learning_rate for spec in combinations}), "optimizers": ["adam"], "epochs": tuned_epochs,
              "batch_sizes": sorted({spec.batch_size for spec in combinations}), "validation": 0.1}
    manifest = {
        "format": results.FORMAT, "name": "test",
        "grid": {"training": {"epochs": epochs, "optimizer": "adam", "batch_size": batch_size, "learning_rate": 1e-3, "precision": "float32"},
                 "tuning": tuning if tried else None,
                 "evaluation": {"victims": victims, "observed": list(observed), "images": 1024, "labels": "known", "checkpoints": [0],
                                "rounds": 1, "knowledge": list(known), "candidates": candidates, "public": 2000},
                 "attacks": attacks, "image_size": None},
        "determinants": {"leakboard": "1", "torch": "2", "opacus": "1", "device": "cpu", "plugins": {}, "portfolio": 1,
                         "fingerprints": {cell[0]: hashlib.sha256(cell[0].encode()).hexdigest() for cell in every}},
        "provenance": {"started": "2026-01-01", "hardware": "cpu", "command": "leakboard run", "packages": {"torch": "2"}},
        "families": [dict(zip(("name", "parameter", "defenses"), family, strict=True))
                     for family in families or [(defense, None, [defense]) for defense in defenses]],
        "trials": {_key(spec): spec.model_dump() for spec in combinations},
        "cells": specs,
        "attacks": {_key(attack, mode): {"attack": attack, "observed": mode} for attack in attacks for mode in observed},
        "identifications": {_key(mode): mode for mode in observed} if candidates else {},
        "undefended": "none" if "none" in defenses else None,
    }
    (folder / "cells").mkdir(parents=True)
    recording.write_atomically(folder / "run.json", json.dumps(manifest))
    for trial in (trial for of in tried.values() for trial in of):
        _write_trial(folder, trial, tuned_epochs or epochs)
    generator = np.random.default_rng(0)
    for key, spec in specs.items():
        cell = cells.get(tuple(spec.values()))
        if cell is None:
            recording.write_failure(folder, key, {**spec, "error": "RuntimeError: broken"})
            continue
        chosen = best(tried.get((spec["dataset"], spec["model"], spec["defense"]), []))
        by = chosen.spec.model_dump(include={"optimizer", "learning_rate", "batch_size"}) if chosen else {
            "optimizer": "adam", "learning_rate": 1e-3, "batch_size": batch_size}
        common = {**spec, "defense_params": json.dumps({"strength": 1})}
        training = [{**common, **by, "epoch": epoch, "train_loss": None, "test_accuracy": accuracy, "test_images": 1000, "chance": 0.1,
                     "epsilon": None, "delta": None, "seconds": 1.0 + spec["seed"] * (spec["defense"] != "none"),
                     "step_memory": 1000 if epoch == 1 else None, "sent_bytes": 4000 if epoch == 1 else None, "rounds": 10 * epoch,
                     **{column: values[epoch] for column, values in cell.get("training", {}).items()}}
                    for epoch, accuracy in enumerate(cell["accuracies"])]
        recording.write_trained(folder, key, info={**spec, "checkpoints": [], "seconds": 1.0}, training=training, weights={})
        for mode in observed:
            images = {AS_TRAINED: by["batch_size"], SINGLE: 1}.get(mode) or int(mode)
            place = {"observed": mode, "batch_size": images}
            _write_attacks(folder, key, cell, common | place, attacks, of=lambda place, mode=mode: _mode(place, 3, observed) == mode,
                           victims=victims, size=size, generator=generator)
            if candidates:
                _write_identification(folder, key, cell, common | place, candidates, of=lambda place, mode=mode: _mode(place, 2, observed) == mode)
    return folder


def _write_trial(folder: Path, trial: Tried, epochs: int) -> None:
    spec = trial.spec.model_dump()
    rows = [{**spec, "defense_params": json.dumps({"strength": 1}), "epoch": epoch, "train_loss": None if epoch == 0 else trial.train_loss,
             "validation_accuracy": trial.validation_accuracy if epoch == epochs else 0.1, "epsilon": None, "delta": None, "seconds": 1.0}
            for epoch in range(epochs + 1)]
    recording.write_trial(folder, _key(trial.spec), info={**spec, "seconds": 1.0}, trial=rows)


def _write_attacks(folder, key, cell, common, attacks, *, of, victims, size, generator):
    batch = common["batch_size"]
    given = {place: values if isinstance(values, dict) else {"ssim": values} for place, values in cell["attacks"].items() if of(place)}
    count = max((len(columns["ssim"]) for columns in given.values()), default=0) // batch or victims
    # The same under every defense, as the same victims are observed.
    originals = np.random.default_rng(common["seed"]).integers(0, 255, (min(count, 64), batch, 3, size, size), dtype=np.uint8)
    for label in attacks:
        rebuilt, images = [], {"original": originals}
        for (checkpoint, attack, knowledge, *_), columns in given.items():
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
        obstacles = [dict(zip(("checkpoint_epoch", "attack", "knowledge", "reason"), obstacle, strict=False))
                     for obstacle in cell.get("obstacles", []) if obstacle[1] == label and of((*obstacle[:3], *obstacle[4:]))]
        info = {"attack": label, "observed": common["observed"], "inapplicable": obstacles, "seconds": 2.0}
        recording.write_attacked(folder, key, attack_key(label, common["observed"]), info=info, reconstructions=rebuilt, images=images)


def _write_identification(folder, key, cell, common, candidates, *, of):
    rows = [{**common, "checkpoint_epoch": checkpoint, "knowledge": knowledge, "victim": i, "method": "likelihood", "exact": False,
             "candidates": candidates, "tied": 0, "label_share": None, "mu": None, "seconds": 0.01,
             **{column: values[i] for column, values in columns.items()}}
            for (checkpoint, knowledge, *mode), columns in cell.get("identifications", {}).items() if of((checkpoint, knowledge, *mode))
            for i in range(len(columns["better"]))]
    obstacles = [dict(zip(("checkpoint_epoch", "knowledge", "reason"), obstacle, strict=False)) for obstacle in cell.get("unidentified", [])
                 if of((*obstacle[:2], *obstacle[3:]))]
    info = {"observed": common["observed"], "candidates": candidates, "inapplicable": obstacles, "seconds": 1.0}
    recording.write_identified(folder, key, _key(common["observed"]), info=info, identifications=rows)


def _mode(place: tuple, length: int, observed: tuple[str, ...]) -> str:
    """The mode behind a place of this length."""
    return place[length] if len(place) > length else observed[0]


def attack_key(attack: str, mode: str = SINGLE) -> str:
    return _key(attack, mode)


def _key(*content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:20]


def large_run(folder: Path, datasets: int = 4, models: int = 5, defenses: int = 20, seeds: int = 5, victims: int = 16,
              candidates: int = 1000, observed: tuple[str, ...] = (AS_TRAINED, SINGLE)) -> Path:
    """A run of datasets x models x defenses x seeds cells, tuned, attacked in three ways and identified at two checkpoints, by gradients
    of 8 images and of one."""
    generator = np.random.default_rng(0)
    attacks = ["inverting-gradients(iterations=300)", "analytic"]

    def cell(defended: bool) -> dict:
        knowledge = {name: ["both"] if not defended else ["blind"] if name == "analytic" else list(KNOWN) for name in attacks}
        best = generator.random()
        return {"accuracies": (0.1 + 0.8 * generator.random() * np.linspace(0, 1, 11)).tolist(),
                "attacks": {(epoch, name, known, mode): {"ssim": (best * generator.random(victims)).tolist(), "score": generator.random(victims).tolist()}
                            for mode in observed for epoch in (0, 10) for name in attacks for known in knowledge[name]},
                "identifications": {(epoch, known, mode): {"better": (best * candidates * generator.random(victims) ** 3).astype(int).tolist()}
                                    for mode in observed for epoch in (0, 10) for known in (KNOWN if defended else ("both",))}}

    names = ["none", *(f"noise(std={strength / 1000})" for strength in range(1, defenses))]
    cells = {(f"data{d}", f"model{m}", name, seed): cell(name != "none")
             for d in range(datasets) for m in range(models) for name in names for seed in range(seeds)}
    trials = {place: [(step_size, 8, generator.random(), 0.5) for step_size in (1e-3, 1e-2)] for place in dict.fromkeys(key[:3] for key in cells)}
    return write_cells(folder, cells, epochs=10, attacks=attacks, victims=victims, size=32, candidates=candidates, observed=observed, trials=trials,
                       families=[("none", None, ["none"]), *([("noise(std)", "std", names[1:])] if defenses > 1 else [])])
