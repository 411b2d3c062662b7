"""What all figures share: colours, style, and how they are saved."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Characters of a name in a legend.
_LONGEST = 48
#: Names in a legend; more are in the tables.
MOST_NAMES = 24
_STYLE = {"svg.hashsalt": "leakboard", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False,
          "axes.spines.right": False, "font.size": 9.5}
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_DASHES = ("", (4, 1.5), (1, 1), (3, 1, 1, 1), (5, 1, 1, 1, 1, 1))

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Palette:
    """How each defense is drawn, the same in every figure of a report.

    Of ten defenses each has a colour of seaborn's colour-blind safe palette; more repeat the colours with another line and marker,
    so that no two are told apart by colours that some readers cannot tell apart.
    """

    colours: dict[str, Colour]
    dashes: dict[str, Any]
    markers: dict[str, str]

    def line(self, defense: str) -> Any:
        """The line style as matplotlib takes it."""
        return (0, self.dashes[defense]) if self.dashes[defense] else "-"


def palette(defenses: Iterable[str]) -> Palette:
    """The palette of a report with these defenses."""
    names = list(dict.fromkeys(defenses))
    ten = sns.color_palette("colorblind", 10)
    return Palette({name: ten[i % 10] for i, name in enumerate(names)},
                   {name: _DASHES[i // 10 % len(_DASHES)] for i, name in enumerate(names)},
                   {name: _MARKERS[i // 10 % len(_MARKERS)] for i, name in enumerate(names)})


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


def save(drawn: Figure, path: Path) -> None:
    """Write ``path`` with the endings .svg and .png."""
    # Dates would make equal reports differ.
    drawn.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    drawn.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
