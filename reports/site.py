"""Writing a report: leaderboard.md, leaderboard.csv, index.html and its assets."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import jinja2

from benchmark.errors import InputError
from benchmark.results import SUCCESS_SSIM, Run, read_run
from reports import figures, gallery, text
from reports.leaderboard import Section, build, table

#: Marks a folder as a report of ours, so that nothing else is overwritten.
_MARK = "leaderboard.csv"


def write_report(runs: list[Path], out: Path) -> Path:
    """Build the report of one or more runs from their tables and images alone.

    Args:
        runs: run folders.
        out: folder of the report; made, or replaced where it holds an earlier report.

    Returns:
        The path of index.html.

    Raises:
        InputError: a run cannot be read, or the folder holds something else.
    """
    read = [read_run(run) for run in runs]
    sections = build(read)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).is_file())):
        raise InputError(f"the output folder {out} exists and is not a report of leakboard; name another with --out")
    try:
        shutil.rmtree(out / "assets", ignore_errors=True)
        (out / "assets").mkdir(parents=True)
        table(sections).to_csv(out / _MARK, index=False)
        (out / "leaderboard.md").write_text(_markdown(sections))
        (out / "index.html").write_text(_html(sections, read, out))
    except OSError as error:
        raise InputError(f"cannot write the report to {out}: {error.strerror or error}") from error
    return out / "index.html"


def _markdown(sections: list[Section]) -> str:
    parts = ["# Leakboard"]
    for section in sections:
        parts += [f"## {section.title}", f"{text.protocol(section)}.", text.markdown_table(*text.leaderboard_rows(section)),
                  _reading(section), *_problems(section), "### Every attack", text.markdown_table(*text.attack_rows(section))]
    return "\n\n".join(parts) + "\n"


def _reading(section: Section) -> str:
    """What the numbers mean, and what they do not show."""
    caution = (
        "**Only static attacks were run: none of them takes the defense into account. A low ASR here is no evidence that a defense "
        "holds.** " if section.only_static else "")
    return (
        f"{caution}Ranked by the highest ASR over attacks and checkpoints, then by test accuracy. ASR: share of images rebuilt "
        f"with SSIM ≥ {SUCCESS_SSIM}, with its 95 % Wilson interval. Test accuracy: after the last epoch, mean over seeds with a "
        "95 % bootstrap interval; change: against none, by seed. Epochs to converge: to 95 % of the best accuracy of none."
        + (" The oracle bound chooses, per victim, the best of all candidates by looking at the original; no attacker can, and it "
           "does not count in the ranking." if section.has_oracle else ""))


def _problems(section: Section) -> list[str]:
    lines = [f"- {text.markdown_table([entry.defense], []).splitlines()[0].strip('| ')}: {' '.join(problem.split())}"
             for entry in section.entries for problem in entry.problems]
    return ["Cells without a result:\n\n" + "\n".join(lines)] if lines else []


def _html(sections: list[Section], runs: list[Run], out: Path) -> str:
    colours = figures.palette(list(dict.fromkeys(entry.defense for section in sections for entry in section.entries)))
    pages = []
    for number, section in enumerate(sections):
        curves, scatter = f"assets/{number}-accuracy.svg", f"assets/{number}-asr.svg"
        if not section.training.empty:
            figures.accuracy_curves(section, colours, out / curves)
            figures.accuracy_against_asr(section, colours, out / scatter)
        pages.append({
            "section": section, "protocol": text.protocol(section), "leaderboard": text.leaderboard_rows(section),
            "attacks": text.attack_rows(section), "gallery": gallery.rows(section, number, out),
            "curves": curves, "scatter": scatter,
        })
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True)
    return environment.get_template("index.html.j2").render(
        pages=pages, runs=runs, success=SUCCESS_SSIM, version=version("leakboard"), shown=gallery.SHOWN)
