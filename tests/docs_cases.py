"""The code in the pages of the documentation, for the tests that run it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def block(page: str, begin: str, language: str = "python") -> str:
    """The one block of code of a page that begins so."""
    (found,) = re.findall(rf"^```{language}\n({re.escape(begin)}.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    return found


def command_lines(page: Path) -> list[str]:
    """The lines of a page that a reader gives to a shell."""
    text = page.read_text()
    return [line for shell in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) for line in shell.splitlines()]
