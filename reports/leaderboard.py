"""From result tables to ranked entries: one board per data set, model and protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from benchmark.errors import InputError
from benchmark.store.results import Cell, MeasuredCell, Run, joined
from reports.attack_results import attack_results
from reports.documents import parse
from reports.entries import AttackResult, Board, Entry, Protocol, ranked
from reports.identification import identification_results, obstacles
from reports.ranks import top_one_bound
from reports.statistics import Estimate, accuracy_area, bootstrap_mean, epochs_to_converge
from reports.worst_case import with_worst_cases

_PROTOCOL = TypeAdapter(Protocol)


@dataclass
class Section:
    """A board with the tables and cells it was made from; the reconstructions are those of
    :func:`reports.worst_case.with_worst_cases`."""

    board: Board
    training: pd.DataFrame
    reconstructions: pd.DataFrame
    cells: list[Cell]


@dataclass
class _Gathered:
    """What the runs hold for one board: cells by their keys, and why others are missing by their defenses."""

    dataset: str
    model: str
    protocol: Protocol
    undefended: str | None = None
    cells: dict[str, MeasuredCell] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)


def build(runs: list[Run]) -> list[Section]:
    """Group the cells of one or more runs by data set, model and protocol, and rank the defenses within each group.

    A protocol is all that makes numbers comparable: the data's fingerprint, the training, the observation and the attacks. Cells
    that are in several runs count once.

    Raises:
        InputError: the description of a run lacks what a protocol needs.
    """
    gathered: dict[tuple[str, str, Protocol], _Gathered] = {}
    for run in runs:
        cells = {cell.folder.name: cell for cell in run.cells}
        datasets = dict.fromkeys(spec["dataset"] for spec in run.manifest["cells"].values())
        protocols = {name: _protocol(run, name) for name in datasets}
        for key, spec in run.manifest["cells"].items():
            place = spec["dataset"], spec["model"], protocols[spec["dataset"]]
            group = gathered.setdefault(place, _Gathered(*place))
            if spec["defense"] == run.manifest["undefended"]:
                group.undefended = spec["defense"]
            problems = group.problems.setdefault(spec["defense"], [])
            if key in cells:
                group.cells.setdefault(key, cells[key])
            elif key not in group.cells:
                problems.append(f"seed {spec['seed']}: " + run.failures.get(key, {"error": "not run"})["error"])
    return [_section(group) for group in gathered.values()]


def _section(group: _Gathered) -> Section:
    training, attacked, identified = joined(group.cells.values())
    rebuilt = with_worst_cases(attacked)
    curves, images, ranks = (dict(list(rows.groupby("defense"))) for rows in (training, rebuilt, identified))
    undefended = _Trained(curves.get(group.undefended, training.iloc[:0]))
    entries = [_entry(defense, curves.get(defense), images.get(defense), ranks.get(defense), undefended, group)
               for defense in group.problems]
    board = Board(group.dataset, group.model, group.protocol, group.undefended, ranked(entries))
    return Section(board, training, rebuilt, list(group.cells.values()))


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


def _protocol(run: Run, dataset: str) -> Protocol:
    grid, determinants = run.manifest.get("grid", {}), run.manifest.get("determinants", {})
    path = run.folder / "run.json"
    try:
        content = {
            "training": grid["training"], "evaluation": grid["evaluation"], "attacks": grid["attacks"],
            "image_size": grid["image_size"], "fingerprint": determinants["fingerprints"][dataset],
            "portfolio": determinants["portfolio"],
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} lacks {error}") from error
    protocol: Protocol = parse(json.dumps(content), str(path), _PROTOCOL)
    return protocol


class _Trained:
    """The trainings of a defense, by seed; of a defense that was not trained there is nothing."""

    def __init__(self, training: pd.DataFrame) -> None:
        by_seed = training.sort_values("epoch", kind="stable").groupby("seed")["test_accuracy"]
        self.accuracies = {int(seed): accuracies.tolist() for seed, accuracies in by_seed}
        epochs = training[training["epoch"] > 0].groupby("seed")["seconds"]
        self.seconds = {int(seed): float(seconds) for seed, seconds in epochs.median().items()}
        memory = training["step_memory"].dropna()
        self.memory = int(memory.max()) if len(memory) else None
        final = training[training["epoch"] == training["epoch"].max()]
        self.epsilon, self.delta = _number(final["epsilon"].max()), _number(final["delta"].max())


def _entry(defense: str, training: pd.DataFrame | None, rebuilt: pd.DataFrame | None, identified: pd.DataFrame | None,
           undefended: _Trained, group: _Gathered) -> Entry:
    if training is None:
        return Entry(defense, {}, 0, 0, problems=group.problems[defense])
    own, plain, times = _Trained(training), undefended.accuracies, undefended.seconds
    last = {seed: curve[-1] for seed, curve in own.accuracies.items()}
    changes = [last[seed] - plain[seed][-1] for seed in last if seed in plain]
    ratios = [own.seconds[seed] / times[seed] for seed in own.seconds if times.get(seed)]
    compared = defense != group.undefended
    cells: list[Cell] = [cell for cell in group.cells.values() if cell.trained["defense"] == defense]
    return Entry(
        defense=defense,
        parameters=_parameters(defense, training["defense_params"].iloc[0]),
        seeds=len(last),
        images=0 if rebuilt is None else len(rebuilt[["seed", "victim", "image"]].drop_duplicates()),
        accuracy=bootstrap_mean(list(last.values())),
        change=bootstrap_mean(changes) if changes and compared else None,
        converged=[epochs_to_converge(curve, max(plain[seed])) for seed, curve in own.accuracies.items() if seed in plain],
        area=float(np.mean([accuracy_area(curve) for curve in own.accuracies.values()])),
        epsilon=own.epsilon,
        delta=own.delta,
        seconds_per_epoch=float(np.mean(list(own.seconds.values()))) if own.seconds else None,
        time_ratio=float(np.mean(ratios)) if ratios and compared else None,
        step_memory=own.memory,
        memory_ratio=own.memory / undefended.memory if own.memory is not None and undefended.memory and compared else None,
        attacks=attack_results(rebuilt, cells),
        identifications=identification_results(identified, own.delta),
        unidentified=obstacles(cells),
        problems=group.problems[defense],
    )


def _parameters(defense: str, text: str) -> dict[str, Any]:
    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError):
        parameters = None
    if not isinstance(parameters, dict):
        raise InputError(f"the training table holds parameters of {defense} that are no JSON object: {text[:80]!r}")
    return parameters


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
