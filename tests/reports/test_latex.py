"""LaTeX that stays text."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from report_cases import write_run

from benchmark.store.results import read_run
from reports.latex import escape, latex
from reports.leaderboard import build

COMMAND = re.compile(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}|\$\\(star|times|varepsilon|delta|geq|infty)\$"
                     r"|\\[&%$#_{}]|^\{\}(?=\[)")


@given(content=st.text(alphabet=st.sampled_from("ab \\&%$#_{}~^<>|[]★×εδ–≥∞\n"), max_size=30))
def test_nothing_that_means_something_to_latex_is_left(content):
    assert not re.search(r"[\\&%$#_{}~^<>|]", COMMAND.sub("", escape(content)))


def test_rows_have_as_many_cells_as_columns(tmp_path):
    run = write_run(tmp_path / "run", {("a&b", 0): [0.1, 0.2, 0.3], ("[c]", 0): [0.1, 0.2, 0.4]}, {("a&b", 0): [0.7]})
    text = latex([section.board for section in build([read_run(run)])])
    of_families, of_points = text.split(r"\end{table*}")[:2]
    for table in (of_families, of_points):
        columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", table)[1])
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len(rows) == 3 and all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)
    assert text.count(r"\begin{") == text.count(r"\end{") == 4 and "1 seeds" in text and "Not tuned" in text
