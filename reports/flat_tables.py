"""Leaderboards as flat tables of numbers, for CSV."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from reports.boards import Board
from reports.entries import AttackResult
from reports.ranks import top_one_bound
from reports.statistics import Estimate


def table(boards: list[Board]) -> pd.DataFrame:
    """All boards as one flat table of numbers, a row per entry and attack at a checkpoint."""
    rows = []
    for board in boards:
        for entry in board.entries:
            reached = [epoch for epoch in entry.converged if epoch is not None]
            common = {
                "dataset": board.dataset, "model": board.model, "rank": board.family(entry).rank, "family": entry.family,
                "defense": entry.defense,
                "submission": entry.submission, "paper": entry.paper, "pareto": entry.pareto,
                "defense_params": json.dumps(entry.parameters), "seeds": entry.seeds,
                "optimizer": entry.optimizer, "learning_rate": entry.learning_rate, "trained_batch_size": entry.batch_size,
                "validation_accuracy": entry.validation, "test_images": entry.test_images, "chance": entry.chance,
                "above_chance": entry.above_chance,
                **_columns("test_accuracy", entry.accuracy), **_columns("accuracy_change", entry.change),
                "epochs_to_converge": sum(reached) / len(reached) if reached and len(reached) == len(entry.converged) else None,
                "seeds_converged": len(reached), "accuracy_area": entry.area, "epsilon": entry.epsilon, "delta": entry.delta,
                "seconds_per_epoch": entry.seconds_per_epoch, "time_ratio": entry.time_ratio,
                "step_memory": entry.step_memory, "memory_ratio": entry.memory_ratio,
                "sent_bytes": entry.sent_bytes, "sent_ratio": entry.sent_ratio, "problems": "; ".join(entry.problems),
            }
            rows += [{**common, **_attack_columns(result)} for result in entry.attacks or [None]]  # type: ignore[list-item]
    return pd.DataFrame(rows)


def family_table(boards: list[Board]) -> pd.DataFrame:
    """All families as one flat table, a row per family and observed mode."""
    return pd.DataFrame([
        {"dataset": board.dataset, "model": board.model, "rank": family.rank, "family": family.name,
         "submission": family.submission, "parameter": family.parameter, "observed": standing.observed,
         "ranked_by": standing.observed == board.ranked_by, "safe": standing.safe,
         **_columns("safe_accuracy", standing.accuracy), "validation_accuracy": standing.validation,
         "estimated": standing.estimated, "at_chance": family.at_chance, "free": family.free.defense if family.free else None,
         "free_leakage": family.free.leakage if family.free else None, "least_leakage": family.leakage,
         "defenses": "; ".join(family.defenses)}
        for board in boards for family in board.families for standing in family.standings])


def trial_table(boards: list[Board]) -> pd.DataFrame:
    """All trials as one flat table, a row each."""
    return pd.DataFrame([
        {"dataset": board.dataset, "model": board.model, "family": entry.family, "defense": entry.defense,
         "submission": entry.submission, **asdict(trial), "diverged": trial.diverged}
        for board in boards for entry in board.entries for trial in entry.trials])


def identification_table(boards: list[Board]) -> pd.DataFrame:
    """All identifications as one flat table of numbers, a row per entry, checkpoint, what was known, and size of the pool."""
    return pd.DataFrame([
        {"dataset": board.dataset, "model": board.model, "defense": entry.defense, "submission": entry.submission,
         "checkpoint_epoch": result.checkpoint_epoch, "observed": result.observed, "batch_size": result.batch_size,
         "knowledge": result.knowledge, "method": result.method, "exact": result.exact,
         "victims": result.victims, "candidates": result.candidates, "median_rank": result.median_rank, "bits": result.bits,
         "bits_low": result.bits_low, "epsilon_low": result.epsilon_low, "mu_low": result.mu_low, "mu": result.mu,
         **_columns("label_share", result.label_share), "seconds_per_victim": result.seconds_per_victim,
         "pool_size": point.size, **_columns("top1", point.rate),
         "top1_limit": result.limit if point == result.compared else None,
         "bound": None if result.mu is None else top_one_bound(result.mu, point.size)}
        for board in boards for entry in board.entries for result in entry.identifications for point in result.top1])


def _attack_columns(result: AttackResult | None) -> dict[str, Any]:
    if result is None:
        result = AttackResult("", "attack", "", 0, "")
    return {
        "attack": result.attack, "kind": result.kind if result.attack else "", "knowledge": result.knowledge,
        "checkpoint_epoch": result.checkpoint_epoch if result.attack else None,
        "observed": result.observed, "batch_size": result.batch_size, "images": result.images,
        **_columns("asr", result.asr), **_columns("recovered", result.recovered), **_columns("ssim", result.ssim),
        **_columns("psnr", result.psnr),
        "label_accuracy": result.label_accuracy, "seconds_per_victim": result.seconds_per_victim,
        "chosen_from": "; ".join(f"{name}: {count}" for name, count in result.winners.items()), "does_not_apply": result.reason,
    }


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
