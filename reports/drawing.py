"""What all figures share: colours, style, and how they are saved."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
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


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **arguments: Any) -> tuple[Figure, Any]:
    """An empty figure and its axes, in inches; draw it within :func:`style`. It is laid out when it is saved."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots(rows, columns, squeeze=False, **arguments)


def style() -> Any:
    """A context with the style of all figures."""
    return mpl.rc_context({**sns.plotting_context("paper", font_scale=1.05), **sns.axes_style("ticks"), **_STYLE})


def legend(axes: Axes, where: Figure | None = None) -> None:
    """Names beside the axes, or beside the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    if axes.get_legend() is not None:
        axes.get_legend().remove()  # type: ignore[union-attr]
    if not handles:
        return
    if len(handles) > MOST_NAMES:
        handles, labels = handles[:MOST_NAMES], [*labels[: MOST_NAMES - 1], f"and {len(labels) - MOST_NAMES + 1} more"]
    names = [plain(label) for label in labels]
    if where is not None:
        where.legend(handles, names, loc="outside right center", frameon=False)
    else:
        axes.legend(handles, names, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def plain(label: str, longest: int = _LONGEST) -> str:
    """A name as text of bounded length: matplotlib takes dollar signs for formulas and drops what starts with an underscore."""
    short = label if len(label) <= longest else label[: longest - 1] + "…"
    return ("\u200b" + short if short.startswith("_") else short).replace("$", r"\$")


def save(drawn: Figure, path: Path) -> None:
    """Write ``path`` with the endings .svg and .png."""
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    with warnings.catch_warnings():
        # A name may use signs that the font lacks; a browser has others.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        fonts.setLevel(logging.ERROR)
        try:
            # The layout is computed once, not in each of the draws that saving takes.
            engine = drawn.get_layout_engine()
            if engine is not None:
                engine.execute(drawn)
                drawn.set_layout_engine(None)
            # Dates would make equal reports differ.
            drawn.savefig(path.with_suffix(".svg"), metadata={"Date": None})
            drawn.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
        finally:
            fonts.setLevel(level)
