"""The columns of the tables: one definition for the page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from benchmark.store.results import SUCCESS_SSIM
from reports import text
from reports.entries import AttackResult, Board, Entry
from reports.statistics import Estimate

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
    columns = entry_columns(board) + [
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
    return [
        Column("rank", "by worst-case ASR, then by test accuracy", True, lambda e: _number(e.rank, 0)),
        Column("defense", "its specification, with the parameters that are not defaults; ★ marks the Pareto front of test accuracy "
               "and worst-case ASR", True, lambda e: Value(text.starred(e))),
        Column("all parameters", "of the defense, defaults included", False, lambda e: Value(text.parameters(e))),
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
        Column("epsilon", "privacy budget that the training spent, at the stated delta; smaller protects more", True,
               lambda e: Value(text.epsilon(e), _LAST if e.epsilon is None else e.epsilon)),
        Column("ASR blind", "attack success rate of attackers who know nothing of the defense: of each victim the likeliest of "
               "their reconstructions, at the checkpoint where the rate is highest", True,
               lambda e: _asr(e.blind, text.not_run(e, ["blind"]))),
        Column("ASR worst case", "attack success rate of an attacker who knows the defense: of each victim the likeliest of all "
               "reconstructions, at the checkpoint where the rate is highest; the rank goes by it", True,
               lambda e: _asr(e.worst_case, text.not_run(e))),
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


def overview(boards: list[Board]) -> list[tuple[Entry, list[Value]]]:
    """Of each defense one of its entries, and its worst-case ASR and test accuracy on each board; best first, by the mean over the
    boards where both were measured."""
    on_boards = [{(entry.defense, entry.submission): entry for entry in board.entries} for board in boards]
    rows = []
    for key in dict.fromkeys(key for entries in on_boards for key in entries):
        found = [entries.get(key) for entries in on_boards]
        points = [entry.measured for entry in found if entry is not None and entry.measured is not None]
        place = (mean(asr for _, asr in points), -mean(accuracy for accuracy, _ in points)) if points else (_LAST, 0.0)
        rows.append((place, next(entry for entry in found if entry is not None), [_both(entry) for entry in found]))
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


def _both(entry: Entry | None) -> Value:
    if entry is None or entry.worst_case is None or entry.worst_case.asr is None:
        return Value("not run", _LAST)
    asr = entry.worst_case.asr.mean
    accuracy = text.number(entry.accuracy.mean if entry.accuracy else None)
    return Value(f"{text.number(asr)} · {accuracy}" + (" ★" if entry.pareto else ""), asr)
