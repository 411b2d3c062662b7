"""From result tables to ranked entries: one section per data set, model and protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from benchmark.results import ORACLE, SUCCESS_SSIM, Cell, Run
from reports.statistics import Estimate, accuracy_area, bootstrap_mean, epochs_to_converge, share

UNDEFENDED = "none"


@dataclass(frozen=True)
class AttackResult:
    """What one attack rebuilt at one checkpoint, over all seeds and victims of an entry.

    ``reason`` says why an attack does not apply; the estimates are then None. ``asr`` carries a Wilson interval over images,
    ``ssim`` and ``psnr`` a bootstrap interval over images. ``label_accuracy`` is None where the attacker was given the labels.
    ``winners`` counts, for an attack that chooses among others, the images for which each was chosen.
    """

    attack: str
    tier: str
    checkpoint_epoch: int
    asr: Estimate | None = None
    ssim: Estimate | None = None
    psnr: Estimate | None = None
    label_accuracy: float | None = None
    seconds_per_victim: float | None = None
    winners: dict[str, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Entry:
    """A defense in a section. Accuracy is that after the last epoch, mean over seeds with a bootstrap interval.

    ``change`` is the accuracy minus the undefended one of the same seed; ``converged`` lists, per seed, the epochs to converge
    (None: not reached); ``problems`` are the errors of cells that failed, and cells that were not run.
    """

    defense: str
    parameters: str
    seeds: int
    images: int
    accuracy: Estimate | None
    change: Estimate | None
    converged: list[int | None]
    area: float | None
    epsilon: float | None
    delta: float | None
    attacks: list[AttackResult]
    problems: list[str]
    rank: int | None = None

    @property
    def strongest(self) -> AttackResult | None:
        """The attack and checkpoint with the highest ASR, of equal ones that with the highest mean SSIM."""
        return strongest(self.attacks)


def strongest(results: list[AttackResult]) -> AttackResult | None:
    """The result with the highest ASR, of equal ones that with the highest mean SSIM. An oracle bound is no attack: it looks at the
    originals."""
    measured = [a for a in results if a.asr is not None and a.ssim is not None and a.tier != ORACLE]
    return max(measured, key=lambda a: (a.asr.mean, a.ssim.mean), default=None)  # type: ignore[union-attr]


@dataclass
class Section:
    """All entries that were measured alike, best first."""

    dataset: str
    model: str
    protocol: dict[str, Any]
    entries: list[Entry] = field(default_factory=list)
    training: pd.DataFrame = field(default_factory=pd.DataFrame)
    reconstructions: pd.DataFrame = field(default_factory=pd.DataFrame)
    cells: list[Cell] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.model}"

    @property
    def only_static(self) -> bool:
        """Whether no attacker who knows the defense was measured."""
        return not any(result.tier not in ("", "static") for entry in self.entries for result in entry.attacks)

    @property
    def has_oracle(self) -> bool:
        """Whether a bound was measured that no attacker can reach by choice."""
        return any(result.tier == ORACLE for entry in self.entries for result in entry.attacks)


def build(runs: list[Run]) -> list[Section]:
    """Group the cells of one or more runs by data set, model and protocol, and rank the defenses within each group.

    A protocol is all that makes numbers comparable: the data's fingerprint, the training, the observation and the attacks. Cells
    that are in several runs count once.
    """
    sections: dict[str, Section] = {}
    defenses: dict[str, dict[str, list[str]]] = {}
    seen: set[str] = set()
    for run in runs:
        cells = {cell.folder.name: cell for cell in run.cells}
        failures = {json.dumps(_identity(f)): f.get("error", "failed") for f in run.failures}
        for key, spec in run.manifest["cells"].items():
            protocol = _protocol(run, spec["dataset"])
            name = json.dumps([spec["dataset"], spec["model"], protocol])
            section = sections.setdefault(name, Section(spec["dataset"], spec["model"], protocol))
            problems = defenses.setdefault(name, {}).setdefault(spec["defense"], [])
            if key in seen:
                continue
            if key in cells:
                seen.add(key)
                section.cells.append(cells[key])
                section.training = pd.concat([section.training, _rows(run.training, spec)])
                section.reconstructions = pd.concat([section.reconstructions, _rows(run.reconstructions, spec)])
            else:
                problems.append(f"seed {spec['seed']}: " + failures.get(json.dumps(_identity(spec)), "not run"))
    for name, section in sections.items():
        section.entries = _rank([_entry(section, defense, problems) for defense, problems in defenses[name].items()])
    return list(sections.values())


def table(sections: list[Section]) -> pd.DataFrame:
    """All sections as one flat table of numbers, a row per defense and attack at a checkpoint."""
    rows = []
    for section in sections:
        for entry in section.entries:
            reached = [epoch for epoch in entry.converged if epoch is not None]
            common = {
                "dataset": section.dataset, "model": section.model, "rank": entry.rank, "defense": entry.defense,
                "defense_params": entry.parameters, "seeds": entry.seeds, "images": entry.images,
                **_columns("test_accuracy", entry.accuracy), **_columns("accuracy_change", entry.change),
                "epochs_to_converge": sum(reached) / len(reached) if reached and len(reached) == len(entry.converged) else None,
                "seeds_converged": len(reached), "accuracy_area": entry.area, "epsilon": entry.epsilon, "delta": entry.delta,
                "problems": "; ".join(entry.problems),
            }
            rows += [{**common, **_attack_columns(result)} for result in entry.attacks or [None]]  # type: ignore[list-item]
    return pd.DataFrame(rows)


def _attack_columns(result: AttackResult | None) -> dict[str, Any]:
    if result is None:
        result = AttackResult("", "", 0)
    return {
        "attack": result.attack, "tier": result.tier, "checkpoint_epoch": result.checkpoint_epoch if result.attack else None,
        **_columns("asr", result.asr), **_columns("ssim", result.ssim), **_columns("psnr", result.psnr),
        "label_accuracy": result.label_accuracy, "seconds_per_victim": result.seconds_per_victim,
        "won_by": "; ".join(f"{name}: {count}" for name, count in result.winners.items()), "does_not_apply": result.reason,
    }


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _identity(spec: dict[str, Any]) -> list[Any]:
    return [spec.get(key) for key in ("dataset", "model", "defense", "seed")]


def _protocol(run: Run, dataset: str) -> dict[str, Any]:
    grid, determinants = run.manifest["grid"], run.manifest["determinants"]
    return {
        "training": grid["training"], "evaluation": grid["evaluation"], "attacks": grid["attacks"],
        "image_size": grid["image_size"], "fingerprint": determinants["fingerprints"][dataset],
        "portfolio": determinants["portfolio"],
    }


def _rows(frame: pd.DataFrame, spec: dict[str, Any]) -> pd.DataFrame:
    match = (frame["dataset"] == spec["dataset"]) & (frame["model"] == spec["model"])
    return frame[match & (frame["defense"] == spec["defense"]) & (frame["seed"] == spec["seed"])]


def _entry(section: Section, defense: str, problems: list[str]) -> Entry:
    if section.training.empty or not (section.training["defense"] == defense).any():
        return Entry(defense, "{}", 0, 0, None, None, [], None, None, None, [], problems)
    training = section.training[section.training["defense"] == defense]
    curves = {seed: frame.sort_values("epoch") for seed, frame in training.groupby("seed")}
    undefended = {
        seed: frame.sort_values("epoch")["test_accuracy"].tolist()
        for seed, frame in section.training[section.training["defense"] == UNDEFENDED].groupby("seed")
    }
    last = {seed: curve["test_accuracy"].iloc[-1] for seed, curve in curves.items()}
    paired = [last[seed] - undefended[seed][-1] for seed in last if seed in undefended]
    final = training[training["epoch"] == training["epoch"].max()]
    return Entry(
        defense=defense,
        parameters=training["defense_params"].iloc[0],
        seeds=len(curves),
        images=int(section.reconstructions.loc[section.reconstructions["defense"] == defense, ["seed", "victim", "image"]]
                   .drop_duplicates().shape[0]) if not section.reconstructions.empty else 0,
        accuracy=bootstrap_mean(list(last.values())),
        change=bootstrap_mean(paired) if paired and defense != UNDEFENDED else None,
        converged=[epochs_to_converge(curve["test_accuracy"].tolist(), max(undefended[seed]))
                   for seed, curve in curves.items() if seed in undefended],
        area=float(pd.Series([accuracy_area(curve["test_accuracy"].tolist()) for curve in curves.values()]).mean()),
        epsilon=_number(final["epsilon"].max()),
        delta=_number(final["delta"].max()),
        attacks=_attacks(section, defense),
        problems=problems,
    )


def _attacks(section: Section, defense: str) -> list[AttackResult]:
    results = []
    rebuilt = section.reconstructions
    if not rebuilt.empty:
        for (epoch, attack), frame in rebuilt[rebuilt["defense"] == defense].groupby(["checkpoint_epoch", "attack"], sort=True):
            known = frame["label_correct"].dropna()
            results.append(AttackResult(
                attack=attack, tier=frame["tier"].iloc[0], checkpoint_epoch=int(epoch),
                asr=share(int((frame["ssim"] >= SUCCESS_SSIM).sum()), len(frame)),
                ssim=bootstrap_mean(frame["ssim"].tolist()), psnr=bootstrap_mean(frame["psnr"].tolist()),
                label_accuracy=float(known.astype(float).mean()) if len(known) else None,
                seconds_per_victim=float(frame["seconds"].mean()),
                winners={str(name): int(count) for name, count in frame["won_by"].dropna().value_counts().items()},
            ))
    for cell in section.cells:
        for obstacle in cell.info.get("inapplicable", []) if cell.info["defense"] == defense else []:
            result = AttackResult(obstacle["attack"], "", obstacle["checkpoint_epoch"], reason=obstacle["reason"])
            if result not in results:
                results.append(result)
    return results


def _rank(entries: list[Entry]) -> list[Entry]:
    """By the strongest attack's ASR, lowest first, then by test accuracy, highest first; what was not measured comes last."""
    def order(entry: Entry) -> tuple[bool, float, float]:
        strongest = entry.strongest
        asr = strongest.asr.mean if strongest is not None and strongest.asr is not None else 0.0
        return strongest is None, asr, -(entry.accuracy.mean if entry.accuracy is not None else 0.0)

    ranked = sorted(entries, key=order)
    return [Entry(**{**entry.__dict__, "rank": place if entry.strongest is not None else None})
            for place, entry in enumerate(ranked, start=1)]


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
