"""The columns of a board's tables: one definition for the page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from benchmark.specification import SINGLE
from benchmark.store.tables import RECOVERED_PSNR
from reports import text
from reports.boards import Board, Family, Standing
from reports.cells import LAST, RECOVERED, Value, asr, at_least, estimate, number, recovered
from reports.entries import Entry, IdentificationResult

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table: its title, what it means, whether it is shown at first, its value for a family or entry, and whether it
    is shown on a narrow screen too."""

    title: str
    meaning: str
    shown: bool
    value: Callable[[Row], Value]
    narrow: bool = False


def family_columns(board: Board) -> list[Column[Family]]:
    """The columns of the table of families, which is ranked; those not shown at first are in the page only, to be chosen."""
    first, *others = [board.ranked_by, *(mode for mode in board.observed if mode != board.ranked_by)]
    thresholds, tuned = board.protocol.thresholds, board.protocol.tuning is not None
    best = "validation accuracy" if tuned else "test accuracy, since nothing was tuned"
    by_defense = {(entry.defense, entry.submission): entry for entry in board.entries}

    def of_safe(family: Family, mode: str) -> Entry | None:
        return by_defense.get((family.standing(mode).safe or "", family.submission))

    def strength(family: Family, mode: str) -> Value:
        return Value(family.standing(mode).safe or text.ABSENT)

    def undefended(family: Family) -> Entry | None:
        plain = [entry for entry in board.entries if entry.defense == board.undefended]
        return next((entry for entry in plain if entry.submission == family.submission), plain[0] if plain else None)

    columns: list[Column[Family]] = [
        Column("rank", "by safe accuracy; families without a safe strength come behind, by free privacy, and then by the least "
               "that any of their strengths leaks", True, lambda f: number(f.rank, 0), narrow=True),
        Column("family", "defenses that differ in one parameter alone", True, lambda f: Value(f.name), narrow=True),
        Column(f"safe accuracy, {text.short_mode(first)}",
               f"test accuracy of the safe strength that has the best {best}, gradients {text.mode(first)}. Safe: with 95 % "
               f"confidence a worst-case ASR of at most {thresholds.asr:g} and a top-1 of at most {thresholds.above_chance:g} "
               f"above chance among {thresholds.candidates} "
               "candidates, or as many as there are", True, lambda f: _safe(f, first), narrow=True),
        Column("strength", "the safe one that was chosen", True, lambda f: strength(f, first)),
        Column("epsilon", _epsilon(board), any(entry.epsilon is not None for entry in board.entries),
               lambda f: epsilon_value(of_safe(f, first))),
        Column("undefended", "test accuracy of the undefended model", board.undefended is not None,
               lambda f: number(getattr(getattr(undefended(f), "accuracy", None), "mean", None), 3)),
    ]
    for mode in others:
        columns += [
            Column(f"safe accuracy, {text.short_mode(mode)}", f"the same for gradients {text.mode(mode)}", True,
                   lambda f, mode=mode: _safe(f, mode)),  # type: ignore[misc]
            Column(f"strength, {text.short_mode(mode)}", "the safe one that was chosen for these", False,
                   lambda f, mode=mode: strength(f, mode))]  # type: ignore[misc]
    columns += [
        Column("free privacy", "the least that a strength leaks which loses at most "
               f"{100 * thresholds.loss:g} points of the undefended model's accuracy, gradients {text.mode(first)}: the higher of "
               "worst-case ASR and top-1; and which strength it is", True,
               lambda f: Value(text.leaked(f.free), LAST if f.free is None else f.free.leakage)),
        Column("least leakage", "of any strength, at whatever accuracy", False, lambda f: number(f.leakage, 2)),
        Column("validation accuracy", "by which the safe strength was chosen", False,
               lambda f: number(f.standing(first).validation, 3)),
        Column("strengths", "how many were measured", False, lambda f: number(len(f.defenses), 0)),
    ]
    if any(family.submission for family in board.families):
        columns.insert(2, Column("entry", "name of the submission", True, lambda f: Value(f.submission)))
    return columns


def board_columns(board: Board) -> list[Column[Entry]]:
    """The columns of the table of points; those not shown at first are in the page only, to be chosen."""
    columns = entry_columns(board) + [
        Column(f"ASR {text.checkpoint(point)}", f"attack success rate of the worst case {text.checkpoint(point)}, gradients "
               f"{text.mode(board.ranked_by)}", False,
               lambda e, point=point: asr(e.seen(board.ranked_by).worst_case_at(point), text.not_run(e)))  # type: ignore[misc]
        for point in board.checkpoints
    ]
    if any(entry.submission for entry in board.entries):
        columns.insert(2, Column("entry", "name of the submission", True, lambda e: Value(e.submission)))
    return columns


def entry_columns(board: Board) -> list[Column[Entry]]:
    """The columns that every board has alike."""
    first, *others = [board.ranked_by, *(mode for mode in board.observed if mode != board.ranked_by)]
    return [
        Column("rank", "of its family", True, lambda e: number(board.family(e).rank, 0), narrow=True),
        Column("defense", "its specification, with the parameters that are not defaults; ★ marks the Pareto front of test accuracy "
               "and worst-case ASR", True, lambda e: Value(text.starred(e)), narrow=True),
        Column("family", "defenses that differ in one parameter alone", False, lambda e: Value(e.family)),
        Column("all parameters", "of the defense, defaults included", False, lambda e: Value(text.parameters(e))),
        *_leakage(board, first, narrow=True),
        *_utility(board),
        *(column for mode in others for column in _leakage(board, mode, narrow=False)),
        Column("epsilon", _epsilon(board), any(entry.epsilon is not None for entry in board.entries), epsilon_value),
        *_cost(),
        *_more(board, first),
    ]


def epsilon_value(entry: Entry | None) -> Value:
    """The privacy budget of an entry."""
    return Value(text.ABSENT, LAST) if entry is None or entry.epsilon is None else Value(text.epsilon(entry), entry.epsilon)


def _leakage(board: Board, mode: str, *, narrow: bool) -> list[Column[Entry]]:
    """What is rebuilt and identified in a mode."""
    measured, evaluation = any(entry.seen(mode).identifications for entry in board.entries), board.protocol.evaluation
    who = "who knows nothing of the defense" if board.only_blind else "who knows the defense"
    title = f"{text.compared(board)}, {text.short_mode(mode)}"
    return [
        Column(f"ASR, {text.short_mode(mode)}", f"attack success rate of an attacker {who}, gradients {text.mode(mode)}, by "
               "what does best when rehearsed on other victims, at the checkpoint where the rate is highest", True,
               lambda e: asr(e.seen(mode).worst_case, text.not_run(e)), narrow),
        *[Column(f"{RECOVERED}, {text.short_mode(mode)}", "share of images that the same reconstructions recover at "
                 f"more than {RECOVERED_PSNR:g} dB, by which attacks on batches are compared (Dimitrov et al., TMLR 2022), with "
                 "its 95 % interval; nothing is ranked by it", True,
                 lambda e: recovered(e.seen(mode).worst_case, text.not_run(e)))] * (mode != SINGLE),
        Column(f"top-1 of {title}", f"share of victims whose image an attacker {who} names rightly among so many candidates, "
               f"gradients {text.mode(mode)}, with its 95 % interval, at the checkpoint where it is highest; by chance one of "
               "them; exact: by the likelihood itself, so "
               "that no attacker does better against that pool", measured or bool(evaluation.candidates),
               lambda e: _compared(board, e.seen(mode)), narrow),
    ]


def _utility(board: Board) -> list[Column[Entry]]:
    epochs = board.protocol.training.epochs
    return [
        Column("test accuracy", "after the last epoch; mean over seeds with a 95 % bootstrap interval; at chance: by its interval "
               "no better than to name the most frequent class, so that it counts nowhere", True, _accuracy, narrow=True),
        Column("change", "of the test accuracy against the undefended model, by seed", True,
               lambda e: estimate(e.change, 3, signed=True)),
        Column("training", "optimizer, step size and batch size" + (", of those tried the best by validation accuracy"
               if board.protocol.tuning else ""), False, lambda e: Value(text.training(e), e.learning_rate or LAST)),
        Column("validation accuracy", "of the trial that was chosen", False, lambda e: number(e.validation, 3)),
        Column("epochs to converge", "to 95 % of the best test accuracy of the undefended model", False,
               lambda e: Value(text.convergence(e, epochs), _epochs(e, epochs))),
        *[Column("rounds to converge", "the same in rounds, which are steps of the server", False,
                 lambda e: Value(text.convergence(e, epochs, e.rounds_per_epoch), _epochs(e, epochs)))]
        * (board.protocol.training.client is not None),
        Column("area", "under the curve of test accuracy, as a mean accuracy", False, lambda e: number(e.area, 3)),
    ]


def _cost() -> list[Column[Entry]]:
    return [
        Column("sent", "bytes of one shared gradient, in the simplest code that fits it", True,
               lambda e: Value(text.bytes_sent(e.sent_bytes), LAST if e.sent_bytes is None else e.sent_bytes)),
        Column("sent, ratio", "as a multiple of the undefended model's", False,
               lambda e: Value(text.ratio(e.sent_ratio), e.sent_ratio or 1.0)),
        Column("time", "of training, as a multiple of the undefended model's; median epoch", True,
               lambda e: Value(text.ratio(e.time_ratio), e.time_ratio or 1.0)),
        Column("seconds per epoch", "of training: median over epochs, mean over seeds", False,
               lambda e: number(e.seconds_per_epoch, 2)),
        Column("memory", "most bytes that tensors hold in a training step, as a multiple of the undefended model's", False,
               lambda e: Value(text.ratio(e.memory_ratio), e.memory_ratio or 1.0)),
        Column("step memory (MB)", "most bytes that tensors hold in a training step, model and optimizer included", False,
               lambda e: number(None if e.step_memory is None else e.step_memory / 1e6, 1)),
    ]


def _more(board: Board, mode: str) -> list[Column[Entry]]:
    """What else was found in the mode by which is ranked."""
    def of_attack(value: Callable[[Entry], Value]) -> Callable[[Entry], Value]:
        return lambda e: value(e.seen(mode))

    def of_identification(value: Callable[[IdentificationResult], Value]) -> Callable[[Entry], Value]:
        def shown(e: Entry) -> Value:
            result = board.identification(e.seen(mode))
            return Value(text.ABSENT, LAST) if result is None else value(result)

        return shown

    all_of = f"identified (M = {text.span(board.candidates)})" if board.candidates else "identified"
    columns: list[Column[Entry]] = [
        Column("ASR blind", "attack success rate of attackers who know nothing of the defense, at the checkpoint where the rate is "
               "highest", False,
               of_attack(lambda e: asr(e.blind, text.not_run(e, ["blind"])))),
        Column("ASR oracle bound", "of each victim the reconstruction most like the original, chosen by looking at it; no attacker "
               "can, and nothing is ranked by it", False, of_attack(lambda e: asr(e.oracle_bound, text.not_run(e)))),
        Column("SSIM", "of the worst case; mean over images", False, of_attack(lambda e: _of(e, "ssim", 2))),
        Column("PSNR (dB)", "as SSIM", False, of_attack(lambda e: _of(e, "psnr", 1))),
        *[Column("LPIPS", "as SSIM; lower is more alike", False,
                 of_attack(lambda e: _of(e, "lpips", 2)))] * board.protocol.evaluation.lpips,
        Column("labels right", "share of labels that the attack inferred rightly; – where it was given them", False,
               of_attack(lambda e: number(getattr(e.worst_case, "label_accuracy", None), 2))),
        Column("strongest attacks", "of which attack the worst case has the reconstructions of how many images; its checkpoint",
               False, of_attack(lambda e: Value(text.strongest(e.worst_case)))),
        Column(all_of, "top-1 among all candidates, at the checkpoint where that of the ones compared is highest", False,
               of_identification(lambda r: Value(text.top_one(r.at_all, r), r.at_all.mean))),
        Column("identified blindly", "the same, by an attacker who knows nothing of the defense", False,
               of_attack(lambda e: estimate(getattr(e.identified_blindly, "at_all", None), 3))),
        Column("identified at most", "by any attacker: a proven bound, where what was observed has a guarantee", False,
               of_identification(lambda r: number(r.bound, 3))),
        Column("bits leaked", "lower 95 % limit of what the ranks of the true candidates tell, of log2 M bits", False,
               of_identification(lambda r: at_least(r.bits_low))),
        Column("identified by", "how candidates are scored, and when it was observed", False,
               of_identification(lambda r: Value(text.identified_by(r)))),
        Column("label inference", "share of labels inferred rightly from the gradient, whether or not attackers were given them; "
               "at the checkpoint where it is highest", False,
               of_attack(lambda e: number(getattr(e.label_share, "mean", None), 2))),
        Column("seeds", "trainings behind the row", False, lambda e: number(e.seeds, 0)),
        Column("images", "attacked, over all seeds", False, of_attack(lambda e: number(e.images, 0))),
    ]
    return [replace(column, meaning=f"{column.meaning}; gradients {text.mode(mode)}" if len(board.observed) > 1 else column.meaning)
            for column in columns if column.title != "seeds"] + [column for column in columns if column.title == "seeds"]


def _safe(family: Family, mode: str) -> Value:
    standing: Standing = family.standing(mode)
    return Value(text.safe(standing, family), LAST if standing.accuracy is None else -standing.accuracy.mean)


def _accuracy(entry: Entry) -> Value:
    value = estimate(entry.accuracy, 3)
    return value if entry.accuracy is None or entry.above_chance else replace(value, text=f"{value.text} at chance")


def _compared(board: Board, seen: Entry) -> Value:
    result = board.identification(seen)
    if result is not None:
        return Value(text.top_one(result.compared.rate, result), result.compared.rate.mean)
    if not board.protocol.evaluation.candidates:
        return Value("not measured", LAST)
    return Value("does not apply" if seen.unidentified else "not run", LAST)


def _of(seen: Entry, what: str, digits: int) -> Value:
    return number(getattr(getattr(seen.worst_case, what, None), "mean", None), digits)


def _epochs(entry: Entry, epochs: int) -> float:
    """Seeds that did not get there count as one epoch more than were trained."""
    if not entry.converged:
        return LAST
    return sum(epochs + 1 if epoch is None else epoch for epoch in entry.converged) / len(entry.converged)


def _epsilon(board: Board) -> str:
    costs = f" {text.TUNING_COSTS}" if board.protocol.tuning is not None else ""
    return ("privacy budget that the whole training spent, at the stated delta; smaller protects more. It is amplified by sampling "
            f"and bounds no identification, where the victim is known to take part.{costs}")
