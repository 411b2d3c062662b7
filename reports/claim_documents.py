"""The table of claims as a JSON document, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from benchmark.claims import Claim
from benchmark.errors import InputError
from benchmark.specification import STRICT
from benchmark.store.recording import write_atomically
from benchmark.store.results import find_run
from reports import text
from reports.claims import DIFFERS, UNDECIDED, Finding, Judged, judge
from reports.documents import parse
from reports.entries import COMPARED
from reports.leaderboard import build
from reports.markdown import markdown_table

#: What stands in the folder of all claims, and in that of a report with claims.
JSON, MARKDOWN = "claims.json", "claims.md"

HEADER = ["claim", "source", "what it says", "reported", "measured here, with 95 % intervals", "verdict"]

#: How to read the table.
READING = (
    "Each claim is tested by a run of its own. It holds where every figure that decides is within its limit with its whole 95 % "
    "interval, and falls where one is beyond it with its whole interval; else it is undecided. A low rate counts only where the "
    "same attacks succeed without a defense. Where what can be run here is too far from the paper's experiment to speak of its "
    "claim, the verdict is that it differs in protocol, and what the figures say here stands behind it. A claim that holds was not "
    "refuted by these attacks; that is no proof. Not verified: statement or figure were not read in the source itself.")


@dataclass(frozen=True)
class Claims:
    """The claims that were tested."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    format: Literal["leakboard-claims/1"]
    claims: Annotated[list[Judged], Field(max_length=1000)]


_ADAPTER: TypeAdapter[Any] = TypeAdapter(Claims)


def judged(runs: Sequence[tuple[Claim, Path]]) -> Claims:
    """The verdicts on claims by the folders of their runs.

    Raises:
        InputError: a run cannot be read.
    """
    return Claims("leakboard-claims/1", [judge(claim, build([find_run(run)])[0]) for claim, run in runs])


def write(claims: Claims, folder: Path) -> None:
    """Write the document, and the table in Markdown.

    Raises:
        InputError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / JSON, _ADAPTER.dump_json(claims, indent=1).decode() + "\n")
        write_atomically(folder / MARKDOWN, f"# Claims\n\n{READING}\n\n{table(claims)}\n")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error


def read(path: Path) -> Claims:
    """Read a document.

    Raises:
        InputError: it cannot be read, or a field is not acceptable.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    read_claims: Claims = parse(content, str(path), _ADAPTER)
    return read_claims


def table(claims: Claims) -> str:
    """The table in Markdown."""
    return markdown_table(HEADER, [cells(claim) for claim in claims.claims])


def cells(claim: Judged) -> list[str]:
    """The row of a claim in the table."""
    reported = claim.reported if claim.verified else f"{claim.reported} (not verified)"
    return [claim.name, claim.source, claim.statement, reported, "; ".join(map(described, claim.findings)), verdict(claim)]


def verdict(claim: Judged) -> str:
    """In a word; where the protocol differs, with what the figures say."""
    return f"{claim.verdict} (here: {claim.here})" if claim.verdict == DIFFERS else claim.verdict


def described(finding: Finding) -> str:
    """A figure with its interval, and what it says."""
    names = {"asr": "ASR", "top-1": f"top-1 of {finding.size or COMPARED}", "change": "change in test accuracy",
             "mse-ratio": f"MSE as a multiple of that under {finding.against}"}
    who = "" if finding.figure == "change" else f", {finding.attacker}"
    value = text.estimate(finding.value, 3 if finding.figure == "change" else 2, signed=finding.figure == "change")
    missing = f" ({finding.reason})" if finding.value is None else ""
    said = f"{finding.of}{who}: {names[finding.figure]} {value}{missing}"
    if finding.undefended is not None:
        said += f", undefended {text.estimate(finding.undefended)}"
    if finding.outcome is None:
        return said
    limit = f"≤ {finding.at_most:g}" if finding.at_most is not None else f"≥ {finding.at_least:g}"
    why = f", {finding.reason}" if finding.outcome == UNDECIDED and finding.value is not None else ""
    return f"{said} (limit {limit}: {finding.outcome}{why})"
