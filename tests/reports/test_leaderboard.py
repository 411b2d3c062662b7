"""The leaderboard from tables made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark import results
from benchmark.results import images_key
from reports import text
from reports.leaderboard import build, table

ATTACK = "inverting-gradients(iterations=1)"


def write_run(folder: Path, accuracies: dict[tuple[str, int], list[float]], ssims: dict[tuple[str, int], list[float]], *,
              epochs: int = 2, missing: tuple[tuple[str, int], ...] = (), tier: str = "static", attack: str = ATTACK,
              dataset: str = "digits") -> Path:
    """A run of one data set and model; accuracies per epoch and SSIM per victim for each (defense, seed)."""
    keys = {f"{abs(hash((dataset, cell, epochs, attack))):020x}"[:20]: cell for cell in accuracies}
    (folder / "cells").mkdir(parents=True)
    manifest = {
        "format": results.FORMAT, "name": "test",
        "grid": {"training": {"epochs": epochs, "batch_size": 64, "learning_rate": 1e-3},
                 "evaluation": {"victims": 2, "batch_size": 1, "labels": "known", "checkpoints": [0]}, "attacks": [attack], "image_size": None},
        "determinants": {"torch": "2", "opacus": "1", "portfolio": {"version": 1, "added": []}, "fingerprints": {dataset: "f" * 64}},
        "provenance": {"started": "2026-01-01", "hardware": "cpu", "command": "leakboard run"},
        "cells": {key: {"dataset": dataset, "model": "lenet", "defense": cell[0], "seed": cell[1]} for key, cell in keys.items()},
    }
    results.write_atomically(folder / "run.json", __import__("json").dumps(manifest))
    for key, cell in keys.items():
        spec = manifest["cells"][key]
        if cell in missing:
            results.write_failure(folder, key, {**spec, "error": "RuntimeError: broken"})
            continue
        common = {**spec, "defense_params": "{}"}
        training = [{**common, "epoch": epoch, "train_loss": None, "test_accuracy": accuracy, "epsilon": None, "delta": None,
                     "seconds": 1.0, "step_memory": 1000} for epoch, accuracy in enumerate(accuracies[cell])]
        scores = ssims.get(cell, [])
        rebuilt = [{**common, "checkpoint_epoch": 0, "attack": attack, "attack_params": "{}", "tier": tier,
                    "won_by": "a" if tier in ("worst case", "oracle bound") else None, "victim": v, "image": 0,
                    "mse": 0.1, "psnr": 10.0, "ssim": score, "label_correct": None, "cost": 0.5, "seconds": 2.0}
                   for v, score in enumerate(scores)]
        pictures = np.zeros((max(len(scores), 1), 1, 1, 8, 8), dtype=np.uint8)
        results.write_cell(folder, key, info={**spec, "inapplicable": []}, training=training, reconstructions=rebuilt,
                           images={"original": pictures, images_key(0, attack): pictures}, checkpoints={})
    return folder


@pytest.fixture
def run(tmp_path):
    accuracies = {("none", 0): [0.1, 0.7, 0.8], ("none", 1): [0.1, 0.6, 0.9], ("weak", 0): [0.1, 0.2, 0.79], ("weak", 1): [0.1, 0.2, 0.7],
                  ("strong", 0): [0.1, 0.2, 0.3], ("strong", 1): [0.1, 0.2, 0.5]}
    ssims = {("none", 0): [0.9, 0.8], ("none", 1): [0.7, 0.6], ("weak", 0): [0.9, 0.1], ("weak", 1): [0.59, 0.6],
             ("strong", 0): [0.1, 0.2], ("strong", 1): [0.1, 0.0]}
    return write_run(tmp_path / "run", accuracies, ssims)


def entries(*runs):
    (section,) = build([results.read_run(run) for run in runs])
    return {entry.defense: entry for entry in section.entries}, section


def test_by_hand(run):
    by_name, section = entries(run)
    assert [(e.rank, e.defense) for e in section.entries] == [(1, "strong"), (2, "weak"), (3, "none")]
    weak = by_name["weak"]
    assert weak.accuracy.mean == pytest.approx(0.745) and (weak.accuracy.low, weak.accuracy.high) == (0.7, 0.79)
    assert weak.change.mean == pytest.approx(((0.79 - 0.8) + (0.7 - 0.9)) / 2)
    assert weak.converged == [2, None]  # 0.79 >= 0.95 * 0.8, but 0.7 < 0.95 * 0.9
    assert weak.strongest.asr.mean == 0.5  # 0.9 and 0.6 of 0.9, 0.1, 0.59, 0.6: the threshold counts as success
    assert by_name["none"].strongest.asr.mean == 1.0 and by_name["none"].change is None
    assert (weak.seeds, weak.images) == (2, 4)
    assert section.only_static
    assert text.convergence(weak, 2) == "> 2 in 1 of 2 seeds"


def test_equal_asr_is_ranked_by_accuracy(tmp_path):
    run = write_run(tmp_path / "run", {("a", 0): [0.1, 0.2, 0.3], ("b", 0): [0.1, 0.2, 0.4]}, {("a", 0): [0.1], ("b", 0): [0.2]})
    assert [e.defense for e in entries(run)[1].entries] == ["b", "a"]


def test_without_the_undefended_model_there_is_no_comparison(tmp_path):
    run = write_run(tmp_path / "run", {("a", 0): [0.1, 0.2, 0.3]}, {("a", 0): [0.1]})
    entry = entries(run)[0]["a"]
    assert entry.change is None and entry.converged == [] and text.convergence(entry, 2) == "–"


def test_failed_and_missing_cells_are_named_and_not_ranked(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3], ("broken", 0): []}, {("none", 0): [0.9]}, missing=(("broken", 0),))
    broken = entries(run)[0]["broken"]
    assert broken.rank is None and broken.problems == ["seed 0: RuntimeError: broken"]
    header, rows = text.leaderboard_rows(entries(run)[1])
    assert "not run" in dict(zip(header, rows[-1], strict=True)).values()


def test_runs_of_one_protocol_are_joined_and_others_kept_apart(tmp_path):
    first = write_run(tmp_path / "a", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9]})
    second = write_run(tmp_path / "b", {("mine", 0): [0.1, 0.2, 0.3]}, {("mine", 0): [0.1]})
    longer = write_run(tmp_path / "c", {("none", 0): [0.1] * 6}, {("none", 0): [0.9]}, epochs=5)
    sections = build([results.read_run(r) for r in (first, second, longer, first)])
    assert [[e.defense for e in s.entries] for s in sections] == [["mine", "none"], ["none"]]
    assert sections[0].entries[1].images == 1  # the run given twice counts once


def test_an_adaptive_attack_lifts_the_caution(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9]}, tier="adaptive")
    assert not entries(run)[1].only_static


def test_an_oracle_bound_is_shown_but_does_not_rank(tmp_path):
    """It looks at the original, which no attacker can."""
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9, 0.7]}, tier="oracle bound")
    (section,) = build([results.read_run(run)])
    (entry,) = section.entries
    assert entry.rank is None and entry.strongest is None and section.has_oracle
    assert entry.attacks[0].asr.mean == 1 and entry.attacks[0].winners == {"a": 2}
    assert text.attack_rows(section)[1][0][-1] == "2 x a"
    assert table([section])["won_by"].tolist() == ["a: 2"]


def test_flat_table(run):
    frame = table(build([results.read_run(run)]))
    assert frame["defense"].tolist() == ["strong", "weak", "none"]
    assert frame["asr"].tolist() == [0.0, 0.5, 1.0] and frame["epochs_to_converge"].isna().tolist() == [True, True, False]
    assert isinstance(frame, pd.DataFrame)
