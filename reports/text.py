"""Numbers and descriptions as text."""

from __future__ import annotations

import json
import math

from reports.entries import AttackResult, Board, Entry
from reports.statistics import Estimate

ABSENT = "–"


def number(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits, a dash where there is none."""
    if value is None:
        return ABSENT
    # Adding zero turns a negative zero, also one made by rounding, into zero.
    return "∞" if math.isinf(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def estimate(value: Estimate | None, digits: int = 2, signed: bool = False) -> str:
    """``mean [low, high]``, or the mean alone where there is no interval."""
    if value is None:
        return ABSENT
    mean = f"{value.mean:+.{digits}f}" if signed else number(value.mean, digits)
    if value.low is None:
        return mean
    return f"{mean} [{number(value.low, digits)}, {number(value.high, digits)}]"


def convergence(entry: Entry, epochs: int) -> str:
    """Mean epochs to converge over the seeds, or how many seeds got there."""
    if not entry.converged:
        return ABSENT
    reached = [epoch for epoch in entry.converged if epoch is not None]
    if len(reached) == len(entry.converged):
        return number(sum(reached) / len(reached), 0 if len(set(reached)) == 1 else 1)
    if not reached:
        return f"> {epochs}"
    return f"> {epochs} in {len(entry.converged) - len(reached)} of {len(entry.converged)} seeds"


def epsilon(entry: Entry) -> str:
    """The privacy budget with its delta."""
    return ABSENT if entry.epsilon is None else f"{number(entry.epsilon)} (δ = {entry.delta:g})"


def checkpoint(epoch: int) -> str:
    """The name of a checkpoint."""
    return "untrained" if epoch == 0 else f"after {epoch} epoch{'s' if epoch > 1 else ''}"


def ratio(value: float | None) -> str:
    """A multiple of the undefended model's."""
    return ABSENT if value is None else f"{value:.2f}×"


def protocol(board: Board) -> str:
    """How a board was measured, in a sentence."""
    training, evaluation = board.protocol.training, board.protocol.evaluation
    images = "image" if evaluation.batch_size == 1 else "images"
    rounds = f", {evaluation.rounds} rounds" if evaluation.rounds > 1 else ""
    size = f", resized to {board.protocol.image_size} pixels" if board.protocol.image_size else ""
    added = f" with {', '.join(board.protocol.portfolio.added)}" if board.protocol.portfolio.added else ""
    precision = "" if training.precision == "float32" else f" in {training.precision}"
    return (
        f"Adam, step size {training.learning_rate:g}, batches of {training.batch_size}, {training.epochs} epochs{precision}; "
        f"{evaluation.victims} victims per seed, gradients of {evaluation.batch_size} {images} each{rounds}, labels "
        f"{evaluation.labels}; attacks: {', '.join(board.protocol.attacks) or 'none'} (portfolio "
        f"{board.protocol.portfolio.version}{added}); data {board.protocol.fingerprint[:8]}{size}"
    )


def labelled(entry: Entry) -> str:
    """The defense, with the name of its submission where it has one."""
    return f"{entry.defense} ({entry.submission})" if entry.submission else entry.defense


def starred(entry: Entry) -> str:
    """The defense, with a star where it is on the Pareto front."""
    return f"{entry.defense} ★" if entry.pareto else entry.defense


def parameters(entry: Entry) -> str:
    """All parameters of a defense; of a composition, part by part."""
    return json.dumps(entry.parameters, ensure_ascii=False).strip("{}").replace('"', "") or ABSENT


def winners(result: AttackResult) -> str:
    """From which attacks' results one that chooses took its own."""
    return ", ".join(f"{count} x {name}" for name, count in result.winners.items()) or ABSENT


def attack_and_checkpoint(result: AttackResult | None) -> str:
    """An attack and when it observed."""
    return ABSENT if result is None else f"{result.attack}, {checkpoint(result.checkpoint_epoch)}"


def not_run(board: Board, entry: Entry) -> str:
    """Why there is no number."""
    return "does not apply" if any(result.reason for result in entry.attacks) else "not run"
