"""What all figures share: how defenses look, the style, and how figures are saved."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

#: Characters of a name in a legend.
_LONGEST = 48
#: Names in a legend; more are in the tables.
MOST_NAMES = 24
#: What is drawn neither in the colour of a defense nor in grey: seaborn's own choice.
INK = "#262626"
#: Of what is to be seen after all else.
GREY = "#6b6b6b"
PAPER = "#ffffff"
#: Points of their font, and from one to the next.
NAMES_SIZE, NAMES_LINE = 9.5, 14.0
#: Width of a letter as a share of the size of its font, rather too much.
LETTER = 0.62
_STYLE = {"svg.hashsalt": "leakboard", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.35, "axes.spines.top": False,
          "axes.spines.right": False, "font.size": 9.5, "figure.dpi": 72,
          # The first is what widths are computed with, the second as wide.
          "font.sans-serif": ["DejaVu Sans", "Verdana"]}
#: Colours after those of Okabe and Ito (2008), which readers with and without colour blindness tell apart, so dark that texts can
#: be read on white paper, and what each becomes on dark.
_COLOURS = {"#0068a8": "#5ab4f0", "#b84e00": "#ff9a4d", "#00724f": "#3fc79a", "#a1428b": "#e08fcf", "#806000": "#d9b13a",
            "#5156b8": "#a2a6f2", "#b03048": "#f08a98", "#3a7482": "#86c5d6"}
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
_DASHES = ("", (4, 1.5), (1, 1), (3, 1, 1, 1), (5, 1, 1, 1, 1, 1), (7, 2), (1, 2.5), (7, 1, 1, 1))
#: In a page that is dark an image is dark too, and light where it is printed.
_DARK = {INK: "#e9e9e9", PAPER: "#161616", GREY: "#a6a6a6", "#cccccc": "#6a6a6a", **_COLOURS}


@dataclass(frozen=True)
class Look:
    """How something is drawn: a colour as #rrggbb, a line as matplotlib takes it, and a marker."""

    colour: str
    line: Any
    marker: str


class Palette:
    """How each family and each of its defenses is drawn, the same in every figure of a report.

    Families are told apart by colour and, for who sees none, by marker and line; the defenses of a family share its colour and
    marker, and differ by their lines. The plain client is drawn in ink.
    """

    def __init__(self, families: Iterable[tuple[str, Iterable[str]]], undefended: Iterable[str | None]) -> None:
        self.families: dict[str, Look] = {}
        self.defenses: dict[str, Look] = {}
        plain_ones, place = set(undefended), 0
        for name, defenses in families:
            members = list(defenses)
            if name not in self.families:
                if plain_ones.intersection(members):
                    self.families[name] = Look(INK, "-", "*")
                else:
                    self.families[name] = Look(list(_COLOURS)[place % len(_COLOURS)], _line(place), _marker(place))
                    place += 1
            family = self.families[name]
            for number, defense in enumerate(members):
                marker = family.marker if number < len(_DASHES) else _MARKERS[number // len(_DASHES) % len(_MARKERS)]
                self.defenses.setdefault(defense, Look(family.colour, _line(number), marker))


def _line(number: int) -> Any:
    dashes = _DASHES[number % len(_DASHES)]
    return (0, dashes) if dashes else "-"


def _marker(number: int) -> str:
    return _MARKERS[(number + number // len(_MARKERS)) % len(_MARKERS)]


def figure(width: float, height: float, above: float = 0.15) -> Figure:
    """An empty figure, in inches, with room for the labels of its axes and ``above`` them; draw it within :func:`style`.

    The places are known, so that no layout has to be computed, which takes seconds for many axes.
    """
    drawn = Figure(figsize=(width, height))
    drawn.subplots_adjust(left=0.75 / width, right=1 - 0.15 / width, bottom=0.6 / height, top=1 - above / height)
    return drawn


@contextmanager
def style() -> Iterator[None]:
    """A context with the style of all figures, in which they are drawn and saved."""
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    with warnings.catch_warnings(), mpl.rc_context({**sns.plotting_context("paper", font_scale=1.05), **sns.axes_style("ticks"),
                                                    **_STYLE}):
        # A name may use signs that the font lacks; a browser has others.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        fonts.setLevel(logging.ERROR)
        try:
            yield
        finally:
            fonts.setLevel(level)


def legend(drawn: Figure, names: Sequence[tuple[str, Look, bool]]) -> None:
    """Names of what is drawn, with whether as line and marker or as a line alone, to the right of all axes.

    matplotlib's own takes as long as all the rest of a figure.
    """
    if len(names) > MOST_NAMES:
        names = [*names[: MOST_NAMES - 1], (f"and {len(names) - MOST_NAMES + 1} more", Look(INK, "", ""), False)]
    labels = [plain(name) for name, _, _ in names]
    width, height = drawn.get_size_inches() * 72
    left = width - 44 - max(LETTER * NAMES_SIZE * len(label) for label in labels)
    top = height / 2 + NAMES_LINE * (len(labels) - 1) / 2
    for place, (label, (_, look, marked)) in enumerate(zip(labels, names, strict=True)):
        name_with_look(drawn, label, look, (left, top - NAMES_LINE * place), marked=marked)
    drawn.subplots_adjust(right=(left - 14) / width)


def name_with_look(drawn: Figure, label: str, look: Look, place: tuple[float, float], *, marked: bool = True) -> None:
    """A name behind a piece of its line and its marker, at a place in points from the lower left."""
    width, height = drawn.get_size_inches() * 72
    x, y = place[0] / width, place[1] / height
    drawn.add_artist(Line2D([x, x + 11 / width, x + 22 / width], [y] * 3, color=look.colour, linestyle=look.line or "none",
                            linewidth=1.5, marker=look.marker if marked else "", markevery=[1],
                            markersize=9 if look.marker == "*" else 6, transform=drawn.transFigure))
    drawn.text(x + 28 / width, y, label, fontsize=NAMES_SIZE, va="center_baseline", color=INK)


def plain(label: str, longest: int = _LONGEST) -> str:
    """A name as text of bounded length: matplotlib takes dollar signs for formulas and drops what starts with an underscore."""
    short = label if len(label) <= longest else label[: longest - 1] + "…"
    return ("\u200b" + short if short.startswith("_") else short).replace("$", r"\$")


@dataclass(frozen=True)
class Drawn:
    """A figure that was drawn: its file from the report without ending, its size in pixels, the text for who cannot see it, and
    whether its data is beside it."""

    file: str
    width: int
    height: int
    description: str
    data: bool


def save(drawn: Figure, out: Path, file: str, title: str, description: str, data: pd.DataFrame | None = None) -> Drawn:
    """Write a figure as SVG, whose texts stay texts, with a title and a description for who cannot see it, and the data that it
    draws beside it as CSV."""
    if data is not None:
        data.to_csv(out / f"{file}.csv", index=False)
    buffer = io.StringIO()
    # Dates would make equal reports differ.
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    before, start, after = buffer.getvalue().partition("<svg ")
    attributes, end, content = after.partition(">")
    told = f'<title id="title">{escape(title)}</title>\n<desc id="description">{escape(description)}</desc>\n'
    svg = f'{before}{start}role="img" aria-labelledby="title description" {attributes}{end}\n{told}{_dark(content)}{content}'
    (out / f"{file}.svg").write_text(svg, encoding="utf-8")
    width, height = (round(96 * inches) for inches in drawn.get_size_inches())
    return Drawn(file, width, height, description, data is not None)


def _dark(content: str) -> str:
    """The style by which colours of a figure change in a dark page."""
    rules = [f'[style*="{what}: {light}"] {{ {what}: {dark} !important }}'
             for light, dark in _DARK.items() for what in ("fill", "stroke") if f"{what}: {light}" in content]
    return f"<style>@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}</style>"
