"""The face of a board: what each defense leaves of the accuracy, against what it still leaks, by reconstruction and by
identification.

It is drawn twice from the same points: side by side, and one below the other for narrow screens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from reports import text
from reports.boards import Board
from reports.drawing import (
    GREY,
    INK,
    MOST_NAMES,
    NAMES_LINE,
    NAMES_SIZE,
    PAPER,
    Drawn,
    Palette,
    name_with_look,
    plain,
    save,
    style,
)
from reports.labels import Label, Places, spread
from reports.tradeoff_data import ASR, TOP1, facts, points

#: Shares that are marked; the root of the leakage is drawn, since what counts is decided among the small ones.
_TICKS = (0, 0.01, 0.05, 0.25, 0.5, 1)
_SAFE = "#0a8a64"


@dataclass(frozen=True)
class Tradeoff:
    """The figure of a board, for wide and for narrow screens, with its data beside the wide one."""

    wide: Drawn
    narrow: Drawn


def tradeoff_figure(board: Board, palette: Palette, out: Path, file: str) -> Tradeoff | None:
    """Draw a board.

    Args:
        board: with its families.
        palette: of the report.
        out: folder of the report.
        file: from there, without ending; the narrow figure has ``-narrow`` behind.

    Returns:
        What was drawn; None where nothing was both trained and attacked.
    """
    data = points(board)
    if data.empty:
        return None
    measures = [measure for measure in (ASR, TOP1) if (data["measure"] == measure).any()]
    title = f"{board.title}: test accuracy against leakage"
    told = (f"Test accuracy, up, against {' and '.join(_named(data, measure) for measure in measures)}, across; the upper left is "
            f"best. On this board {facts(board)}.")
    with style():
        return Tradeoff(save(_wide(board, palette, data, measures), out, file, title, told, data),
                        save(_narrow(board, palette, data, measures), out, f"{file}-narrow", title, told))


def _wide(board: Board, palette: Palette, data: pd.DataFrame, measures: list[str]) -> Figure:
    """Panels side by side, and to their right the names of the lines."""
    width, height, right = (12.3, 5.5, 2.75) if len(measures) > 1 else (9.0, 5.5, 2.75)
    drawn = Figure(figsize=(width, height))
    panels = drawn.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    drawn.subplots_adjust(left=0.75 / width, right=1 - right / width, bottom=0.72 / height, top=1 - 0.42 / height, wspace=0.07)
    for axes, measure in zip(panels, measures, strict=True):
        _panel(axes, board, palette, data, measure, size=9.5)
    panels[0].set_ylabel("test accuracy")
    _names(panels[-1], palette, data[data["measure"] == measures[-1]], right)
    return drawn


def _narrow(board: Board, palette: Palette, data: pd.DataFrame, measures: list[str]) -> Figure:
    """The names of the lines above, and panels one below the other."""
    families = list(dict.fromkeys(data["family"]))
    columns = 2 if all(len(name) <= 22 for name in families) else 1
    rows = -(-min(len(families), MOST_NAMES) // columns)
    above, panel, gap = (NAMES_LINE * rows + 26) / 72, 3.0, 0.75
    width, height = 3.85, above + len(measures) * (panel + gap)
    drawn = Figure(figsize=(width, height))
    panels = drawn.subplots(len(measures), 1, squeeze=False)[:, 0]
    for number, (axes, measure) in enumerate(zip(panels, measures, strict=True)):
        bottom = height - above - (number + 1) * panel - number * gap
        axes.set_position((0.68 / width, bottom / height, 1 - 0.86 / width, (panel - 0.05) / height))
        _panel(axes, board, palette, data, measure, size=9)
        axes.set_ylabel("test accuracy")
    shown = families if len(families) <= MOST_NAMES else families[: MOST_NAMES - 1]
    for place, name in enumerate(shown):
        column, row = divmod(place, rows)
        name_with_look(drawn, plain(name, 44 // columns), palette.families[name],
                       (4 + column * 36 * width, 72 * height - 8 - NAMES_LINE * row))
    if len(shown) < len(families):
        drawn.text(32 / 72 / width, 1 - (8 + NAMES_LINE * (rows - 1)) / 72 / height, f"and {len(families) - len(shown)} more",
                   fontsize=NAMES_SIZE, va="center_baseline", color=INK)
    return drawn


def _panel(axes: Axes, board: Board, palette: Palette, data: pd.DataFrame, measure: str, size: float) -> None:
    """The points of one measure of leakage, a line per family."""
    rows = data[data["measure"] == measure]
    safe = rows["safe_up_to"].max()
    low, high = _range(data)
    axes.set_xscale("function", functions=(_root, np.square))
    axes.set(xlim=(-0.0004, 1.04), ylim=(low, high),
             xlabel=_named(rows, measure) + ("" if measure == ASR else ", dotted: chance"))
    axes.set_xticks(_TICKS, [f"{100 * tick:g} %" for tick in _TICKS])
    axes.tick_params(labelsize=size)
    axes.xaxis.label.set_fontsize(size + 0.5)
    axes.set_title({ASR: "Reconstruction", TOP1: "Identification"}[measure] + " (left is better)", fontsize=size + 2,
                   fontweight="bold", loc="left")
    axes.axvspan(-0.0004, safe, color=_SAFE, alpha=0.13, linewidth=0, zorder=0)
    axes.axvline(safe, color=_SAFE, linewidth=1, zorder=1)
    labels, lines = [], []
    for (family, _), members in rows.groupby(["family", "submission"], sort=False):
        look = palette.families[family]
        x, y = members["leakage"], members["test_accuracy"]
        axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.6, zorder=3)
        across = np.stack([members[["leakage_low", "leakage_high"]], np.stack([y, y], 1)], 2)
        upright = np.stack([np.stack([x, x], 1), members[["test_accuracy_low", "test_accuracy_high"]]], 2)
        axes.add_collection(LineCollection([*across, *upright], colors=look.colour, alpha=0.45, linewidths=1.4, zorder=2),
                            autolim=False)
        for filled, of in members.groupby("safe"):
            axes.scatter(of["leakage"], of["test_accuracy"], marker=look.marker, s=130 if look.marker == "*" else 52, zorder=4,
                         facecolor=look.colour if filled else PAPER, edgecolor=look.colour, linewidth=1.6, clip_on=False)
        lines.append(members[["leakage", "test_accuracy"]].to_numpy())
        labels += [Label(row.leakage, row.test_accuracy, written, look.colour, not pd.isna(row.epsilon))
                   for row in members.itertuples() if (written := _written(row))]
    places = Places(axes, rows[["leakage", "test_accuracy"]].to_numpy(), lines)
    places.beside([label for label in labels if label.needed], size - 0.5)
    places.upwards(Label(safe / 4, low, "safe", INK, needed=True), size)
    _references(axes, places, rows, measure, size - 1)
    places.beside([label for label in labels if not label.needed], size - 0.5)


def _references(axes: Axes, places: Places, rows: pd.DataFrame, measure: str, size: float) -> None:
    """The accuracy of the undefended model and of who guesses, and how often who guesses identifies."""
    undefended, guessed = rows[rows["undefended"]]["test_accuracy"], rows["chance_accuracy"].dropna()
    for name, accuracies in (("undefended", undefended), ("chance", guessed)):
        if len(accuracies):
            accuracy, bottom = accuracies.max(), axes.get_ylim()[0]
            written = f"{name} {text.number(accuracy, 3)}" + (" (below)" if accuracy < bottom else "")
            axes.axhline(max(accuracy, bottom), color=GREY, linewidth=1, linestyle="--" if name == "undefended" else ":", zorder=1)
            places.along(Label(1, max(accuracy, bottom), written, GREY, needed=True), size)
    if measure == TOP1:
        axes.axvline(1 / rows["candidates"].min(), color=GREY, linewidth=1, linestyle=":", zorder=1)


def _names(axes: Axes, palette: Palette, rows: pd.DataFrame, room: float) -> None:
    """The names of families to the right of a panel, each with a line to its last point."""
    last = rows.sort_values("leakage", kind="stable").drop_duplicates("family", keep="last")
    last = last.set_index("family").loc[list(dict.fromkeys(rows["family"]))][:MOST_NAMES]
    frame = axes.get_window_extent()
    ends = axes.transData.transform(last[["leakage", "test_accuracy"]].to_numpy())
    places = spread(ends[:, 1].tolist(), 15.5, frame.y0 + 6, frame.y1 - 2)
    for name, (x, y), place in zip(last.index, ends, places, strict=True):
        look = palette.families[str(name)]
        start = frame.x1 + 16
        # From further away the line to a name would look like an interval.
        reach = x + 6 if x > frame.x1 - 60 else frame.x1 + 1
        axes.plot(*axes.transAxes.inverted().transform([(reach, y), (frame.x1 + 3, y), (start - 4, place), (start, place)]).T,
                  transform=axes.transAxes, color=look.colour, linewidth=0.7, alpha=0.6, clip_on=False, zorder=1)
        at = axes.transAxes.inverted().transform((start + 6, place))
        axes.plot(*at, transform=axes.transAxes, marker=look.marker, color=look.colour, markersize=9 if look.marker == "*" else 6,
                  clip_on=False)
        shown = plain(str(name), int((72 * room - 40) / 5.9))
        left, middle = axes.transAxes.inverted().transform((start + 14, place))
        axes.text(left, middle, shown, transform=axes.transAxes, va="center", ha="left", fontsize=NAMES_SIZE, color=INK)
    if rows["family"].nunique() > len(last):
        axes.annotate(f"and {rows['family'].nunique() - len(last)} more", (1, 0), (30, -12), xycoords="axes fraction",
                      textcoords="offset points", fontsize=9.5)


def _written(row: object) -> str:
    """What is written at a point: the privacy budget where there is a guarantee, else the strength."""
    epsilon, strength = row.epsilon, row.strength  # type: ignore[attr-defined]
    if pd.isna(epsilon):
        return str(strength)
    return "ε ∞" if np.isinf(epsilon) else f"ε {epsilon:.2g}" if epsilon < 100 else f"ε {epsilon:.0f}"


def _named(rows: pd.DataFrame, measure: str) -> str:
    """A measure with what it is measured by."""
    rows = rows[rows["measure"] == measure]
    by = " of blind attackers" if (rows["knowledge"] == "blind").all() else ""
    if measure == ASR:
        return f"worst-case attack success rate{by}"
    return f"top-1 among {text.span(sorted({int(size) for size in rows['candidates']}))} candidates{by}"


def _range(data: pd.DataFrame) -> tuple[float, float]:
    """What accuracies are shown: chance too, where it takes no more than half of the height."""
    shown = pd.concat([data[name] for name in ("test_accuracy_low", "test_accuracy_high")])
    low, high = shown.min(), shown.max()
    chance = data["chance_accuracy"].min()
    if high - chance <= 2.2 * max(high - low, 0.05):
        low = min(low, chance)
    margin = max(0.1 * (high - low), 0.01)
    return max(low - margin, 0.0) if low > 0 else low - margin, high + 1.3 * margin


def _root(shares: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip(shares, 0, None))
