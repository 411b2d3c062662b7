"""Numbers and descriptions as text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence

from benchmark.specification import AS_TRAINED, SINGLE, TrialSpec
from reports.boards import Board, Family, FreePrivacy, Standing
from reports.entries import COMPARED, AttackResult, Entry, IdentificationResult, Trial
from reports.statistics import Estimate

ABSENT = "–"
_OPTIMIZERS = {"adam": "Adam", "sgd": "SGD"}
#: Those of a defense or an attack, with their parentheses.
_PARAMETERS = r"\((?:[^()']|'[^']*')*\)"
#: Attacks that a cell names; the other forms name all.
_MOST = 3

#: Stands above a board whose trainings were not tuned.
NOT_TUNED = ("Not tuned: all defenses share one optimizer, step size and batch size, so that one may learn more than is shown "
             "here, and safe strengths are compared by test images. To tune each, give the command of the run again with --tuning.")
#: Stands where epsilon does, on a board whose trainings were tuned.
TUNING_COSTS = ("Epsilon is that of the one training; what was learned about the images by trying several, of which the best was "
                "chosen, is not in it (Papernot and Steinke, ICLR 2022).")
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


def convergence(entry: Entry, epochs: int, each: int | None = 1) -> str:
    """Mean epochs to converge over the seeds, or how many seeds got there; of ``each`` so many rounds in rounds."""
    if not entry.converged or each is None:
        return ABSENT
    epochs *= each
    reached = [epoch * each for epoch in entry.converged if epoch is not None]
    if len(reached) == len(entry.converged):
        return number(sum(reached) / len(reached), 0 if len(set(reached)) == 1 else 1)
    if not reached:
        return f"> {epochs}"
    return f"> {epochs} in {len(entry.converged) - len(reached)} of {len(entry.converged)} seeds"


def cautions(board: Board) -> list[str]:
    """What has to be known before a board is read."""
    tuning, epochs = board.protocol.tuning, board.protocol.training.epochs
    needed = board.protocol.thresholds.victims
    found = [
        (tuning is None, NOT_TUNED),
        (tuning is not None and tuning.epochs is not None and tuning.epochs < epochs,
         f"Tuned on {tuning.epochs if tuning else 0} of {epochs} epochs: what learns best in the first ones was chosen."),
        (board.too_few_victims, f"Too few victims: with fewer than {needed} of a defense nothing can be called safe, even if none "
                                "leaks. The ranks go by the estimates instead of their upper limits, marked as estimated."),
        (board.only_blind, ONLY_BLIND), (not board.protocol.evaluation.candidates, NOT_IDENTIFIED)]
    return [caution for applies, caution in found if applies]


def overview(boards: Collection[Board]) -> str:
    """What a cell of the table over all boards holds."""
    single = {mode(board.ranked_by) for board in boards}
    return (f"Safe accuracy, gradients {' or '.join(sorted(single))} (higher is better); where no strength is safe, the least "
            "leakage (lower is better) at next to no loss, or of any strength. Of each defense the family that ranks best")


def mode(observed: str) -> str:
    """How many images are behind a gradient."""
    return {AS_TRAINED: "as trained", SINGLE: "of single images"}.get(observed, f"of {observed} images")


def short_mode(observed: str) -> str:
    """The same for a title."""
    return {AS_TRAINED: "as trained", SINGLE: "single"}.get(observed, f"{observed} images")


def epsilon(entry: Entry) -> str:
    """The privacy budget with its delta."""
    return ABSENT if entry.epsilon is None else f"{number(entry.epsilon)} (δ = {entry.delta:g})"


def checkpoint(epoch: int) -> str:
    """The name of a checkpoint."""
    return "untrained" if epoch == 0 else f"after {epoch} epoch{'s' if epoch > 1 else ''}"


def ratio(value: float | None) -> str:
    """A multiple of the undefended model's."""
    return ABSENT if value is None else f"{value:.2f}×"


def optimizer(name: str) -> str:
    """As people write it."""
    return _OPTIMIZERS[name]


def tried_with(trial: Trial | TrialSpec) -> str:
    """By what a model was trained."""
    return f"{optimizer(trial.optimizer)}, step size {trial.learning_rate:g}, batch size {trial.batch_size}"


def training(entry: Entry) -> str:
    """By what it was trained, in short."""
    if entry.learning_rate is None or entry.optimizer is None:
        return ABSENT
    return f"{optimizer(entry.optimizer)} {entry.learning_rate:g}, {entry.batch_size}"


def protocol(board: Board) -> str:
    """How a board was measured, in a sentence."""
    evaluation, epochs = board.protocol.evaluation, board.protocol.training.epochs
    precision = "" if board.protocol.training.precision == "float32" else f" in {board.protocol.training.precision}"
    rounds = f", {evaluation.rounds} rounds" if evaluation.rounds > 1 else ""
    size = f", resized to {board.protocol.image_size} pixels" if board.protocol.image_size else ""
    several = f" (of which as many are attacked as have {evaluation.images} images)" if set(board.observed) != {SINGLE} else ""
    return (
        f"{_trained(board)}, {epochs} epoch{'s' if epochs != 1 else ''}{precision}{_clients(board)}; "
        f"{evaluation.victims} victims per seed, "
        f"gradients {' and '.join(map(mode, board.observed))}{several}{rounds}, labels {evaluation.labels}"
        f"{_candidates(evaluation.candidates, board.candidates)}; attackers {' and '.join(evaluation.knowledge)}: "
        f"{_settings(board.protocol.attacks)} (portfolio {board.protocol.portfolio}); data {board.protocol.fingerprint[:8]}{size}"
    )


def _trained(board: Board) -> str:
    training, tuning = board.protocol.training, board.protocol.tuning
    if tuning is None:
        return f"{optimizer(training.optimizer)}, step size {training.learning_rate:g}, batches of {training.batch_size}"
    epochs = f" after {tuning.epochs} epoch{'s' if tuning.epochs != 1 else ''}" if tuning.epochs is not None else ""
    return (f"Tuned for each defense on {tuning.validation:.3g} of the training images{epochs}: "
            f"{' or '.join(map(optimizer, tuning.optimizers))}, step size "
            f"{' or '.join(f'{step:g}' for step in tuning.step_sizes)}, batches of {' or '.join(map(str, tuning.batch_sizes))}")


def _clients(board: Board) -> str:
    """What clients do, where there are several, or several local steps."""
    client = board.protocol.training.client
    if client is None:
        return ""
    steps = (f"{client.local_steps} local steps of {client.local_step_size:g} on batches of {client.batch_size}"
             if client.local_steps > 1 else f"one gradient of {client.batch_size}")
    several = f"{client.participants} participants" if client.participants > 1 else "one participant"
    return f"; clients of {client.images} images each ({client.partition}), {several} a round, {steps}"


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


def named(family: Family) -> str:
    """The family, with the name of its submission where it has one."""
    return f"{family.name} ({family.submission})" if family.submission else family.name


def without_parameters(name: str) -> str:
    """``a(p=1)+b(q)`` as ``a+b``; what is no such name, as it is."""
    part = rf"[\w-]+(?:{_PARAMETERS})?"
    return re.sub(_PARAMETERS, "", name) if re.fullmatch(rf"{part}(?:\+{part})*", name) else name


def bytes_sent(count: int | None) -> str:
    """Of one gradient."""
    if count is None:
        return ABSENT
    return f"{count} B" if count < 1000 else f"{count / 1e3:.3g} kB" if count < 1e6 else f"{count / 1e6:.3g} MB"


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


def top_one(rate: Estimate, result: IdentificationResult) -> str:
    """A rate of identification, and whether an exact likelihood gave it."""
    return estimate(rate, 3) + (" exact" if result.exact else "")


def compared(board: Board) -> str:
    """The size of the pools in which top-1 is compared."""
    sizes = sorted({result.compared.size for entry in board.entries for result in entry.identifications})
    return span(sizes) if sizes else str(min(board.protocol.evaluation.candidates or COMPARED, COMPARED))


def safe(standing: Standing, family: Family) -> str:
    """Its safe accuracy, or why there is none."""
    if standing.accuracy is not None:
        return estimate(standing.accuracy, 3) + (" estimated" if standing.estimated else "")
    return "at chance" if family.at_chance else "none" if family.leakage is not None else ABSENT


def leaked(found: FreePrivacy | None) -> str:
    """What a strength leaks, and which one it is; that there is none that costs little."""
    return "none" if found is None else f"{number(found.leakage)} ({found.defense})"


def scored(result: IdentificationResult) -> str:
    """How candidates were scored."""
    return f"{result.method}, exact" if result.exact and result.method != "exact" else result.method


def identified_by(result: IdentificationResult | None) -> str:
    """How candidates were scored, and when it was observed."""
    return ABSENT if result is None else f"{scored(result)}; {checkpoint(result.checkpoint_epoch)}"


def not_run(entry: Entry, knowledge: Collection[str] = ("blind", "informed")) -> str:
    """Why there is no number of attackers with this knowledge."""
    return "does not apply" if any(result.reason and result.knowledge in knowledge for result in entry.attacks) else "not run"
