"""Numbers and tables as text."""

from __future__ import annotations

import math

from reports.leaderboard import AttackResult, Entry, Section, strongest
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


def strongest_at(entry: Entry, epoch: int) -> AttackResult | None:
    """The attack of the highest ASR at a checkpoint."""
    return strongest([a for a in entry.attacks if a.checkpoint_epoch == epoch])


def checkpoints(section: Section) -> list[int]:
    """All checkpoints with a result."""
    return sorted({a.checkpoint_epoch for entry in section.entries for a in entry.attacks})


def leaderboard_rows(section: Section) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the ranked table of a section."""
    points = checkpoints(section)
    epochs = section.protocol["training"]["epochs"]
    header = ["rank", "defense", "test accuracy", "change", "epochs to converge", "epsilon"]
    header += [f"{what} {checkpoint(point)}" for point in points for what in ("ASR", "SSIM", "PSNR (dB)")]
    header += ["seeds, images"]
    rows = []
    for entry in section.entries:
        row = [str(entry.rank or ABSENT), entry.defense, estimate(entry.accuracy, 3), estimate(entry.change, 3, signed=True),
               convergence(entry, epochs), epsilon(entry)]
        for point in points:
            result = strongest_at(entry, point)
            if result is None:
                reasons = [a.reason for a in entry.attacks if a.checkpoint_epoch == point and a.reason]
                row += ["does not apply" if reasons else "not run", ABSENT, ABSENT]
            else:
                row += [estimate(result.asr), number(result.ssim.mean if result.ssim else None),
                        number(result.psnr.mean if result.psnr else None, 1)]
        rows.append([*row, f"{entry.seeds}, {entry.images}"])
    return header, rows


def attack_rows(section: Section) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of every attack at every checkpoint."""
    header = ["defense", "checkpoint", "attack", "tier", "ASR", "SSIM", "PSNR (dB)", "inferred labels right", "seconds per victim",
              "chosen from"]
    rows = []
    for entry in section.entries:
        for a in entry.attacks:
            if a.reason:
                numbers = [f"does not apply: {a.reason}", *[ABSENT] * 5]
            else:
                numbers = [estimate(a.asr), estimate(a.ssim), estimate(a.psnr, 1), number(a.label_accuracy),
                           number(a.seconds_per_victim),
                           ", ".join(f"{count} x {name}" for name, count in a.winners.items()) or ABSENT]
            rows.append([entry.defense, checkpoint(a.checkpoint_epoch), a.attack, a.tier or ABSENT, *numbers])
    return header, rows


def protocol(section: Section) -> str:
    """How the section was measured, in a sentence."""
    training, evaluation = section.protocol["training"], section.protocol["evaluation"]
    images = "image" if evaluation["batch_size"] == 1 else "images"
    return (
        f"Adam, step size {training['learning_rate']:g}, batches of {training['batch_size']}, {training['epochs']} epochs; "
        f"{evaluation['victims']} victims per seed, gradients of {evaluation['batch_size']} {images} each, labels "
        f"{evaluation['labels']}; attacks: {', '.join(section.protocol['attacks']) or 'none'}; "
        f"data {section.protocol['fingerprint'][:8]}"
    )


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; pipes and angle brackets in cells stay text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_markdown(cell) for cell in line) + " |" for line in lines)


def _markdown(cell: str) -> str:
    for character in "\\|<>`*_[]":
        if character in cell and not (character in "[]_" and _harmless(cell)):
            cell = cell.replace(character, {"<": "&lt;", ">": "&gt;"}.get(character, "\\" + character))
    return " ".join(cell.split())


def _harmless(cell: str) -> bool:
    """Square brackets make no link without a parenthesis right behind, and underscores within words no emphasis."""
    return "](" not in cell and " _" not in cell and "_ " not in cell and not cell.startswith("_")
