"""What all figures share: how defenses look, the style, and how figures are saved."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Characters of a name in a legend.
_LONGEST = 48
#: Names in a legend; more are in the tables.
MOST_NAMES = 24
#: What is drawn neither in the colour of a defense nor in grey: seaborn's own choice.
INK = "#262626"
_PAPER = "#ffffff"
_STYLE = {"svg.hashsalt": "leakboard", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False,
          "axes.spines.right": False, "font.size": 9.5, "figure.dpi": 72,
          # The first is what widths are computed with, the second as wide.
          "font.sans-serif": ["DejaVu Sans", "Verdana"]}
#: Of the colours that readers with and without colour blindness tell apart (Okabe and Ito, 2008) those, some of them darker, that
#: stand out from white and from black paper by at least 3 to 1, and others between them.
_COLOURS = ("#0b78bd", "#d55e00", "#0a8a64", "#b3589f", "#9a7400", "#6a6fc4", "#c2485b", "#4f8f9f")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
_DASHES = ("", (4, 1.5), (1, 1), (3, 1, 1, 1), (5, 1, 1, 1, 1, 1), (7, 2), (1, 2.5), (7, 1, 1, 1))
#: In a page that is dark an image is dark too, and where it is printed light; the colours of defenses suit both.
_DARK = ('<style>@media (prefers-color-scheme: dark) {'
         f'[style*="fill: {INK}"] {{ fill: #e9e9e9 !important }} [style*="stroke: {INK}"] {{ stroke: #e9e9e9 !important }} '
         f'[style*="fill: {_PAPER}"] {{ fill: #161616 !important }} [style*="stroke: {_PAPER}"] {{ stroke: #161616 !important }} '
         "}</style>")


@dataclass(frozen=True)
class Look:
    """How something is drawn: a colour as #rrggbb, a line as matplotlib takes it, and a marker."""

    colour: str
    line: Any
    marker: str


class Palette:
    """How each family and each of its defenses is drawn, the same in every figure of a report.

    Families are told apart by colour and, for who sees none, by marker and line; the defenses of a family share its colour and marker,
    and differ by their lines. The plain client is drawn in ink.
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
                    self.families[name] = Look(_COLOURS[place % len(_COLOURS)], _line(place),
                                               _MARKERS[(place + place // len(_MARKERS)) % len(_MARKERS)])
                    place += 1
            family = self.families[name]
            for number, defense in enumerate(members):
                self.defenses.setdefault(defense, Look(family.colour, _line(number), family.marker))


def _line(number: int) -> Any:
    dashes = _DASHES[number % len(_DASHES)]
    return (0, dashes) if dashes else "-"


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


def legend(drawn: Figure, axes: Axes) -> None:
    """Names of what is in some axes of a figure, to the right of all of them."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > MOST_NAMES:
        handles, labels = handles[:MOST_NAMES], [*labels[: MOST_NAMES - 1], f"and {len(labels) - MOST_NAMES + 1} more"]
    names = drawn.legend(handles, [plain(label) for label in labels], loc="center right", frameon=False)
    drawn.subplots_adjust(right=1 - (names.get_window_extent().width + 0.15 * drawn.dpi) / drawn.bbox.width)


def plain(label: str, longest: int = _LONGEST) -> str:
    """A name as text of bounded length: matplotlib takes dollar signs for formulas and drops what starts with an underscore."""
    short = label if len(label) <= longest else label[: longest - 1] + "…"
    return ("\u200b" + short if short.startswith("_") else short).replace("$", r"\$")


@dataclass(frozen=True)
class Drawn:
    """A figure that was drawn: its file from the report without ending, its size in pixels, and the text for who cannot see it."""

    file: str
    width: int
    height: int
    description: str


def save(drawn: Figure, out: Path, file: str, title: str, description: str) -> Drawn:
    """Write a figure as SVG, whose texts stay texts, with a title and a description for who cannot see it."""
    buffer = io.StringIO()
    # Dates would make equal reports differ.
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    before, start, after = buffer.getvalue().partition("<svg ")
    attributes, end, content = after.partition(">")
    told = f'<title id="title">{escape(title)}</title>\n<desc id="description">{escape(description)}</desc>\n'
    svg = f'{before}{start}role="img" aria-labelledby="title description" {attributes}{end}\n{told}{_DARK}{content}'
    (out / f"{file}.svg").write_text(svg, encoding="utf-8")
    width, height = (round(96 * inches) for inches in drawn.get_size_inches())
    return Drawn(file, width, height, description)


def save_data(data: pd.DataFrame, out: Path, file: str) -> None:
    """Write what a figure draws beside it, as CSV."""
    data.to_csv(out / f"{file}.csv", index=False)
