"""All of a model in one figure, in the manner of the first figure of the PRECODE paper (Scheliga et al., WACV 2022): originals on
top, a row per defense with its training curves and what is rebuilt from its gradients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from benchmark.store.tables import SUCCESS_SSIM
from reports import text
from reports.boards import Board
from reports.drawing import INK, Drawn, Palette, plain, save, style
from reports.text import checkpoint

#: Victims of each data set.
VICTIMS = 4
#: Inches of a column of pictures, and of a row; the gap below a row as a share of it.
_COLUMN, _ROW, _GAP = 3.0, 0.68, 0.36
#: Defenses of a figure that can still be read.
_ROWS = 10
_LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Excerpt:
    """What the figure shows of a board in one mode: the checkpoint of the pictures, of each defense the mean test accuracy by
    epoch, and its first originals with what the worst case rebuilds of them, both [VICTIMS, C, H, W]."""

    epoch: int
    accuracies: dict[str, pd.Series]
    examples: dict[str, tuple[np.ndarray, np.ndarray]]


def summary_figure(boards: list[tuple[Board, Excerpt]], mode: str, palette: Palette, out: Path, file: str) -> Drawn:
    """Draw boards of one model, which have a data set each, by gradients of one mode."""
    measured = list(dict.fromkeys(entry.defense for board, _ in boards for entry in board.entries if entry.accuracy))
    # The best, and what all are compared with; the tables have the others.
    undefended = {board.undefended for board, _ in boards}
    defenses = [name for place, name in enumerate(measured) if len(measured) <= _ROWS or place < _ROWS - 1 or name in undefended]
    left_out = len(measured) - len(defenses)
    # Of a single data set the title takes two lines.
    above = 0.5 if len(boards) > 1 else 0.7
    width, height = 2.4 + _COLUMN * len(boards), _ROW * (1 + _GAP) * (len(defenses) + 1) + 0.25 + above
    with style():
        # The places are known, and a computed layout of so many axes takes seconds.
        drawn = Figure(figsize=(width, height))
        grid = GridSpec(1, 1 + len(boards), drawn, left=0.3 / width, right=1, top=1 - above / height,
                        bottom=0.4 / height, wspace=0.08, width_ratios=[2.0, *[_COLUMN] * len(boards)])
        _curves(drawn.add_subplot(grid[0, 0]), defenses, boards, palette)
        for column, (board, excerpt) in enumerate(boards, start=1):
            _pictures(drawn.add_subplot(grid[0, column]), defenses, board, excerpt, mode)
        model, space = plain(boards[0][0].model), "\n" if len(boards) == 1 else " "
        more = f"; {left_out} more in the tables" if left_out else ""
        epoch = checkpoint(min(excerpt.epoch for _, excerpt in boards))
        drawn.suptitle(f"{model}, gradients {text.mode(mode)}, {epoch}: originals,{space}and the worst case's reconstructions; "
                       f"bold: mean SSIM ≥ {SUCCESS_SSIM}{more}",
                       fontsize=9.5, y=1 - 0.12 / height, va="top")
        return save(drawn, out, file, f"{boards[0][0].model}, gradients {text.mode(mode)}: what is rebuilt",
                    f"Originals of {', '.join(board.dataset for board, _ in boards)}, and per defense its training curves and the "
                    "worst case's reconstructions; the numbers are in the tables of the boards")


def _curves(axes: Axes, defenses: list[str], boards: list[tuple[Board, Excerpt]], palette: Palette) -> None:
    """The training curves of a defense per row, on one pair of axes, whose unit is the height of a row."""
    rows = len(defenses) + 1
    last = max((curve.index.max() for _, excerpt in boards for curve in excerpt.accuracies.values()), default=1)
    axes.set_axis_off()
    for place, (line, (board, _)) in enumerate(zip(_LINES * len(boards), boards, strict=False)):
        axes.plot([0, 0.1 * last], [0.3 + 0.22 * place] * 2, color=INK, linestyle=line, linewidth=1.3)
        axes.text(0.14 * last, 0.3 + 0.22 * place, f"test accuracy, {plain(board.dataset, 24)}", fontsize=7.5, va="center")
    for row, defense in enumerate(defenses, start=1):
        top = row * (1 + _GAP)
        axes.add_collection(LineCollection([[(0, top), (0, top + 1), (last, top + 1)]], colors=INK, linewidths=0.8), autolim=False)
        axes.text(0, top - 0.04, plain(defense, 34), fontsize=8, va="bottom")
        axes.text(-0.02 * last, top + 0.07, "1", fontsize=7, ha="right", va="center")
        axes.text(-0.02 * last, top + 0.93, "0", fontsize=7, ha="right", va="center")
        for line, (_, excerpt) in zip(_LINES * len(boards), boards, strict=False):
            if (curve := excerpt.accuracies.get(defense)) is not None:
                axes.plot(curve.index, top + 1 - curve.to_numpy(), color=palette.defenses[defense].colour, linestyle=line,
                          linewidth=1.3)
    bottom = rows * (1 + _GAP) - _GAP
    for epoch in (0, last):
        axes.text(epoch, bottom + 0.06, f"{epoch:g}", fontsize=7, ha="center", va="top")
    axes.text(last / 2, bottom + 0.06, "epoch", fontsize=8, ha="center", va="top")
    axes.set(xlim=(-0.06 * last, 1.02 * last), ylim=(bottom, 0))


def _pictures(axes: Axes, defenses: list[str], board: Board, excerpt: Excerpt, mode: str) -> None:
    """A strip per row on one pair of axes, whose unit is the height of a row of curves."""
    rows = len(defenses) + 1
    axes.set_axis_off()
    entries = {entry.defense: entry for entry in board.entries}
    originals = next((excerpt.examples[defense][0] for defense in defenses if defense in excerpt.examples), None)
    for row, defense in enumerate(defenses, start=1):
        result = entries[defense].seen(mode).worst_case_at(excerpt.epoch) if defense in entries else None
        example = excerpt.examples.get(defense)
        if example is None or result is None or result.asr is None or result.ssim is None:
            axes.text(2, row * (1 + _GAP) + 0.5, "not run", ha="center", va="center", fontsize=8)
        elif originals is not None and not np.array_equal(example[0], originals):
            axes.text(2, row * (1 + _GAP) + 0.5, f"batches of {result.batch_size}, of other images: see its page", ha="center",
                      va="center", fontsize=8)
        else:
            _strip(axes, row, example[1], f"ASR {result.asr.mean:.2f}, SSIM {result.ssim.mean:.2f}",
                   bold=result.ssim.mean >= SUCCESS_SSIM)
    if originals is not None:
        _strip(axes, 0, originals, plain(board.dataset, 24))
    axes.set(xlim=(-0.05, _COLUMN / _ROW), ylim=(rows * (1 + _GAP) - _GAP, 0), aspect="auto")


def _strip(axes: Axes, row: int, images: np.ndarray, title: str, *, bold: bool = False) -> None:
    strip = np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1)
    top = row * (1 + _GAP)
    axes.imshow(np.broadcast_to(strip, (*strip.shape[:2], 3)), interpolation="nearest",
                extent=(0, strip.shape[1] / strip.shape[0], top + 1, top), aspect="auto")
    axes.text(0, top - 0.04, title, fontsize=8, va="bottom", fontweight="bold" if bold else "normal")
