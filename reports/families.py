"""Which strengths of a defense are safe, what privacy is free, and by both the ranks of families."""

from __future__ import annotations

from dataclasses import replace

from reports import ranks
from reports.boards import Board, Family, FreePrivacy, Standing
from reports.entries import AttackResult, Entry

#: By how much means may miss a threshold.
_ROUNDING = 1e-9


def ranked(board: Board) -> Board:
    """The board with its families ranked and its entries in their order.

    Of the families names, parameters, defenses and submissions are taken as they are; all else follows from the entries. First come
    families with a safe strength, by their safe accuracy in :attr:`Board.ranked_by`, highest first; then those with free privacy by
    what it leaks, and the others by the least that any strength leaks, lowest first; last, without a rank, those of which nothing
    that counts was measured. The Pareto front of test accuracy and worst-case ASR is marked among the entries above chance.
    """
    few = {mode: estimated(board, mode) for mode in board.observed}
    judged = [_judged(board, family, few) for family in board.families]
    ordered = sorted(judged, key=lambda family: (*_place(board, family), family.name, family.submission))
    families = [replace(family, rank=None if _place(board, family)[0] == _NOWHERE else place)
                for place, family in enumerate(ordered, start=1)]
    entries = [entry for family in families for entry in board.members(family)]
    points = [entry.seen(board.ranked_by).measured if entry.above_chance else None for entry in entries]
    return replace(board, families=families, entries=[
        replace(entry, pareto=point is not None and not any(other is not None and _dominates(other, point) for other in points))
        for entry, point in zip(entries, points, strict=True)])


def is_safe(board: Board, entry: Entry, mode: str, by_estimates: bool | None = None) -> bool:
    """Whether gradients of this mode tell little enough, and the model learned something; ``by_estimates`` where the board is
    :func:`estimated`, which is found out where it is not given.

    Who knows the defense must have tried both to rebuild images and to identify them. Every checkpoint counts, and so does what
    blind attackers rebuild.
    """
    thresholds, seen = board.protocol.thresholds, entry.seen(mode)
    by_estimates = estimated(board, mode) if by_estimates is None else by_estimates
    if ("informed" not in board.protocol.evaluation.knowledge or not entry.above_chance
            or seen.worst_case is None or seen.identified is None):
        return False
    if not by_estimates and (_victims(seen) or 0) < thresholds.victims:
        return False
    # The limits of all: that of the highest rate need not be the highest limit.
    rebuilt = [_asr(result, by_estimates) for result in seen.worst_cases]
    above = [(result.compared.rate.mean if by_estimates else result.limit) - thresholds.top1(result.compared.size)
             for result in seen.identifications_informed]
    return max(rebuilt) <= thresholds.asr + _ROUNDING and max(above) <= _ROUNDING


def _asr(result: AttackResult, by_estimates: bool) -> float:
    assert result.asr is not None
    return result.asr.mean if by_estimates else ranks.upper_limit(round(result.asr.mean * result.images), result.images)


def estimated(board: Board, mode: str) -> bool:
    """Whether no defense of the board that was measured has enough victims to be called safe, so that estimates take the place of
    limits."""
    counts = [count for entry in board.entries if (count := _victims(entry.seen(mode))) is not None]
    return bool(counts) and max(counts) < board.protocol.thresholds.victims


def leakage(board: Board, entry: Entry) -> FreePrivacy | None:
    """What a strength leaks in the mode by which is ranked, whether or not that is free; None where something that the protocol
    asks for was not measured, or the model learned nothing."""
    seen = entry.seen(board.ranked_by)
    worst, identified = seen.worst_case, board.identification(seen)
    asr = worst.asr if worst is not None else None
    top1 = identified.compared.rate if identified is not None else None
    missing = (asr is None and board.protocol.attacks) or (top1 is None and board.protocol.evaluation.candidates)
    if missing or (asr is None and top1 is None) or entry.accuracy is None or not entry.above_chance:
        return None
    return FreePrivacy(entry.defense, asr, top1, entry.accuracy)


def _judged(board: Board, family: Family, few: dict[str, bool]) -> Family:
    """``few`` says of each mode whether it is :func:`estimated`."""
    members = board.members(family)
    leaks = [(entry, found) for entry in members if (found := leakage(board, entry)) is not None]
    free = [found for entry, found in leaks if entry.defense == board.undefended
            or (entry.change is not None and entry.change.mean >= -board.protocol.thresholds.loss - _ROUNDING)]
    return Family(
        family.name, family.parameter, family.defenses, None,
        [_standing(board, members, mode, few[mode]) for mode in board.observed],
        min(free, key=lambda found: found.leakage, default=None), min((found.leakage for _, found in leaks), default=None),
        any(entry.accuracy for entry in members) and not any(entry.above_chance for entry in members), family.submission)


def _standing(board: Board, members: list[Entry], mode: str, few: bool) -> Standing:
    safe = [entry for entry in members if is_safe(board, entry, mode, few)]
    if not safe:
        return Standing(mode, estimated=few)
    tuned = board.protocol.tuning is not None

    def chosen_by(entry: Entry) -> float:
        assert entry.accuracy is not None
        return entry.accuracy.mean if not tuned else -1.0 if entry.validation is None else entry.validation

    best = max(safe, key=chosen_by)
    return Standing(mode, best.defense, best.accuracy, best.validation, few)


#: The place of families without a rank.
_NOWHERE = 3


def _place(board: Board, family: Family) -> tuple[int, float]:
    """By which families are sorted: what they have, and how good it is."""
    accuracy = family.standing(board.ranked_by).accuracy
    if accuracy is not None:
        return 0, -accuracy.mean
    if family.free is not None:
        return 1, family.free.leakage
    return (2, family.leakage) if family.leakage is not None else (_NOWHERE, 0.0)


def _victims(seen: Entry) -> int | None:
    """How many victims there are of both kinds; None where one was not measured."""
    worst, identified = seen.worst_case, seen.identified
    return None if worst is None or identified is None else min(worst.images, identified.victims)


def _dominates(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other != point and other[0] >= point[0] and other[1] <= point[1]
