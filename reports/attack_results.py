"""What the attacks on a defense rebuilt, from the rows of its reconstructions to estimates with their spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmark.store.results import Cell
from benchmark.store.tables import RECOVERED_PSNR, SUCCESS_SSIM
from reports.entries import ORACLE_BOUND, WORST_CASE, AttackResult
from reports.statistics import Estimate, bootstrap_mean, bootstrap_means, share
from reports.text import attacker

#: What is listed first of a checkpoint.
_FIRST = {(WORST_CASE, "informed"): 0, (WORST_CASE, "blind"): 1, (ORACLE_BOUND, ""): 2}


def attack_results(rows: pd.DataFrame | None, cells: list[Cell], modes: Sequence[str]) -> list[AttackResult]:
    """The results of a defense by how many images are behind a gradient and checkpoint; within these the worst cases, the oracle
    bound, and all attacks by their names.

    Args:
        rows: its rows of :func:`reports.worst_case.with_worst_cases`, None where there are none.
        cells: its cells, which know the attacks that do not apply.
        modes: of the protocol, in whose order the results are.
    """
    results = [] if rows is None else _measured(rows)
    for cell in cells:
        for obstacle in cell.inapplicable:
            result = AttackResult(obstacle["attack"], "attack", obstacle["knowledge"], obstacle["checkpoint_epoch"],
                                  obstacle["observed"], reason=obstacle["reason"])
            if result not in results:
                results.append(result)
    return sorted(results, key=lambda result: (modes.index(result.observed), *_order(result)))


def _measured(rows: pd.DataFrame) -> list[AttackResult]:
    columns = {name: rows[name].to_numpy() for name in (
        "ssim", "psnr", "lpips", "label_correct", "seconds", "of_attack", "of_knowledge", "batch_size")}
    # Positions and arrays: a report has thousands of groups of a few rows each, which cost more as frames.
    groups = rows.groupby(["checkpoint_epoch", "observed", "kind", "attack", "knowledge"], sort=False).indices
    frames = [{name: values[positions] for name, values in columns.items()} for positions in groups.values()]
    results = []
    for place, frame, (ssim, psnr) in zip(groups, frames, _image_means(frames), strict=True):
        epoch, observed, kind, attack, knowledge = place
        known = [right for right in frame["label_correct"] if not pd.isna(right)]
        results.append(AttackResult(
            attack=attack, kind=kind, knowledge=knowledge, checkpoint_epoch=int(epoch), observed=observed,
            batch_size=int(frame["batch_size"].max()), images=len(frame["ssim"]),
            asr=share(int((frame["ssim"] >= SUCCESS_SSIM).sum()), len(frame["ssim"])),
            recovered=share(int((frame["psnr"] > RECOVERED_PSNR).sum()), len(frame["psnr"])), ssim=ssim, psnr=psnr,
            lpips=None if np.isnan(frame["lpips"]).any() else bootstrap_mean(frame["lpips"]),
            label_accuracy=sum(known) / len(known) if known else None,
            seconds_per_victim=float(frame["seconds"].mean()),
            winners={} if kind == "attack" else _winners(frame["of_attack"], frame["of_knowledge"], knowledge),
        ))
    return results


def _order(result: AttackResult) -> tuple[int, int, str, str]:
    return result.checkpoint_epoch, _FIRST.get((result.kind, result.knowledge), len(_FIRST)), result.attack, result.knowledge


def _winners(attacks: np.ndarray, of_knowledge: np.ndarray, knowledge: str) -> dict[str, int]:
    """For how many images each attack was chosen, most first."""
    # Who knows nothing of the defense chooses among those that do not either, so that to say so would tell nothing.
    names = attacks if knowledge == "blind" else map(attacker, attacks, of_knowledge)
    return dict(Counter(names).most_common())


def _image_means(frames: list[dict[str, np.ndarray]]) -> list[tuple[Estimate, Estimate]]:
    """Mean SSIM and PSNR of each frame; those of as many images are resampled at once."""
    found: dict[int, tuple[Estimate, Estimate]] = {}
    for count in {len(frame["ssim"]) for frame in frames}:
        places = [place for place, frame in enumerate(frames) if len(frame["ssim"]) == count]
        ssim, psnr = (bootstrap_means(np.stack([frames[place][name] for place in places], 1)) for name in ("ssim", "psnr"))
        found.update(zip(places, zip(ssim, psnr, strict=True), strict=True))
    return [found[place] for place in range(len(frames))]
