"""The worst case: what the strongest attacker rebuilt, who has to settle on one way to attack without these victims' originals.

Ways are each attack, and the choice per victim of the likeliest of all reconstructions, by what is known of the defense or as if
nothing were. An attacker finds out which of them does best under a defense by rehearsing on images of his own. The victims stand
for these: they are halved, and each half is attacked in the way that rebuilt most of the other. So no original has a part in the
choice of its own reconstruction, and as both halves are drawn alike, the rate is on average that of an attacker who rehearsed on as
many images as half of the victims.

It is a query over the rows of :data:`benchmark.store.tables.RECONSTRUCTIONS`, so that it covers what was run, also what is added
later. The oracle bound alone looks at all originals.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmark.store.tables import SUCCESS_SSIM
from reports.entries import ORACLE_BOUND, WORST_CASE

_PLACE = ["defense", "checkpoint_epoch", "observed"]
_VICTIM = [*_PLACE, "seed", "victim"]
_CANDIDATE = [*_VICTIM, "attack", "knowledge"]


def with_worst_cases(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all attacks, and behind them those of the worst cases and the oracle bound.

    Args:
        rows: with the columns of :data:`benchmark.store.tables.RECONSTRUCTIONS`, of one data set and model.

    Returns:
        The same columns, and ``kind`` (``attack``, ``worst case`` or ``oracle bound``), ``of_attack`` and ``of_knowledge``: whose
        reconstruction it is. Of the latter two ``attack`` is the kind, and ``knowledge`` what its attacker knows.
    """
    chosen = [(WORST_CASE, "informed", informed(rows)), (WORST_CASE, "blind", blind(rows)), (ORACLE_BOUND, "", oracle_bound(rows))]
    frames = [rows.assign(kind="attack", of_attack=rows["attack"], of_knowledge=rows["knowledge"])]
    frames += [frame.assign(kind=kind, of_attack=frame["attack"], of_knowledge=frame["knowledge"], attack=kind, knowledge=knowledge)
               for kind, knowledge, frame in chosen if len(frame)]
    return pd.concat(frames, ignore_index=True)


def informed(rows: pd.DataFrame, within: Sequence[str] = ()) -> pd.DataFrame:
    """What an attacker who knows the defense comes to, see :func:`strongest`: by all attacks, also those made blindly, and
    by the choice of who made these."""
    return strongest(rows, [likeliest(rows, "score", within), _likeliest_blindly(rows, within)], within)


def blind(rows: pd.DataFrame, within: Sequence[str] = ()) -> pd.DataFrame:
    """What an attacker who knows nothing of the defense comes to, see :func:`strongest`."""
    return strongest(rows[rows["knowledge"] != "informed"], [_likeliest_blindly(rows, within)], within)


def _likeliest_blindly(rows: pd.DataFrame, within: Sequence[str]) -> pd.DataFrame:
    return likeliest(rows[rows["knowledge"] != "informed"], "blind_score", within)


def oracle_bound(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each victim the reconstruction most like the originals, by the mean SSIM over the victim's images; of equal ones the
    first. No attacker can choose like this."""
    similarity = rows.groupby(_CANDIDATE, sort=False)["ssim"].transform("mean")
    return likeliest(rows.assign(_unlike=-similarity), "_unlike").drop(columns="_unlike")


def strongest(rows: pd.DataFrame, choices: Sequence[pd.DataFrame], within: Sequence[str] = ()) -> pd.DataFrame:
    """Of each half of the victims (those of even and those of odd numbers, of all seeds) the rows of the way to attack that rebuilt
    most images of the other half; of equal ones that of the highest mean SSIM there.

    Ways are the choices, of which the first is taken where none is better or there is no other half, and every attack that was made
    on all victims.

    Args:
        rows: of any number of defenses, checkpoints and modes, for each of which an attacker settles apart, but for all seeds.
        choices: by :func:`likeliest`, of which the first is among all of ``rows``.
        within: columns that tell groups of attacks apart, within each of which is settled.

    Returns:
        The rows; their ``seconds`` are those of all attacks.
    """
    place, victim = [*_PLACE, *within], [*_VICTIM, *within]
    # Behind the choices by score, so that of equal ways these are the first.
    ways = len(choices) + rows.groupby(["attack", "knowledge"], sort=False).ngroup()
    made = pd.concat([*(choice.assign(_way=way) for way, choice in enumerate(choices)), rows.assign(_way=ways)], ignore_index=True)
    made["_half"] = made["victim"] % 2
    settled = _settled(made, place)
    spent = choices[0].drop_duplicates(victim)[[*victim, "seconds"]]
    return made.merge(settled, on=[*place, "_half", "_way"]).drop(columns=["seconds", "_half", "_way"]).merge(spent, on=victim)


def _settled(made: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    """The ``_way`` of each ``_half`` of every place."""
    made = made.assign(_hit=made["ssim"] >= SUCCESS_SSIM)
    found = made.groupby([*place, "_half", "_way"], sort=False).agg(
        _hits=("_hit", "mean"), _ssim=("ssim", "mean"), _images=("ssim", "size")).reset_index()
    images = found.groupby([*place, "_way"], sort=False)["_images"].transform("sum")
    other = found[images == images.groupby([found[name] for name in place], sort=False).transform("max")]
    other = other.assign(_half=1 - other["_half"])
    unrehearsed = found[found["_way"] == 0].assign(_hits=-1.0)
    best = pd.concat([other, unrehearsed]).sort_values(["_hits", "_ssim", "_way"], ascending=[False, False, True], kind="stable")
    return best.drop_duplicates([*place, "_half"])[[*place, "_half", "_way"]]


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
