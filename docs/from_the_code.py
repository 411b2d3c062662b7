"""What the documentation takes from the code, so that nobody keeps it twice: the reference, the commands, the claims, and the
published board."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from typer.testing import CliRunner

import attacks
import defenses
from benchmark import claims, data, models
from benchmark.cli import app as command
from reports import claim_documents
from reports.site import write_leaderboard
from reports.submission import merge
from reports.titles import titles

_DOCS = Path(__file__).parent
#: What is written as code, which is left as it is, or a sign that Sphinx would read.
_TEXT = re.compile(r"``.*?``|`[^`]*`|[|*]")
#: Docstrings by the names of what they are of, as they were before napoleon.
_read: dict[str, list[str]] = {}
_PUBLISHED = _DOCS.parent / "reports" / "published" / "entries"
_CLAIMS = _PUBLISHED.parent / "claims.json"


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this: parts of pages are written before any is read, and the board when all are there."""
    app.connect("autodoc-process-docstring", _escape, priority=400)  # before napoleon, which reads sections
    app.connect("autodoc-process-docstring", _restore, priority=600)
    app.connect("builder-inited", _write_parts)
    app.connect("build-finished", _write_board)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _escape(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings write |x| and [N, *shape] as they are meant; Sphinx would take one for a substitution, the other for emphasis."""
    lines[:] = [_TEXT.sub(lambda found: found[0] if found[0][0] == "`" else "\\" + found[0], line) for line in lines]
    _read[name] = list(lines)


def _restore(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Of an attribute napoleon takes what stands before a colon for its type; here a sentence can have one."""
    if what in ("attribute", "property", "data"):
        lines[:] = [*_read[name], ""]


def _write_parts(app: Sphinx) -> None:
    parts = {
        "defenses": "\n".join(_class(cls) for cls in defenses.registry),
        "attacks": "\n".join(_class(cls) for cls in attacks.registry),
        "models": "\n".join(_class(cls) for cls in models.registry),
        "datasets": "\n".join(_class(cls) for cls in data.registry),
        "commands": _commands(),
        "claims": "\n".join(_claim(claims.load(name)) for name in claims.names()),
        "verdicts": claim_documents.table(claim_documents.read(_CLAIMS)),
        "entries": _entries(),
    }
    (_DOCS / "generated").mkdir(exist_ok=True)
    for name, text in parts.items():
        path = _DOCS / "generated" / f"{name}.md"
        if not path.is_file() or path.read_text() != text:  # what did not change is not read again
            path.write_text(text)


def _write_board(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html" and (entries := _published()):
        write_leaderboard(merge(entries), Path(app.outdir) / "board")


def _published() -> list[Path]:
    return sorted(_PUBLISHED.glob("*.json"))


def _class(cls: type) -> str:
    summary = cls.summary[:1].upper() + cls.summary[1:]  # type: ignore[attr-defined]
    return f"### {cls.name}\n\n{summary}.\n\n```{{eval-rst}}\n.. autoclass:: {cls.__module__}.{cls.__qualname__}\n```\n"  # type: ignore[attr-defined]


def _commands() -> str:
    names = [each.name or (each.callback.__name__ if each.callback else "") for each in command.registered_commands]
    return "\n".join(f"## leakboard {name}\n\n```text\n{_help(name)}\n```\n" for name in names)


def _help(name: str) -> str:
    text = CliRunner().invoke(command, [name, "--help"], prog_name="leakboard").output
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def _claim(claim: claims.Claim) -> str:
    rows = [("Says", claim.statement), ("Reports", claim.reported), ("Source", claim.source),
            ("Read there", "yes" if claim.verified else "no, from memory or at second hand"), ("Measured there", claim.protocol),
            ("Measured here", claim.departures), ("Bears on the claim", "yes" if claim.comparable else "no: too different")]
    decisive = "; ".join(_expectation(each) for each in claim.expects)
    table = "\n".join(f"| {name} | {text} |" for name, text in [*rows, ("Holds where", decisive)])
    return f"## {claim.name}\n\n| | |\n| --- | --- |\n{table}\n"


def _expectation(one: claims.Expectation) -> str:
    figure = {"asr": "ASR", "top-1": "top-1 identification", "change": "change in test accuracy", "mse-ratio": "ratio of MSE"}
    against = f" against `{one.against}`" if one.against else ""
    limit = f"at most {one.at_most}" if one.at_most is not None else f"at least {one.at_least}"
    who = f", {one.attacker} attacker" if one.figure != "change" else ""
    return f"{figure[one.figure]} of `{one.of}`{against}{who}: {limit}"


def _entries() -> str:
    entries = _published()
    if not entries:
        return "No entry is checked in under `reports/published/entries/` yet.\n"
    boards = merge(entries).boards
    named = titles([(board.title, board.protocol) for board in boards])
    listed = "\n".join(f"- {title}: {len(board.families)} families of defenses" for title, board in zip(named, boards, strict=True))
    return (f"<p><a href=\"board/index.html\"><strong>Open the board</strong></a>: {len(entries)} "
            f"{'entry' if len(entries) == 1 else 'entries'}.</p>\n\n{listed}\n")
