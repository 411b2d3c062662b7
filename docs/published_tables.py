"""The tables of the published board in the README, docs/attacks.md and reports/published/README.md, from its entries, and that of
the claims.

    python docs/published_tables.py            # rewrites what stands between the marks
    python docs/published_tables.py --check    # says where it differs, with exit code 1

A table stands behind a mark that names its kind and its entries, and before the mark of its end:

    <!-- table: rebuilt cifar10-lenet-rebuilt -->
    <!-- end of table -->

That of the claims names no entries: ``<!-- table: claims -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.claims import load
from benchmark.specification import AS_TRAINED, SINGLE
from reports import claim_documents, text
from reports.boards import Board
from reports.claims import Finding, Judged
from reports.documents import Submission, read_document
from reports.entries import AttackResult, Entry
from reports.statistics import Estimate

_ROOT = Path(__file__).parent.parent
_PUBLISHED = _ROOT / "reports" / "published"
_ENTRIES = _PUBLISHED / "entries"
PAGES = (_ROOT / "README.md", _ROOT / "docs" / "attacks.md", _ROOT / "reports" / "published" / "README.md")
_TABLE = re.compile(r"(<!-- table: (?P<kind>[a-z]+)(?P<entries>[^>]*?) -->\n).*?(<!-- end of table -->)", re.DOTALL)
#: Parameters as papers write them, and left out where all have the same.
_SHORT = {"ppp(bottleneck_size=256)": "ppp(strength=0.001)", "bottleneck_size=": "K=", "target_epsilon=": "ε=",
          "(policy='3-1-7+43-18-18')": "", "ppp(K=256, ": "ppp("}

_MOST = "iterations=300"


@dataclass(frozen=True)
class Row:
    """A defense on a board."""

    board: Board
    entry: Entry

    @property
    def defense(self) -> str:
        name = self.entry.defense
        for long, short in _SHORT.items():
            name = name.replace(long, short)
        return f"`{name}`"

    def rebuilt(self, knowledge: str, checkpoint: int, mode: str = SINGLE) -> Estimate | None:
        """The ASR of the worst case at the first (0) or last (-1) checkpoint."""
        worst = self.entry.seen(mode).worst_cases
        rates = {result.checkpoint_epoch: result.asr for result in worst if result.knowledge == knowledge}
        return rates[sorted(rates)[checkpoint]] if rates else None

    def strongest(self, checkpoint: int, mode: str = SINGLE) -> AttackResult | None:
        """The attack that rebuilt most at the first (0) or last (-1) checkpoint, whoever made it; None where none rebuilt any."""
        epochs = sorted({result.checkpoint_epoch for result in self.entry.seen(mode).worst_cases})
        results = [result for result in self.entry.attacks if result.observed == mode and result.kind == "attack"
                   and epochs and result.checkpoint_epoch == epochs[checkpoint] and result.asr is not None and result.asr.mean]
        return max(results, key=lambda result: result.asr.mean if result.asr else 0.0, default=None)

    def identified(self, checkpoint: int, mode: str = SINGLE) -> Estimate | None:
        """Top-1 among as many as are compared, of the attacker who does better."""
        results = [result for result in self.entry.identifications if result.observed == mode]
        epochs = sorted({result.checkpoint_epoch for result in results})
        rates = [result.compared.rate for result in results if result.checkpoint_epoch == epochs[checkpoint]]
        return max(rates, key=lambda rate: rate.mean, default=None)


_Columns = dict[str, Callable[[Row], str]]
_PLACE: _Columns = {"data, model": lambda row: f"{row.board.dataset}, {row.board.model}"}
_DEFENSE: _Columns = {"defense": lambda row: row.defense}
_REBUILT: _Columns = {
    f"{who}, {when}": lambda row, who=who, at=at: text.estimate(row.rebuilt(who, at))  # type: ignore[misc]
    for when, at in (("untrained", 0), ("trained", -1)) for who in ("blind", "informed")}
_UTILITY: _Columns = {"accuracy": lambda row: _accuracy(row.entry), "change": lambda row: _change(row)}
_IDENTIFIED: _Columns = {
    f"identified{of}, {when}": lambda row, at=at, mode=mode: text.estimate(row.identified(at, mode))  # type: ignore[misc]
    for mode, of in ((SINGLE, ""), (AS_TRAINED, " as trained")) for when, at in (("untrained", 0), ("trained", -1))}
_SUMMARY: _Columns = {
    **{f"rebuilt, {who}": lambda row, who=who: _highest(row.rebuilt(who, at) for at in (0, -1))  # type: ignore[misc]
       for who in ("blind", "informed")},
    "identified": lambda row: _highest(row.identified(at) for at in (0, -1))}
_STRONGEST: _Columns = {
    when: lambda row, at=at: _attack(row.strongest(at)) for when, at in (("untrained", 0), ("trained", -1))}  # type: ignore[misc]


def table(kind: str, names: list[str]) -> str:
    """A table of one kind of some entries.

    Raises:
        ValueError: there is no such kind.
    """
    if kind == "claims":
        claims = claim_documents.read(_PUBLISHED / claim_documents.JSON).claims
        return _lines({name: [value(claim) for claim in claims] for name, value in _CLAIMS.items()})
    rows = [Row(board, entry) for name in names for board in _submission(name).boards for entry in board.entries]
    place = _PLACE if len({row.board.title for row in rows}) > 1 else {}
    if kind == "rebuilt":
        known = {name: _IDENTIFIED[name] for name in ("identified, trained",)}
        rows, columns = sorted(rows, key=_least_hidden), {**place, **_DEFENSE, **_REBUILT, **known, **_UTILITY}
    elif kind == "identified":
        rows, columns = sorted(rows, key=_best), {**place, **_DEFENSE, **_UTILITY, **_IDENTIFIED}
    elif kind == "summary":
        rows, columns = sorted(rows, key=_least_hidden), {**place, **_DEFENSE, **_SUMMARY, **_short(_UTILITY)}
    elif kind == "strongest":
        rows, columns = sorted(rows, key=_least_hidden), {**place, **_DEFENSE, **_STRONGEST}
    elif kind == "paper":
        columns = {**place, **_DEFENSE, **_short(_REBUILT), "accuracy": _UTILITY["accuracy"]}
    else:
        raise ValueError(f"expected a table that is rebuilt, identified, summary, strongest, paper or claims, got {kind!r}")
    cells = {name: [value(row) for row in rows] for name, value in columns.items()}
    # What was measured nowhere has no column.
    shown = [name for name, values in cells.items() if any(value != text.ABSENT for value in values)]
    return _lines({name: cells[name] for name in shown})


def _lines(columns: dict[str, list[str]]) -> str:
    lines = [list(columns), ["---"] * len(columns), *(list(row) for row in zip(*columns.values(), strict=True))]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def with_tables(page: str) -> str:
    """A page with the tables that its marks name."""
    return _TABLE.sub(lambda found: found[1] + table(found["kind"], found["entries"].split()) + found[4], page)


def _submission(name: str) -> Submission:
    document = read_document(_ENTRIES / f"{name}.json")
    assert isinstance(document, Submission)
    return document


def _least_hidden(row: Row) -> tuple[object, ...]:
    rates = [found.mean for who in ("blind", "informed") for at in (0, -1) if (found := row.rebuilt(who, at)) is not None]
    return (row.board.title, -round(max(rates, default=0.0), 2), row.entry.defense)


def _best(row: Row) -> tuple[object, ...]:
    return (row.board.title, -getattr(row.entry.accuracy, "mean", 0.0), row.entry.defense)


def _accuracy(entry: Entry) -> str:
    return text.number(None if entry.accuracy is None else entry.accuracy.mean, 3) + ("" if entry.above_chance else " (chance)")


def _change(row: Row) -> str:
    return text.ABSENT if row.entry.defense == row.board.undefended else text.estimate(row.entry.change, 3, signed=True)


def _attack(result: AttackResult | None) -> str:
    """Its ASR and its name, without how many iterations most have."""
    if result is None:
        return "none"
    return f"{text.number(result.asr and result.asr.mean)}, `{result.attack.replace(f'({_MOST}, ', '(').replace(f'({_MOST})', '')}`"


def _highest(found: Iterator[Estimate | None]) -> str:
    rates = [rate.mean for rate in found if rate is not None]
    return text.number(max(rates)) if rates else text.ABSENT


def _short(columns: _Columns) -> _Columns:
    """Without intervals."""
    return {name: lambda row, value=value: value(row).partition(" [")[0] for name, value in columns.items()}  # type: ignore[misc]


def _asr(claim: Judged) -> str:
    """ASR undefended, blind and informed, of each defense of a claim, and the error that it multiplies."""
    said = []
    for of, found in _by_defense(claim, "asr").items():
        undefended = [finding.undefended for finding in found if finding.undefended is not None]
        rates = [max(undefended, key=lambda rate: rate.mean, default=None), *_of_attackers(found)]
        said.append((of, ", ".join(map(_mean, rates))))
    ratios = [f"MSE {', '.join(map(_mean, _of_attackers(found)))} times that under `{found[0].against}`"
              for found in _by_defense(claim, "mse-ratio").values()]
    return "; ".join([*_named(said), *ratios])


def _figure(claim: Judged, figure: str) -> str:
    """One figure of each defense of a claim."""
    found = _by_defense(claim, figure)
    return "; ".join(_named([(of, ", ".join(_mean(one.value, signed=figure == "change") for one in own))
                             for of, own in found.items()])) or text.ABSENT


def _by_defense(claim: Judged, figure: str) -> dict[str, list[Finding]]:
    found = [finding for finding in claim.findings if finding.figure == figure]
    return {of: [finding for finding in found if finding.of == of] for of in dict.fromkeys(finding.of for finding in found)}


def _of_attackers(found: list[Finding]) -> list[Estimate | None]:
    values = {finding.attacker: finding.value for finding in found}
    return [values.get("blind"), values.get("informed")]


def _named(said: list[tuple[str, str]]) -> list[str]:
    return [value if len(said) == 1 else f"`{of}` {value}" for of, value in said]


def _mean(value: Estimate | None, *, signed: bool = False) -> str:
    return text.estimate(value, signed=signed).partition(" [")[0]


_CLAIMS: dict[str, Callable[[Judged], str]] = {
    "claim": lambda claim: load(claim.name).headline or claim.name,
    "ASR undefended, blind, informed": _asr,
    "identified": lambda claim: _figure(claim, "top-1"),
    "accuracy, untuned": lambda claim: _figure(claim, "change"),
    "verdict": claim_documents.verdict}


def main(arguments: list[str]) -> int:
    """Rewrite the pages, or say where they differ; the exit code."""
    different = 0
    for page in PAGES:
        before = page.read_text()
        after = with_tables(before)
        if "--check" in arguments and after != before:
            print(f"{page.relative_to(_ROOT)}: a table is not what its entries give; run python docs/published_tables.py",
                  file=sys.stderr)
            different = 1
        elif after != before:
            page.write_text(after)
    return different


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
