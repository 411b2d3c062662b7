"""The columns of the tables: one definition for the page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean

from benchmark.store.tables import SUCCESS_SSIM
from reports import text
from reports.boards import Board
from reports.entries import AttackResult, Entry, IdentificationResult
from reports.statistics import Estimate

#: The sizes of pools that a table shows beside the largest; figure and other forms have more.
_SIZES = (2, 10, 100, 1000)
#: Where a missing value is sorted: behind all others.
_LAST = float("inf")


@dataclass(frozen=True)
class Value:
    """What a table shows, and the number it is sorted by (None: by the text)."""

    text: str
    order: float | None = None


@dataclass(frozen=True)
class Column:
    """A column of a board: its title, what it means, whether it is shown at first, and its value for an entry."""

    title: str
    meaning: str
    shown: bool
    value: Callable[[Entry], Value]


def board_columns(board: Board) -> list[Column]:
    """The columns of the ranked table; those not shown at first are in the page only, to be chosen."""
    title = f"identified (M = {text.span(board.candidates)})" if board.candidates else "identified"
    columns = [replace(column, title=title) if column.title == "identified" else column for column in entry_columns(board)] + [
        Column(f"ASR {text.checkpoint(point)}", f"attack success rate of the worst case {text.checkpoint(point)}", False,
               lambda e, point=point: _asr(e.worst_case_at(point), text.not_run(e)))  # type: ignore[misc]
        for point in board.checkpoints
    ]
    if any(entry.submission for entry in board.entries):
        columns.insert(2, Column("entry", "name of the submission", True, lambda e: Value(e.submission)))
    return columns


def entry_columns(board: Board) -> list[Column]:
    """The columns that every board has alike."""
    epochs = board.protocol.training.epochs
    asked, measured = bool(board.protocol.evaluation.candidates), bool(board.candidates)
    bounded = any(result.bound is not None for entry in board.entries for result in entry.identifications)
    return [
        Column("rank", "by worst-case ASR, then by test accuracy", True, lambda e: _number(e.rank, 0)),
        Column("defense", "its specification, with the parameters that are not defaults; ★ marks the Pareto front of test accuracy "
               "and worst-case ASR", True, lambda e: Value(text.starred(e))),
        Column("all parameters", "of the defense, defaults included", False, lambda e: Value(text.parameters(e))),
        Column("ASR worst case", "attack success rate of an attacker who knows the defense: of each victim the likeliest of all "
               "reconstructions, at the checkpoint where the rate is highest; the rank goes by it", True,
               lambda e: _asr(e.worst_case, text.not_run(e))),
        Column("identified", "top-1: share of victims whose image an attacker who knows the defense names rightly among M "
               f"candidates, with its 95 % interval, at the checkpoint where it is highest{_chance(board)}; exact: by the "
               "likelihood itself, so that no attacker does better against that pool", asked,
               lambda e: _identified(e, "informed", board)),
        Column("identified blindly", "as before, by an attacker who knows nothing of the defense", asked and board.only_blind,
               lambda e: _identified(e, "blind", board)),
        Column("identified at most", "by any attacker, at that checkpoint: a proven bound, where what was observed has a guarantee",
               bounded, lambda e: _number(getattr(e.identified, "bound", None), 3)),
        Column("bits leaked", "lower 95 % limit of what the ranks of the true candidates tell, of log2 M bits; as identified",
               measured, lambda e: _at_least(getattr(e.identified, "bits_low", None))),
        Column("identified by", "how candidates are scored, and when it was observed", False,
               lambda e: Value(text.identified_by(e.identified))),
        Column("label inference", "share of labels inferred rightly from the gradient, whether or not attackers were given them; "
               "at the checkpoint where it is highest", measured, lambda e: _number(getattr(e.label_share, "mean", None), 2)),
        Column("test accuracy", "after the last epoch; mean over seeds with a 95 % bootstrap interval", True,
               lambda e: _estimate(e.accuracy, 3)),
        Column("change", "of the test accuracy against the undefended model, by seed", True,
               lambda e: _estimate(e.change, 3, signed=True)),
        Column("epochs to converge", "to 95 % of the best test accuracy of the undefended model", True,
               lambda e: Value(text.convergence(e, epochs), _epochs(e, epochs))),
        Column("area", "under the curve of test accuracy, as a mean accuracy", False, lambda e: _number(e.area, 3)),
        Column("time", "of training, as a multiple of the undefended model's; median epoch", True,
               lambda e: Value(text.ratio(e.time_ratio), e.time_ratio or 1.0)),
        Column("seconds per epoch", "of training: median over epochs, mean over seeds", False,
               lambda e: _number(e.seconds_per_epoch, 2)),
        Column("memory", "most bytes that tensors hold in a training step, as a multiple of the undefended model's", True,
               lambda e: Value(text.ratio(e.memory_ratio), e.memory_ratio or 1.0)),
        Column("step memory (MB)", "most bytes that tensors hold in a training step, model and optimizer included", False,
               lambda e: _number(None if e.step_memory is None else e.step_memory / 1e6, 1)),
        Column("epsilon", "privacy budget that the whole training spent, at the stated delta; smaller protects more. It is "
               "amplified by sampling and bounds no identification, where the victim is known to take part", True,
               lambda e: Value(text.epsilon(e), _LAST if e.epsilon is None else e.epsilon)),
        Column("ASR blind", "attack success rate of attackers who know nothing of the defense: of each victim the likeliest of "
               "their reconstructions, at the checkpoint where the rate is highest", True,
               lambda e: _asr(e.blind, text.not_run(e, ["blind"]))),
        Column("ASR oracle bound", "of each victim the reconstruction most like the original, chosen by looking at it; no attacker "
               "can, and the rank does not go by it", False, lambda e: _asr(e.oracle_bound, text.not_run(e))),
        Column("SSIM", "of the worst case; mean over images", True, lambda e: _of(e.worst_case, "ssim", 2)),
        Column("PSNR (dB)", "as SSIM", True, lambda e: _of(e.worst_case, "psnr", 1)),
        Column("labels right", "share of labels that the attack inferred rightly; – where it was given them",
               board.protocol.evaluation.labels == "inferred", lambda e: _number(getattr(e.worst_case, "label_accuracy", None), 2)),
        Column("strongest attacks", "whose reconstructions the worst case chose for how many images, most first; its checkpoint",
               False, lambda e: Value(text.strongest(e.worst_case))),
        Column("seeds", "trainings behind the row", True, lambda e: _number(e.seeds, 0)),
        Column("victims", "images attacked, over all seeds", True, lambda e: _number(e.images, 0)),
    ]


def attack_table(entries: list[Entry]) -> tuple[list[str], list[list[Value]]]:
    """Header and rows of the table of every attack at every checkpoint."""
    header = ["defense", "checkpoint", "attack", "knowledge", f"ASR (SSIM ≥ {SUCCESS_SSIM})", "SSIM", "PSNR (dB)", "labels right",
              "seconds per victim", "chosen from"]
    rows = []
    for entry in entries:
        for result in entry.attacks:
            if result.reason:
                numbers = [Value(f"does not apply: {result.reason}", _LAST), *[Value(text.ABSENT, _LAST)] * 4, Value(text.ABSENT)]
            else:
                numbers = [_asr(result, text.ABSENT), _estimate(result.ssim), _estimate(result.psnr, 1),
                           _number(result.label_accuracy, 2), _number(result.seconds_per_victim, 2), Value(text.winners(result))]
            rows.append([Value(text.labelled(entry)), Value(text.checkpoint(result.checkpoint_epoch), result.checkpoint_epoch),
                         Value(result.attack), Value(result.knowledge or text.ABSENT), *numbers])
    return header, rows


def identification_table(entries: list[Entry]) -> tuple[list[tuple[str, str, bool]], list[list[Value]]]:
    """Titles with their meaning and whether they are shown at first, and rows, of the table of identification by checkpoint."""
    largest = max((result.candidates for entry in entries for result in entry.identifications), default=0)
    sizes = [size for size in _SIZES if size < largest]
    columns: list[tuple[str, str, bool, Callable[[Entry, IdentificationResult], Value]]] = [
        ("defense", "", True, lambda e, r: Value(text.labelled(e))),
        ("checkpoint", "", True, lambda e, r: Value(text.checkpoint(r.checkpoint_epoch), r.checkpoint_epoch)),
        ("knowledge", "", True, lambda e, r: Value(r.knowledge)),
        ("method", "how candidates are scored; exact: by the likelihood itself, so that no attacker does better against that pool",
         True, lambda e, r: Value(text.scored(r))),
        *((f"top-1 of {size}", f"share of victims whose image is named rightly among {size} candidates; chance is {1 / size:g}",
           True, lambda e, r, size=size: _estimate(r.at(size), 3)) for size in sizes),
        ("top-1 of M", "among all candidates; chance is 1/M", True, lambda e, r: _estimate(r.at_all, 3)),
        ("M", "candidates of a victim, the true one included", True, lambda e, r: _number(r.candidates, 0)),
        ("at most", "the bound on top-1 of M for every attacker, where what was observed is mu-GDP for the presence of one image",
         True, lambda e, r: _number(r.bound, 3)),
        ("median rank", "of the true candidate, of M", True, lambda e, r: Value(f"{r.median_rank:.6g}", r.median_rank)),
        ("bits leaked", "lower 95 % limit of what the ranks tell, of log2 M", True, lambda e, r: _at_least(r.bits_low)),
        ("bits, estimate", "of which the limit is beside it; more than 0 by chance too", False, lambda e, r: _number(r.bits, 2)),
        ("epsilon", "least privacy budget of what was observed, for the presence of one image, that the rate at M allows, at 95 %",
         True, lambda e, r: _at_least(r.epsilon_low)),
        ("mu", "likewise, of Gaussian differential privacy", True, lambda e, r: _at_least(r.mu_low)),
        ("labels right", "share of labels inferred rightly from the gradient", True, lambda e, r: _estimate(r.label_share)),
        ("victims", "gradients observed, over all seeds", True, lambda e, r: _number(r.victims, 0)),
        ("seconds per victim", "", True, lambda e, r: _number(r.seconds_per_victim, 3)),
    ]
    rows = []
    for entry in entries:
        rows += [[value(entry, result) for *_, value in columns] for result in entry.identifications]
        rows += [[Value(text.labelled(entry)), Value(text.checkpoint(obstacle.checkpoint_epoch), obstacle.checkpoint_epoch),
                  Value(obstacle.knowledge), Value(f"does not apply: {obstacle.reason}"),
                  *[Value(text.ABSENT, _LAST)] * (len(columns) - 4)] for obstacle in entry.unidentified]
    return [(title, meaning, shown) for title, meaning, shown, _ in columns], rows


def overview(boards: list[Board]) -> list[tuple[Entry, list[Value]]]:
    """Of each defense one of its entries, and on each board its worst-case ASR, top-1 where a board has it, and test accuracy; best
    first, by the mean of ASR and accuracy over the boards where both were measured."""
    identified = any(board.candidates for board in boards)
    on_boards = [{(entry.defense, entry.submission): entry for entry in board.entries} for board in boards]
    rows = []
    for key in dict.fromkeys(key for entries in on_boards for key in entries):
        found = [entries.get(key) for entries in on_boards]
        points = [entry.measured for entry in found if entry is not None and entry.measured is not None]
        place = (mean(asr for _, asr in points), -mean(accuracy for accuracy, _ in points)) if points else (_LAST, 0.0)
        values = [_point(board, entry, identified) for board, entry in zip(boards, found, strict=True)]
        rows.append((place, next(entry for entry in found if entry is not None), values))
    return [(entry, values) for _, entry, values in sorted(rows, key=lambda row: row[0])]


def _number(value: float | None, digits: int) -> Value:
    return Value(text.number(value, digits), _LAST if value is None else value)


def _estimate(value: Estimate | None, digits: int = 2, signed: bool = False) -> Value:
    return Value(text.estimate(value, digits, signed), _LAST if value is None else value.mean)


def _asr(result: AttackResult | None, absent: str) -> Value:
    return _estimate(result.asr) if result is not None and result.asr is not None else Value(absent, _LAST)


def _of(result: AttackResult | None, what: str, digits: int) -> Value:
    value: Estimate | None = None if result is None else getattr(result, what)
    return _number(None if value is None else value.mean, digits)


def _epochs(entry: Entry, epochs: int) -> float:
    """Seeds that did not get there count as one epoch more than were trained."""
    if not entry.converged:
        return _LAST
    return sum(epochs + 1 if epoch is None else epoch for epoch in entry.converged) / len(entry.converged)


def _point(board: Board, entry: Entry | None, identified: bool) -> Value:
    if entry is None or entry.worst_case is None or entry.worst_case.asr is None:
        return Value("not run", _LAST)
    asr = entry.worst_case.asr.mean
    result = board.identification(entry)
    top_one = [result.at_all.mean if result else None] * identified
    numbers = [asr, *top_one, entry.accuracy.mean if entry.accuracy else None]
    return Value(" · ".join(map(text.number, numbers)) + (" ★" if entry.pareto else ""), asr)


def _identified(entry: Entry, knowledge: str, board: Board) -> Value:
    result = entry.identified if knowledge == "informed" else entry.identified_blindly
    if result is not None:
        return Value(text.top_one(result), result.at_all.mean)
    if not board.protocol.evaluation.candidates:
        return Value("not measured", _LAST)
    return Value("does not apply" if any(obstacle.knowledge == knowledge for obstacle in entry.unidentified) else "not run", _LAST)


def _chance(board: Board) -> str:
    return f"; chance is 1/M = {1 / board.candidates[0]:.3g}" if len(board.candidates) == 1 else "; chance is 1/M"


def _at_least(value: float | None) -> Value:
    return Value(text.ABSENT, _LAST) if value is None else Value(f"≥ {text.number(value)}", value)
