"""The leaderboard as Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from reports.documents import Leaderboard, schemas, to_json
from reports.latex import latex
from reports.flat_tables import identification_table, table
from reports.markdown import markdown

#: The flat table of numbers; it also marks a folder as a report of ours.
CSV = "leaderboard.csv"
#: As above, of identification, where any was measured.
IDENTIFICATION_CSV = "identification.csv"
_SCHEMAS = Path(__file__).parent / "schemas"


def write_other_forms(document: Leaderboard, out: Path) -> None:
    """Write leaderboard.csv, .md, .tex, .json and the schema of the last, and identification.csv."""
    table(document.boards).to_csv(out / CSV, index=False)
    if any(board.candidates for board in document.boards):
        identification_table(document.boards).to_csv(out / IDENTIFICATION_CSV, index=False)
    for name, content in (("leaderboard.md", markdown(document.boards)), ("leaderboard.tex", latex(document.boards)),
                          ("leaderboard.json", to_json(document))):
        (out / name).write_text(content, encoding="utf-8")
    shutil.copy(_SCHEMAS / "leaderboard.schema.json", out)


def write_schemas() -> None:
    """Write the JSON Schemas into the package; to be run after a change of the documents."""
    for name, schema in schemas().items():
        (_SCHEMAS / name).write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
