"""Numbers of a leaderboard that cannot be together: what follows from others must be what these give."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from benchmark.errors import shortened
from reports import ranks
from reports.boards import Board, Protocol
from reports.entries import Entry
from reports.families import ranked
from reports.statistics import Estimate

#: By how much means of many numbers may leave their interval or range.
_ROUNDING = 1e-9
#: The confidence at which a rate above its bound is a bug.
_SURELY = 0.999


def contradictions(boards: list[Board]) -> Iterator[str]:
    """Each with its field. Whoever asks for the next one has numbers that are in their range at least."""
    for b, board in enumerate(boards):
        where = f"boards.{b}"
        seen: set[tuple[str, str]] = set()
        for e, entry in enumerate(board.entries):
            if (entry.defense, entry.submission) in seen:
                yield f"{where}.entries.{e}.defense: {shortened(entry.defense)} is there twice"
            seen.add((entry.defense, entry.submission))
            yield from _entry(f"{where}.entries.{e}", entry, board.protocol)
        if board.undefended not in (None, *(entry.defense for entry in board.entries)):
            yield f"{where}.undefended: {shortened(board.undefended)} is no entry"
        yield from _families(where, board)


def _entry(where: str, entry: Entry, protocol: Protocol) -> Iterator[str]:
    yield from _outside(f"{where}.accuracy", entry.accuracy, 0, 1)
    yield from _outside(f"{where}.change", entry.change, -1, 1)
    for a, result in enumerate(entry.attacks):
        yield from _outside(f"{where}.attacks.{a}.asr", result.asr, 0, 1)
        yield from _outside(f"{where}.attacks.{a}.recovered", result.recovered, 0, 1)
        yield from _outside(f"{where}.attacks.{a}.ssim", result.ssim, -1, 1)
        yield from _outside(f"{where}.attacks.{a}.psnr", result.psnr, float("-inf"), float("inf"))
        yield from _outside(f"{where}.attacks.{a}.lpips", result.lpips, 0, float("inf"))
    yield from _training(where, entry, protocol)
    yield from _observed(where, entry, protocol)
    for mode in protocol.evaluation.observed:
        yield from _worst_cases(where, entry.seen(mode), mode)
    yield from _identifications(f"{where}.identifications", entry, protocol.evaluation.candidates)


def _training(where: str, entry: Entry, protocol: Protocol) -> Iterator[str]:
    """Each of the combinations to be tried once, and what was trained is the best of them, or what is trained without trials."""
    tried = [(trial.optimizer, trial.learning_rate, trial.batch_size) for trial in entry.trials]
    combinations = protocol.tuning.combinations() if protocol.tuning is not None else []
    for t, place in enumerate(tried):
        if place not in combinations or place in tried[:t]:
            yield f"{where}.trials.{t}: not one of those of the protocol, or there twice"
    best = max((trial for trial in entry.trials if not trial.diverged), key=lambda trial: trial.validation_accuracy, default=None)
    for t, trial in enumerate(entry.trials):
        if trial.chosen is not (trial is best):
            yield f"{where}.trials.{t}.chosen: must mark the first of the best validation accuracy among those that did not diverge"
    if entry.accuracy is None:
        return
    if entry.validation != (None if best is None else best.validation_accuracy):
        yield f"{where}.validation: must be that of the trial that was chosen, got {entry.validation}"
    by = protocol.training if protocol.tuning is None else best
    found = entry.optimizer, entry.learning_rate, entry.batch_size
    if by is not None and found != (by.optimizer, by.learning_rate, by.batch_size):
        yield f"{where}: must be trained by {by.optimizer}, {by.learning_rate:g} and {by.batch_size}, got {found}"


def _observed(where: str, entry: Entry, protocol: Protocol) -> Iterator[str]:
    """Gradients are of a mode that was asked for, and of as many images as it says."""
    for name in ("attacks", "identifications", "unidentified"):
        for r, result in enumerate(getattr(entry, name)):
            if result.observed not in protocol.evaluation.observed:
                yield f"{where}.{name}.{r}.observed: {result.observed!r} is not observed by the protocol"
            images = getattr(result, "batch_size", None)
            trained = entry.batch_size if protocol.training.client is None else protocol.training.client.behind
            expected = None if trained is None else protocol.evaluation.images_of(result.observed, trained)
            # Behind a sum over clients are the images of all.
            summed = protocol.training.client is not None and expected is not None and images is not None and not images % expected
            if images is not None and images != expected and not summed:
                yield f"{where}.{name}.{r}.batch_size: gradients {result.observed!r} are of {expected} images here, got {images}"


def _families(where: str, board: Board) -> Iterator[str]:
    """Each entry is in one family, and what families reach follows from the entries."""
    places = [(family.submission, defense) for family in board.families for defense in family.defenses]
    names = [(family.submission, family.name) for family in board.families]
    if len(set(names)) < len(names) or sorted(places) != sorted((entry.submission, entry.defense) for entry in board.entries):
        yield f"{where}.families: each must be there once, and each entry in one of them"
    for e, entry in enumerate(board.entries):
        if not any((family.name, family.submission) == (entry.family, entry.submission) and entry.defense in family.defenses
                   for family in board.families):
            yield f"{where}.entries.{e}.family: {shortened(entry.family)} does not have {shortened(entry.defense)}"
    expected = ranked(board)
    for f, (family, right) in enumerate(zip(board.families, expected.families, strict=True)):
        if (family.submission, family.name) != (right.submission, right.name):
            yield f"{where}.families.{f}: must be ranked; {shortened(right.name)} belongs here, got {shortened(family.name)}"
        for name in ("rank", "standings", "free", "leakage", "at_chance"):
            given, found = getattr(family, name), getattr(right, name)
            if given != found:
                yield f"{where}.families.{f}.{name}: the entries give {shortened(found)}, got {shortened(given)}"
    for e, (entry, right_entry) in enumerate(zip(board.entries, expected.entries, strict=True)):
        if entry != right_entry:
            yield (f"{where}.entries.{e}: must stand in the order of the families, with the Pareto front marked; "
                   f"{shortened(right_entry.defense)} belongs here, {'on' if right_entry.pareto else 'not on'} the front")


def _worst_cases(where: str, seen: Entry, mode: str) -> Iterator[str]:
    """Whatever was measured has a worst case, which is no more like the originals than what was chosen by looking at them."""
    for epoch in sorted({result.checkpoint_epoch for result in seen.attacks if result.asr is not None}):
        worst, bound = seen.worst_case_at(epoch), seen.oracle_bound_at(epoch)
        of = f"of checkpoint {epoch}, observed {mode},"
        if worst is None or bound is None or worst.ssim is None or bound.ssim is None:
            yield f"{where}.attacks: {of} the worst case of informed attackers or the oracle bound is missing"
        elif worst.ssim.mean > bound.ssim.mean + _ROUNDING:
            yield (f"{where}.attacks: {of} the worst case has a mean SSIM of {worst.ssim.mean}, above that of the oracle bound, "
                   f"{bound.ssim.mean}")


def _identifications(where: str, entry: Entry, asked: int) -> Iterator[str]:
    """Ranks tell no more than there is to tell, rates fall as the pool grows, and none is above what a guarantee allows."""
    places = [(result.observed, result.checkpoint_epoch, result.knowledge) for result in entry.identifications]
    if len(set(places)) < len(places):
        yield f"{where}: a checkpoint is there twice with the same knowledge and gradients"
    for i, result in enumerate(entry.identifications):
        place, size, rate = f"{where}.{i}", result.candidates, result.at_all.mean
        for p, point in enumerate(result.top1):
            yield from _outside(f"{place}.top1.{p}.rate", point.rate, 0, 1)
        yield from _outside(f"{place}.label_share", result.label_share, 0, 1)
        if size > asked:
            yield f"{place}.candidates: must be at most those of the protocol, {asked}, got {size}"
        if result.top1[-1].size != size or any(after.size <= before.size for before, after in pairwise(result.top1)):
            yield f"{place}.top1: the sizes of the pool must rise up to that of all candidates, {size}"
        if any(after.rate.mean > before.rate.mean + _ROUNDING for before, after in pairwise(result.top1)):
            yield f"{place}.top1: the rate must not rise with the size of the pool"
        if result.limit < result.compared.rate.mean - _ROUNDING:
            yield f"{place}.limit: must be at least the rate, {result.compared.rate.mean:.6g}, got {result.limit:.6g}"
        hits = min(max(math.floor(result.victims * rate + 1e-6), 0), result.victims)
        least = ranks.lower_limit(hits, result.victims)
        for name, value, most in (
                ("median_rank", result.median_rank, float(size)), ("bits", result.bits, math.log2(size)),
                ("bits_low", result.bits_low, result.bits), ("mu_low", result.mu_low, ranks.mu_limit(least, size)),
                ("epsilon_low", result.epsilon_low, ranks.epsilon_limit(least, size, 0.0))):
            if value > most + _ROUNDING:
                yield f"{place}.{name}: the other numbers allow at most {most:.6g}, got {value:.6g}"
        if result.median_rank < 1:
            yield f"{place}.median_rank: must be at least 1, got {result.median_rank:.6g}"
        bound = None if result.mu is None else ranks.top_one_bound(result.mu, size)
        if (bound is None) is not (result.bound is None) or abs((bound or 0.0) - (result.bound or 0.0)) > _ROUNDING:
            yield f"{place}.bound: mu is {result.mu}, which gives {bound}, got {result.bound}"
        if bound is not None and (sure := ranks.lower_limit(hits, result.victims, _SURELY)) > bound:
            yield (f"{place}.top1: {rate:.4g} of {result.victims} victims identified among {size} candidates, at least {sure:.4g} "
                   f"at {100 * _SURELY:g} %, is above the bound {bound:.4g} that holds for every attacker: a bug in the defense, "
                   "its guarantee or the measurement")


def _outside(where: str, estimate: Estimate | None, low: float, high: float) -> Iterator[str]:
    if estimate is None:
        return
    bounds = [bound for bound in (estimate.low, estimate.mean, estimate.high) if bound is not None]
    if any(after < before - _ROUNDING for before, after in pairwise(bounds)):
        yield f"{where}: the mean must lie within its interval, got {estimate.mean} and [{estimate.low}, {estimate.high}]"
    if bounds[0] < low - _ROUNDING or bounds[-1] > high + _ROUNDING:
        yield f"{where}: must lie within [{low}, {high}], got {estimate.mean}, [{estimate.low}, {estimate.high}]"
