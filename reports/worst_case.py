"""The worst case: of each victim the likeliest of all reconstructions that were made of it, whichever attack made it.

It is a query over the rows of :data:`benchmark.store.tables.RECONSTRUCTIONS`, so that it covers what was run, also what is added
later. The choice goes by the scores alone, which an attacker has; only the oracle bound looks at the originals.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.entries import ORACLE_BOUND, WORST_CASE

_VICTIM = ["defense", "seed", "checkpoint_epoch", "observed", "victim"]
_CANDIDATE = [*_VICTIM, "attack", "knowledge"]


def with_worst_cases(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all attacks, and behind them those that the worst cases and the oracle bound choose.

    Args:
        rows: with the columns of :data:`benchmark.store.tables.RECONSTRUCTIONS`, of one data set and model.

    Returns:
        The same columns, and ``kind`` (``attack``, ``worst case`` or ``oracle bound``), ``of_attack`` and ``of_knowledge``: whose
        reconstruction it is. Of what chooses ``attack`` is the kind, and ``knowledge`` what is known when it chooses.
    """
    chosen = [(WORST_CASE, "informed", informed(rows)), (WORST_CASE, "blind", blind(rows)), (ORACLE_BOUND, "", oracle_bound(rows))]
    frames = [rows.assign(kind="attack", of_attack=rows["attack"], of_knowledge=rows["knowledge"])]
    frames += [frame.assign(kind=kind, of_attack=frame["attack"], of_knowledge=frame["knowledge"], attack=kind, knowledge=knowledge)
               for kind, knowledge, frame in chosen if len(frame)]
    return pd.concat(frames, ignore_index=True)


def informed(rows: pd.DataFrame) -> pd.DataFrame:
    """What an attacker who knows the defense chooses, see :func:`likeliest`: among all, also those that were made blindly."""
    return likeliest(rows, "score")


def blind(rows: pd.DataFrame, within: Sequence[str] = ()) -> pd.DataFrame:
    """What an attacker who knows nothing of the defense chooses, see :func:`likeliest`."""
    return likeliest(rows[rows["knowledge"] != "informed"], "blind_score", within)


def oracle_bound(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each victim the reconstruction most like the originals, by the mean SSIM over the victim's images; of equal ones the
    first. No attacker can choose like this."""
    similarity = rows.groupby(_CANDIDATE, sort=False)["ssim"].transform("mean")
    return likeliest(rows.assign(_unlike=-similarity), "_unlike").drop(columns="_unlike")


def likeliest(rows: pd.DataFrame, score: str, within: Sequence[str] = ()) -> pd.DataFrame:
    """Of each victim the rows of the attack with the lowest score, of equal ones the first; a victim's images are chosen together.

    A score that is missing is chosen only where there is no other.

    Args:
        rows: of any number of defenses, seeds, checkpoints and modes.
        score: the column to choose by.
        within: columns that tell groups of attacks apart, within each of which is chosen.

    Returns:
        The chosen rows; their ``seconds`` are those of all attacks that were chosen among.
    """
    groups = [*_VICTIM, *within]
    candidates = rows.drop_duplicates(_CANDIDATE)
    spent = candidates.groupby(groups, sort=False)["seconds"].transform("sum")
    ordered = candidates.assign(seconds=spent).sort_values(score, kind="stable", na_position="last")
    chosen = ordered.drop_duplicates(groups)[[*_CANDIDATE, "seconds"]]
    return rows.drop(columns="seconds").merge(chosen, on=_CANDIDATE)
