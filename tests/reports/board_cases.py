"""Boards made by hand, for the tests of what is safe and who leads."""

from __future__ import annotations

from benchmark.specification import SINGLE, Evaluation, Training, Tuning
from reports.boards import Board, Family, Protocol
from reports.entries import AttackResult, Entry, IdentificationResult, TopOne, Trial
from reports.statistics import Estimate, share

TRIED = ("adam", 1e-3, 64)


def sure(value):
    return None if value is None else Estimate(value, value, value)


def worst_case(hits, images=128, *, ssim=0.5, epoch=0, observed=SINGLE, knowledge="informed", kind="worst case"):
    """What was chosen, with so many images rebuilt."""
    return AttackResult(kind, kind, knowledge, epoch, observed, batch_size=1, images=images, asr=share(hits, images), ssim=sure(ssim))


def identified(rate, limit=None, *, victims=128, candidates=100, compared=None, epoch=0, observed=SINGLE, knowledge="informed", exact=True, bits=0.0):
    """Top-1 among all candidates; where there are more, another among 100."""
    more = [] if compared is None else [TopOne(100, sure(compared))]
    return IdentificationResult(
        epoch, observed, 1, knowledge, "likelihood", exact, candidates, victims, [*more, TopOne(candidates, sure(rate))],
        max(rate, compared or 0.0) if limit is None else limit, 1.0, bits, 0.0, 0.0, 0.0)


def entry(name, accuracy=0.5, hits=0, top1=0.01, *, family=None, change=None, validation=None, images=128, chance=0.1, test_images=1000, attacks=None,
          identifications=None, **more):
    """A strength that was attacked and identified once, unless its results are given."""
    trials = [] if validation is None else [Trial(*TRIED, validation, 0.5, True)]
    return Entry(name, family or name, {}, 1, accuracy=sure(accuracy), change=sure(change), test_images=test_images, chance=chance,
                 validation=validation, trials=trials, optimizer="adam", learning_rate=1e-3, batch_size=64,
                 attacks=[worst_case(hits, images)] if attacks is None else attacks,
                 identifications=[identified(top1)] if identifications is None else identifications, **more)


def board(*entries, observed=(SINGLE,), tuned=False, undefended=None, knowledge=("blind", "informed"), candidates=100, attacks=("a",)):
    """A board that is not ranked yet; families in the order in which they come up."""
    members: dict[tuple[str, str], list[str]] = {}
    for each in entries:
        members.setdefault((each.family, each.submission), []).append(each.defense)
    protocol = Protocol(
        training=Training(epochs=2, optimizer="adam", learning_rate=1e-3, batch_size=64, precision="float32"),
        tuning=Tuning(step_sizes=(1e-3,), batch_sizes=(64,), optimizers=("adam",), validation=0.1, epochs=None) if tuned else None,
        evaluation=Evaluation(checkpoints=(0,), victims=128, observed=observed, images=1024, labels="known", rounds=1, knowledge=knowledge,
                              candidates=candidates, public=2000),
        attacks=attacks, image_size=None, fingerprint="0" * 64, portfolio=1)
    families = [Family(name, "p" if len(defenses) > 1 else None, defenses, submission=submission) for (name, submission), defenses in members.items()]
    return Board("d", "m", protocol, undefended, families, list(entries))
