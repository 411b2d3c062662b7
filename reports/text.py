"""Numbers and descriptions as text."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence

from benchmark.specification import TrialSpec
from reports.boards import Board
from reports.entries import AttackResult, Entry, IdentificationResult, Trial
from reports.statistics import Estimate

ABSENT = "–"
#: Attacks that a cell names; the other forms name all.
_MOST = 3

#: Stands above every board until it is done.
UNFINISHED = ("Trainings are not tuned: all defenses share one step size and number of epochs, so that one may learn more than is "
              "shown here.")
#: Stands above a board whose protocol has no candidates.
NOT_IDENTIFIED = ("Identification was not measured: a low rate here is no evidence that the images cannot be told from others. To "
                  "add it, give the command of the run again with --candidates 1000 on its folder; it uses the saved checkpoints "
                  "and trains nothing again.")
#: What the numbers of identification mean.
IDENTIFICATION = (
    "Which of M candidates was the victim's image? The others are images of the same split, of its class where labels are known, "
    "and an attacker ranks them by how likely they make the gradient that was shared. Top-1 is the share of victims whose image "
    "comes first: 1/M by chance, and 1 where nothing is hidden from someone who holds a list of suspects, whether or not the image "
    "can be rebuilt. Where the likelihood is exact no attacker does better against that pool; elsewhere a stronger one may.")
#: Stands above a board without informed attackers.
ONLY_BLIND = ("Only blind attackers were measured: none of them knows the defense. A low ASR here is no evidence that a defense "
              "holds.")


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


def overview(boards: Collection[Board]) -> str:
    """What a cell of the table over all boards holds."""
    identified = "top-1 identification among M candidates (lower is better) · " if any(board.candidates for board in boards) else ""
    return f"Worst-case ASR (lower is better) · {identified}test accuracy (higher is better)"


def epsilon(entry: Entry) -> str:
    """The privacy budget with its delta."""
    return ABSENT if entry.epsilon is None else f"{number(entry.epsilon)} (δ = {entry.delta:g})"


def checkpoint(epoch: int) -> str:
    """The name of a checkpoint."""
    return "untrained" if epoch == 0 else f"after {epoch} epoch{'s' if epoch > 1 else ''}"


def ratio(value: float | None) -> str:
    """A multiple of the undefended model's."""
    return ABSENT if value is None else f"{value:.2f}×"


def tried_with(trial: Trial | TrialSpec) -> str:
    """By what a model was trained."""
    return f"{trial.optimizer}, step size {trial.learning_rate:g}, batch size {trial.batch_size}"


def protocol(board: Board) -> str:
    """How a board was measured, in a sentence."""
    training, evaluation = board.protocol.training, board.protocol.evaluation
    rounds = f", {evaluation.rounds} rounds" if evaluation.rounds > 1 else ""
    size = f", resized to {board.protocol.image_size} pixels" if board.protocol.image_size else ""
    candidates = _candidates(evaluation.candidates, board.candidates)
    precision = "" if training.precision == "float32" else f" in {training.precision}"
    return (
        f"Adam, step size {training.learning_rate:g}, batches of {training.batch_size}, {training.epochs} epochs{precision}; "
        f"{evaluation.victims} victims per seed, gradients of {evaluation.batch_size} {images} each{rounds}, labels "
        f"{evaluation.labels}{candidates}; attackers {' and '.join(evaluation.knowledge)}: {_settings(board.protocol.attacks)} "
        f"(portfolio {board.protocol.portfolio}); data {board.protocol.fingerprint[:8]}{size}"
    )


def _candidates(asked: int, found: Sequence[int]) -> str:
    """Among how many images each victim's is identified; a class may have fewer than were asked for."""
    if not asked:
        return ""
    fewer = f" ({span(found)}, as many as there are)" if found and found[0] < asked else ""
    return f", identified among {asked} candidates{fewer}"


def span(numbers: Sequence[int]) -> str:
    """The least and the greatest of rising numbers."""
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def _settings(attacks: Collection[str]) -> str:
    """Attacks by their specifications; those with several settings by their names, with the number of settings."""
    by_name: dict[str, list[str]] = {}
    for attack in attacks:
        by_name.setdefault(attack.split("(")[0], []).append(attack)
    return ", ".join(f"{name} ({len(settings)} settings)" if len(settings) > 1 else settings[0]
                     for name, settings in by_name.items()) or "no attack"


def labelled(entry: Entry) -> str:
    """The defense, with the name of its submission where it has one."""
    return f"{entry.defense} ({entry.submission})" if entry.submission else entry.defense


def starred(entry: Entry) -> str:
    """The defense, with a star where it is on the Pareto front."""
    return f"{entry.defense} ★" if entry.pareto else entry.defense


def parameters(entry: Entry) -> str:
    """All parameters of a defense; of a composition, part by part."""
    return json.dumps(entry.parameters, ensure_ascii=False).strip("{}").replace('"', "") or ABSENT


def attacker(attack: str, knowledge: str) -> str:
    """An attack with what is known, where that makes a difference."""
    return f"{knowledge} {attack}" if knowledge in ("blind", "informed") else attack


def winners(result: AttackResult) -> str:
    """From which attacks' results one that chooses took its own, most first."""
    more = f", and {len(result.winners) - _MOST} more" if len(result.winners) > _MOST else ""
    return ", ".join(f"{count} x {name}" for name, count in list(result.winners.items())[:_MOST]) + more or ABSENT


def strongest(result: AttackResult | None) -> str:
    """The attacks that were chosen most, and when they observed."""
    return ABSENT if result is None else f"{winners(result)}; {checkpoint(result.checkpoint_epoch)}"


def top_one(result: IdentificationResult) -> str:
    """The rate among all candidates, and whether an exact likelihood gave it."""
    return estimate(result.at_all, 3) + (" exact" if result.exact else "")


def extremes(board: Board) -> str:
    """The lowest and the highest top-1 among all candidates, for who cannot see the figure."""
    rates = sorted((result.at_all.mean, labelled(entry)) for entry in board.entries if (result := board.identification(entry)))
    (low, least), (high, most) = rates[0], rates[-1]
    return f"among {span(board.candidates)} from {number(low, 3)} ({least}) to {number(high, 3)} ({most})"


def scored(result: IdentificationResult) -> str:
    """How candidates were scored."""
    return f"{result.method}, exact" if result.exact and result.method != "exact" else result.method


def identified_by(result: IdentificationResult | None) -> str:
    """How candidates were scored, and when it was observed."""
    return ABSENT if result is None else f"{scored(result)}; {checkpoint(result.checkpoint_epoch)}"


def not_run(entry: Entry, knowledge: Collection[str] = ("blind", "informed")) -> str:
    """Why there is no number of attackers with this knowledge."""
    return "does not apply" if any(result.reason and result.knowledge in knowledge for result in entry.attacks) else "not run"
