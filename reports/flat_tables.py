"""Leaderboards as flat tables of numbers, for CSV."""

from __future__ import annotations

import json
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
                "dataset": board.dataset, "model": board.model, "rank": entry.rank, "defense": entry.defense,
                "submission": entry.submission, "paper": entry.paper, "pareto": entry.pareto,
                "defense_params": json.dumps(entry.parameters), "seeds": entry.seeds, "images": entry.images,
                **_columns("test_accuracy", entry.accuracy), **_columns("accuracy_change", entry.change),
                "epochs_to_converge": sum(reached) / len(reached) if reached and len(reached) == len(entry.converged) else None,
                "seeds_converged": len(reached), "accuracy_area": entry.area, "epsilon": entry.epsilon, "delta": entry.delta,
                "seconds_per_epoch": entry.seconds_per_epoch, "time_ratio": entry.time_ratio,
                "step_memory": entry.step_memory, "memory_ratio": entry.memory_ratio, "problems": "; ".join(entry.problems),
            }
            rows += [{**common, **_attack_columns(result)} for result in entry.attacks or [None]]  # type: ignore[list-item]
    return pd.DataFrame(rows)


def identification_table(boards: list[Board]) -> pd.DataFrame:
    """All identifications as one flat table of numbers, a row per entry, checkpoint, what was known, and size of the pool."""
    return pd.DataFrame([
        {"dataset": board.dataset, "model": board.model, "defense": entry.defense, "submission": entry.submission,
         "checkpoint_epoch": result.checkpoint_epoch, "knowledge": result.knowledge, "method": result.method, "exact": result.exact,
         "victims": result.victims, "candidates": result.candidates, "median_rank": result.median_rank, "bits": result.bits,
         "bits_low": result.bits_low, "epsilon_low": result.epsilon_low, "mu_low": result.mu_low, "mu": result.mu,
         **_columns("label_share", result.label_share), "seconds_per_victim": result.seconds_per_victim,
         "pool_size": point.size, **_columns("top1", point.rate),
         "bound": None if result.mu is None else top_one_bound(result.mu, point.size)}
        for board in boards for entry in board.entries for result in entry.identifications for point in result.top1])


def _attack_columns(result: AttackResult | None) -> dict[str, Any]:
    if result is None:
        result = AttackResult("", "attack", "", 0)
    return {
        "attack": result.attack, "kind": result.kind if result.attack else "", "knowledge": result.knowledge,
        "checkpoint_epoch": result.checkpoint_epoch if result.attack else None,
        **_columns("asr", result.asr), **_columns("ssim", result.ssim), **_columns("psnr", result.psnr),
        "label_accuracy": result.label_accuracy, "seconds_per_victim": result.seconds_per_victim,
        "chosen_from": "; ".join(f"{name}: {count}" for name, count in result.winners.items()), "does_not_apply": result.reason,
    }


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
