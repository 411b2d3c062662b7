"""What boards are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports import text
from reports.boards import Protocol


def titles(boards: Sequence[tuple[str, Protocol]]) -> list[str]:
    """The titles of boards, given data set and model, and protocol, of each. Those of one data set and model that were measured by
    several protocols are told apart by what differs, in as few words as do; numbered where none of these differs."""
    found = [name for name, _ in boards]
    for name, count in Counter(found).items():
        if count > 1:
            alike = [place for place, (other, _) in enumerate(boards) if other == name]
            for place, title in zip(alike, _told_apart(name, [boards[place][1] for place in alike]), strict=True):
                found[place] = title
    return found


def _told_apart(name: str, protocols: Sequence[Protocol]) -> list[str]:
    told = [name] * len(protocols)
    for features in zip(*map(_features, protocols), strict=True):
        longer = [f"{title}, {feature}" for title, feature in zip(told, features, strict=True)]
        if len(set(longer)) > len(set(told)):
            told = longer
    count, seen = Counter(told), Counter[str]()
    for place, title in enumerate(told):
        seen[title] += 1
        if count[title] > 1:
            told[place] = f"{title}, protocol {seen[title]}"
    return told


def _features(protocol: Protocol) -> list[str]:
    """In the order in which a reader asks for them."""
    attacks, evaluation, epochs = protocol.attacks, protocol.evaluation, protocol.training.epochs
    attacked = f"{len(attacks)} attacks" if len(attacks) > 1 else "".join(map(text.without_parameters, attacks)) or "not attacked"
    return [
        attacked, "untuned" if protocol.tuning is None else "tuned",
        f"{epochs} epoch{'s' if epochs != 1 else ''}", " and ".join(map(text.short_mode, evaluation.observed)),
        f"{evaluation.victims} victims", f"{evaluation.candidates} candidates", f"data {protocol.fingerprint[:8]}",
    ]
