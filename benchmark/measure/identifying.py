"""Measuring identification: how attackers rank the candidates of each victim, and what of its labels they infer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import beta, norm

from attacks import Observation, Progress
from attacks.identification import Identifier, presence_mu
from attacks.reading.labels import known_or_inferred_labels, label_obstacle
from benchmark.data.datasets import Dataset
from benchmark.measure import clock
from benchmark.measure.evaluation import attackers, labels_right
from benchmark.measure.pools import Pools
from benchmark.measure.victim_memory import allowed
from benchmark.measure.victims import Victims

#: How seldom a rate that a guarantee allows is taken for one that it does not.
_MISTAKE = 1e-3


@dataclass(frozen=True)
class Ranked:
    """A row per victim and knowledge, with the columns of ``tables.IDENTIFICATIONS`` from ``knowledge`` on, or why not."""

    rows: list[dict[str, Any]]
    obstacle: str = ""


def identify(observation: Observation, victims: Victims, pools: Pools, dataset: Dataset, seed: int,
             knowledge: Sequence[str] = ("blind", "informed"), progress: Progress | None = None) -> Ranked:
    """Rank the candidates of the observed victims, as many victims at once as leave memory for the images of their pools.

    Args:
        observation: as an informed attacker has it.
        victims: who are observed, with the labels that are to be inferred.
        pools: of all victims of the cell.
        dataset: where candidates are from.
        seed: of the attackers' randomness; the same for a blind and an informed one.
        knowledge: what attackers know, see :func:`benchmark.measure.evaluation.attackers`.
        progress: told of the steps done.

    Raises:
        ValueError: the image that was there has no score.
    """
    if pools.obstacle:
        return Ranked([], pools.obstacle)
    if not _finite(observation):
        return Ranked([], "the observed gradients are not finite")
    identifier, mu = Identifier(), presence_mu(observation)
    kinds = attackers(observation, knowledge, differ=observation.discloses)
    c, h, w = dataset.train.image_shape
    most = allowed(observation.device) // (4 * c * h * w)
    place_of = {number: place for place, number in enumerate(victims.numbers)}
    by_class = np.argsort(victims.labels[:, 0].cpu().numpy(), kind="stable")  # neighbours' pools share images
    parts = list(pools.parts([victims.numbers[place] for place in by_class], most))
    if len(parts) == 1:
        parts = [list(victims.numbers)]
    total, done, rows = len(victims) * len(kinds), 0, []
    for kind, known in kinds.items():
        method, shares = identifier.method(known), _label_shares(known, victims)
        for part in parts:
            def tell(step: int, steps: int, before: int = done, more: int = len(part)) -> None:
                if progress is not None:
                    progress(round(1000 * (before + more * step / max(steps, 1)) / total), 1000)

            started = clock.now(observation.device)
            of_part = known if len(parts) == 1 else known.select([place_of[number] for number in part])
            scores = identifier.scores(of_part, pools.candidates(dataset, part), seed=seed, progress=tell)
            better, tied = _ranks(scores.cpu().numpy(), pools.places[part])
            seconds = (clock.now(observation.device) - started) / len(part)
            rows += [{
                "knowledge": kind, "method": method.name, "exact": method.exact, "victim": number, "candidates": pools.size,
                "better": int(better[i]), "tied": int(tied[i]),
                "label_share": None if shares is None else shares[place_of[number]], "mu": mu, "seconds": seconds,
            } for i, number in enumerate(part)]
            done += len(part)
    return Ranked(rows)


def require_within_bound(rows: Iterable[dict[str, Any]]) -> None:
    """Raise RuntimeError where the victims of one checkpoint were found more often than a guarantee allows anybody.

    What is mu-GDP for the presence of one image lets nobody find it among M in more than a share of Phi(Phi^-1(1/M) + mu) of all
    cases (Dong, Roth and Su, 2022, see :func:`attacks.identification.presence_mu`). The limit of Clopper and Pearson (1934) of what
    was found is below the true rate but for one time in a thousand.
    """
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault(row["knowledge"], []).append(row)
    for kind, of_kind in by_kind.items():
        mu, size = of_kind[0]["mu"], of_kind[0]["candidates"]
        hits = sum(row["better"] == row["tied"] == 0 for row in of_kind)
        if mu is None or not hits:
            continue
        low, bound = beta.ppf(_MISTAKE, hits, len(of_kind) - hits + 1), norm.cdf(norm.ppf(1 / size) + mu)
        if low > bound:
            raise RuntimeError(
                f"{hits} of {len(of_kind)} victims are found among {size} candidates ({kind}), at a rate of at least {low:.4g} at "
                f"99.9 %, where the guarantee of mu = {mu:.4g} allows {bound:.4g}: this is a bug, of the defense or of leakboard")


def _finite(observation: Observation) -> bool:
    # By their extremes, which need no memory; round by round, since later ones may lie on the CPU.
    extremes = (torch.stack([extreme for g in one.shared.values() for extreme in g.aminmax()]) for one in observation.rounds)
    return all(bool(values.isfinite().all()) for values in extremes)


def _ranks(scores: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of scores [N, M] how many are below that of the true one, and how many others equal it."""
    true = np.take_along_axis(scores, places[:, None], 1)
    if np.isnan(true).any():
        raise ValueError(f"the true candidate of {int(np.isnan(true).sum())} victims has no score")
    return (scores < true).sum(1), (scores == true).sum(1) - 1


def _label_shares(observation: Observation, victims: Victims) -> list[float] | None:
    """Of each victim the share of labels that is inferred right, as if none were given; None where they cannot be inferred."""
    unlabelled = replace(observation, labels=None)
    if label_obstacle(unlabelled) is not None:
        return None
    inferred = known_or_inferred_labels(unlabelled).tolist()
    return [sum(rights := labels_right(guess, truth)) / len(rights)
            for guess, truth in zip(inferred, victims.labels.tolist(), strict=True)]
