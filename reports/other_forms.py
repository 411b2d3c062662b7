"""The leaderboard as Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from reports.documents import Leaderboard, schemas, to_json
from reports.flat_tables import family_table, identification_table, table, trial_table
from reports.latex import latex
from reports.markdown import markdown

#: The flat table of numbers; it also marks a folder as a report of ours.
CSV = "leaderboard.csv"
#: The others: families and their ranks; trials, where anything was tuned; identification, where it was measured.
FAMILIES_CSV, TRIALS_CSV, IDENTIFICATION_CSV = "families.csv", "trials.csv", "identification.csv"
_SCHEMAS = Path(__file__).parent / "schemas"


def write_other_forms(document: Leaderboard, out: Path) -> None:
    """Write leaderboard.csv, .md, .tex, .json and the schema of the last, and the other tables."""
    boards = document.boards
    for name, made in ((CSV, table), (FAMILIES_CSV, family_table), (TRIALS_CSV, trial_table),
                       (IDENTIFICATION_CSV, identification_table)):
        if len(rows := made(boards)) or name == CSV:
            rows.to_csv(out / name, index=False)
    for name, content in (("leaderboard.md", markdown(document.boards)), ("leaderboard.tex", latex(document.boards)),
                          ("leaderboard.json", to_json(document))):
        (out / name).write_text(content, encoding="utf-8")
    shutil.copy(_SCHEMAS / "leaderboard.schema.json", out)


def write_schemas() -> None:
    """Write the JSON Schemas into the package; to be run after a change of the documents."""
    for name, schema in schemas().items():
        (_SCHEMAS / name).write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
