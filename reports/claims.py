"""What the figures of a claim's run come to, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
from pydantic import ConfigDict

from benchmark.claims import Claim, Expectation, Measure
from benchmark.specification import STRICT
from reports.entries import WORST_CASE, Entry, Name, PoolSize, Text
from reports.leaderboard import Section
from reports.statistics import Estimate, bootstrap_ratio

#: Holds: each deciding figure is within its limit, with its whole interval. Falls: one is beyond it, with its whole interval.
#: Undecided: neither. Differs in protocol: what was run here is too far from the paper for either to speak of its claim.
HOLDS: Literal["holds"] = "holds"
FALLS: Literal["falls"] = "falls"
UNDECIDED: Literal["undecided"] = "undecided"
DIFFERS: Literal["differs in protocol"] = "differs in protocol"
Outcome = Literal["holds", "falls", "undecided"]


@dataclass(frozen=True)
class Finding:
    """A figure with its 95 % interval (None: not measured), of which ``outcome`` is what it says of the claim (None: it is shown
    beside those that decide).

    ``figure``, ``of``, ``attacker``, ``against`` and the limits are as in :class:`benchmark.claims.Expectation`; ``size`` is how
    many candidates a top-1 is of, and ``undefended`` the same figure without a defense, without which a low rate says nothing.
    ``reason`` says why there is no figure, or no outcome.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    figure: Literal["asr", "top-1", "change", "mse-ratio"]
    of: Name
    attacker: Literal["blind", "informed"]
    value: Estimate | None
    outcome: Outcome | None = None
    at_most: float | None = None
    at_least: float | None = None
    against: Name | None = None
    size: PoolSize | None = None
    undefended: Estimate | None = None
    reason: Text = ""


@dataclass(frozen=True)
class Judged:
    """A claim, whose fields are as in :class:`benchmark.claims.Claim`, with its findings and its ``verdict``; ``here`` is what the
    findings say by themselves, also where the protocol differs."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Name
    source: Text
    statement: Text
    reported: Text
    verified: bool
    protocol: Text
    departures: Text
    here: Outcome
    verdict: Literal["holds", "falls", "undecided", "differs in protocol"]
    findings: list[Finding]


def judge(claim: Claim, section: Section) -> Judged:
    """The verdict on a claim by the board of its run."""
    findings = [_finding(measure, section) for measure in claim.measures]
    here = together(finding.outcome for finding in findings if finding.outcome is not None)
    return Judged(claim.name, claim.source, claim.statement, claim.reported, claim.verified, claim.protocol, claim.departures, here,
                  here if claim.comparable else DIFFERS, findings)


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """What several figures say, all of which must hold: one that falls is enough, and one that is undecided leaves it so."""
    found = set(outcomes)
    return FALLS if FALLS in found else UNDECIDED if UNDECIDED in found else HOLDS


def outcome(value: Estimate | None, expected: Expectation) -> Outcome:
    """What a figure says by the whole of its interval; undecided without one, or where a limit lies within it."""
    if value is None or value.low is None or value.high is None:
        return UNDECIDED
    if expected.at_most is not None:
        return HOLDS if value.high <= expected.at_most else FALLS if value.low > expected.at_most else UNDECIDED
    assert expected.at_least is not None
    return HOLDS if value.low >= expected.at_least else FALLS if value.high < expected.at_least else UNDECIDED


def _finding(measure: Measure, section: Section) -> Finding:
    board = section.board
    entries = {entry.defense: entry.seen(board.ranked_by) for entry in board.entries}
    value, size = _figure(measure, entries[measure.of], section)
    compared = measure.figure in ("asr", "top-1") and measure.of != board.undefended
    undefended = _figure(measure, entries[board.undefended], section)[0] if compared and board.undefended is not None else None
    reason = "" if value is not None else "; ".join(entries[measure.of].problems)[:2000] or "not measured"
    common = {"size": size, "undefended": undefended, "against": measure.against}
    if not isinstance(measure, Expectation):
        return Finding(measure.figure, measure.of, measure.attacker, value, **common, reason=reason)  # type: ignore[arg-type]
    said = outcome(value, measure)
    if said == UNDECIDED and not reason:
        reason = "one training has no interval" if value is not None and value.low is None else "the limit lies within the interval"
    if said == HOLDS and compared and measure.at_most is not None and outcome(undefended, measure) != FALLS:
        said, reason = UNDECIDED, ("the attacks do not succeed without a defense either" if undefended is not None
                                   else "it was not measured without a defense")
    return Finding(measure.figure, measure.of, measure.attacker, value, said, measure.at_most, measure.at_least,
                   **common, reason=reason)  # type: ignore[arg-type]


def _figure(measure: Measure, entry: Entry, section: Section) -> tuple[Estimate | None, int | None]:
    """The figure of a defense, and of how many candidates a top-1 is."""
    informed = measure.attacker == "informed"
    if measure.figure == "change":
        return entry.change, None
    if measure.figure == "top-1":
        found = entry.identified if informed else entry.identified_blindly
        return (None, None) if found is None else (found.compared.rate, found.compared.size)
    if measure.figure == "asr":
        worst = entry.worst_cases if informed else [result for result in entry.worst_cases if result.knowledge == "blind"]
        rates = [result.asr for result in worst if result.asr is not None]
        return max(rates, key=lambda rate: rate.mean, default=None), None
    return _mse_ratio(measure, section.reconstructions), None


def _mse_ratio(measure: Measure, rows: pd.DataFrame) -> Estimate | None:
    """The mean squared error of what is rebuilt under ``of``, as a multiple of that under ``against``, of the same images: by the
    worst case of each, which is that of the lower error where there are two, at the checkpoint where the ratio is lowest."""
    kinds = ["blind", "informed"] if measure.attacker == "informed" else ["blind"]
    worst = rows[(rows["kind"] == WORST_CASE) & rows["knowledge"].isin(kinds)]
    place, image = ["defense", "checkpoint_epoch", "knowledge"], ["seed", "victim", "image"]
    errors = {key: of.set_index(image)["mse"].sort_index() for key, of in worst.groupby(place)}
    ratios = []
    for epoch in sorted(set(worst["checkpoint_epoch"])):
        lowest = [min((found for (defense, at, _), found in errors.items() if (defense, at) == (name, epoch)),
                      key=lambda found: found.mean(), default=None) for name in (measure.of, measure.against)]
        both = None if any(of is None for of in lowest) else pd.concat(lowest, axis=1, join="inner")
        if both is not None and len(both):
            ratios.append(bootstrap_ratio(both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy()))
    return min(ratios, key=lambda ratio: ratio.mean, default=None)
