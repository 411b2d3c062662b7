"""How well images are identified, from the rows of victims to estimates with their spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmark.store.results import Cell
from reports import ranks
from reports.entries import COMPARED, IdentificationResult, Obstacle, TopOne
from reports.statistics import Estimate, bootstrap, share

#: The delta of the limit of epsilon where an entry has none.
_DELTA = 1e-5
_COLUMNS = ("batch_size", "method", "exact", "candidates", "better", "tied", "label_share", "mu", "seconds")


def identification_results(rows: pd.DataFrame | None, delta: float | None, modes: Sequence[str]) -> list[IdentificationResult]:
    """The results of a defense, by how many images are behind a gradient, checkpoint and what the attacker knew.

    Args:
        rows: of :data:`benchmark.store.tables.IDENTIFICATIONS`, of one data set, model and defense; None where there are none.
        delta: that of the entry's privacy budget, None without one.
        modes: of the protocol, in whose order the results are.
    """
    if rows is None:
        return []
    # Positions and arrays: a report has thousands of groups of a few rows each, which cost more as frames.
    columns = {name: rows[name].to_numpy() for name in _COLUMNS}
    groups = rows.groupby(["observed", "checkpoint_epoch", "knowledge"], sort=True).indices
    results = [_result(mode, int(epoch), knowledge, {name: values[positions] for name, values in columns.items()},
                       _DELTA if delta is None else delta) for (mode, epoch, knowledge), positions in groups.items()]
    return sorted(results, key=lambda result: modes.index(result.observed))


def obstacles(cells: list[Cell]) -> list[Obstacle]:
    """Why images of a defense, whose cells these are, were not identified; each reason once."""
    found = (Obstacle(each["checkpoint_epoch"], each["observed"], each["knowledge"], each["reason"])
             for cell in cells for each in cell.unidentified)
    return list(dict.fromkeys(found))


def _result(mode: str, epoch: int, knowledge: str, rows: dict[str, np.ndarray], delta: float) -> IdentificationResult:
    better, tied, candidates = (rows[name].astype(np.int64) for name in ("better", "tied", "candidates"))
    # In an order of their own, so that that of the victims changes nothing, not even by rounding.
    order = np.lexsort((rows["label_share"], tied, better, candidates))
    better, tied, candidates = better[order], tied[order], candidates[order]
    size, victims = int(candidates.min()), len(better)
    sizes = ranks.pool_sizes(size)
    chances = ranks.top_one(better, tied, candidates, sizes)
    rates, limits = _means(chances)
    shares = ranks.bin_shares(better, tied, candidates, size)
    # A larger pool than M makes a hit no easier.
    least = ranks.lower_limit(int(((better == 0) & (tied == 0)).sum()), victims)
    expected = better + tied / 2  # others in front, of all that there are
    mu = _guaranteed(rows["mu"])
    labels = np.sort(rows["label_share"][~np.isnan(rows["label_share"])])
    return IdentificationResult(
        checkpoint_epoch=epoch, observed=mode, batch_size=int(rows["batch_size"].max()),
        knowledge=knowledge,  # type: ignore[arg-type]
        method=", ".join(sorted(set(rows["method"]))), exact=bool(rows["exact"].all()), candidates=size, victims=victims,
        top1=[TopOne(*point) for point in zip(sizes, rates, strict=True)],
        limit=min(limits[sizes.index(min(COMPARED, size))], 1.0),
        median_rank=float(np.median(1 + expected * (size - 1) / (candidates - 1))),
        bits=ranks.bits_leaked(shares, size), bits_low=ranks.bits_limit(shares, size, victims),
        epsilon_low=ranks.epsilon_limit(least, size, delta), mu_low=ranks.mu_limit(least, size),
        mu=mu, bound=None if mu is None else ranks.top_one_bound(mu, size),
        label_share=_means(labels[:, None])[0][0] if len(labels) else None,
        seconds_per_victim=float(rows["seconds"].mean()),
    )


def _guaranteed(mu: np.ndarray) -> float | None:
    """What holds for every victim: the largest mu, None where one has no guarantee or one that says nothing."""
    return float(mu.max()) if np.isfinite(mu).all() else None


def _means(values: np.ndarray) -> tuple[list[Estimate], list[float]]:
    """Means over victims of each column [victims, columns], and their one-sided upper limits: by the bootstrap, and where each
    victim is a hit or a miss by Wilson and by Clopper and Pearson, which say something at all or none of few, too."""
    estimates, limits = bootstrap(values)
    for column in np.flatnonzero(np.isin(values, (0.0, 1.0)).all(0)):
        hits = int(values[:, column].sum())
        estimates[column], limits[column] = share(hits, len(values)), ranks.upper_limit(hits, len(values))
    return estimates, limits
