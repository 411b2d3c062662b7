"""The tables of every attack, identification and trial, for the page and Markdown."""

from __future__ import annotations

from collections.abc import Callable

from benchmark.store.tables import SUCCESS_SSIM
from reports import text
from reports.cells import LAST, RECOVERED, Value, asr, at_least, estimate, number
from reports.entries import Entry, IdentificationResult

#: The sizes of pools that a table shows beside the largest; figure and other forms have more.
_SIZES = (2, 10, 100, 1000)


def attack_table(entries: list[Entry]) -> tuple[list[str], list[list[Value]]]:
    """Header and rows of the table of every attack at every checkpoint."""
    perceived = any(result.lpips is not None for entry in entries for result in entry.attacks)
    header = ["defense", "gradients", "checkpoint", "attack", "knowledge", f"ASR (SSIM ≥ {SUCCESS_SSIM})",
              RECOVERED, "SSIM", "PSNR (dB)", *["LPIPS"] * perceived, "labels right", "seconds per victim", "chosen from"]
    rows = []
    for entry in entries:
        for result in entry.attacks:
            if result.reason:
                absent = [Value(text.ABSENT, LAST)] * (5 + perceived)
                numbers = [Value(f"does not apply: {result.reason}", LAST), *absent, Value(text.ABSENT)]
            else:
                numbers = [asr(result, text.ABSENT), estimate(result.recovered), estimate(result.ssim), estimate(result.psnr, 1),
                           *[estimate(result.lpips)] * perceived, number(result.label_accuracy, 2),
                           number(result.seconds_per_victim, 2), Value(text.winners(result))]
            rows.append([Value(text.labelled(entry)), Value(text.mode(result.observed)),
                         Value(text.checkpoint(result.checkpoint_epoch), result.checkpoint_epoch), Value(result.attack),
                         Value(result.knowledge or text.ABSENT), *numbers])
    return header, rows


def identification_table(entries: list[Entry]) -> tuple[list[tuple[str, str, bool]], list[list[Value]]]:
    """Titles with their meaning and whether they are shown at first, and rows, of the table of identification by checkpoint."""
    largest = max((result.candidates for entry in entries for result in entry.identifications), default=0)
    sizes = [size for size in _SIZES if size < largest]
    columns: list[tuple[str, str, bool, Callable[[Entry, IdentificationResult], Value]]] = [
        ("defense", "", True, lambda e, r: Value(text.labelled(e))),
        ("gradients", "of how many images they are", True, lambda e, r: Value(text.mode(r.observed))),
        ("checkpoint", "", True, lambda e, r: Value(text.checkpoint(r.checkpoint_epoch), r.checkpoint_epoch)),
        ("knowledge", "", True, lambda e, r: Value(r.knowledge)),
        ("method", "how candidates are scored; exact: by the likelihood itself, so that no attacker does better against that pool",
         True, lambda e, r: Value(text.scored(r))),
        *((f"top-1 of {size}", f"share of victims whose image is named rightly among {size} candidates; chance is {1 / size:g}"
           + (", and it is the area under the ROC curve (AUC), mean over victims" if size == 2 else ""),
           True, lambda e, r, size=size: estimate(r.at(size), 3)) for size in sizes),
        ("top-1 of M", "among all candidates; chance is 1/M", True, lambda e, r: estimate(r.at_all, 3)),
        ("M", "candidates of a victim, the true one included", True, lambda e, r: number(r.candidates, 0)),
        ("at most", "the bound on top-1 of M for every attacker, where what was observed is mu-GDP for the presence of one image",
         True, lambda e, r: number(r.bound, 3)),
        ("median rank", "of the true candidate, of M", True, lambda e, r: Value(f"{r.median_rank:.6g}", r.median_rank)),
        ("bits leaked", "lower 95 % limit of what the ranks tell, of log2 M", True, lambda e, r: at_least(r.bits_low)),
        ("bits, estimate", "of which the limit is beside it; more than 0 by chance too", False, lambda e, r: number(r.bits, 2)),
        ("epsilon", "least privacy budget of what was observed, for the presence of one image, that the rate at M allows, at 95 %",
         True, lambda e, r: at_least(r.epsilon_low)),
        ("mu", "likewise, of Gaussian differential privacy", True, lambda e, r: at_least(r.mu_low)),
        ("labels right", "share of labels inferred rightly from the gradient", True, lambda e, r: estimate(r.label_share)),
        ("victims", "gradients observed, over all seeds", True, lambda e, r: number(r.victims, 0)),
        ("seconds per victim", "", True, lambda e, r: number(r.seconds_per_victim, 3)),
    ]
    rows = []
    for entry in entries:
        rows += [[value(entry, result) for *_, value in columns] for result in entry.identifications]
        rows += [[Value(text.labelled(entry)), Value(text.mode(obstacle.observed)),
                  Value(text.checkpoint(obstacle.checkpoint_epoch), obstacle.checkpoint_epoch), Value(obstacle.knowledge),
                  Value(f"does not apply: {obstacle.reason}"),
                  *[Value(text.ABSENT, LAST)] * (len(columns) - 5)] for obstacle in entry.unidentified]
    return [(title, meaning, shown) for title, meaning, shown, _ in columns], rows


def trial_table(entries: list[Entry]) -> tuple[list[str], list[list[Value]]]:
    """Header and rows of the table of what was tried to tune each defense."""
    header = ["defense", "optimizer", "step size", "batch size", "validation accuracy", "training loss", "chosen"]
    return header, [
        [Value(text.labelled(entry)), Value(text.optimizer(trial.optimizer)),
         Value(f"{trial.learning_rate:g}", trial.learning_rate), number(trial.batch_size, 0), number(trial.validation_accuracy, 3),
         Value("diverged", LAST) if trial.diverged else number(trial.train_loss, 3), Value("★" if trial.chosen else "")]
        for entry in entries for trial in entry.trials]
