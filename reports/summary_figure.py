"""All of a report in one figure, in the manner of the first figure of the PRECODE paper (Scheliga et al., WACV 2022): originals on
top, a row per defense with its training curves and what is rebuilt from its gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from benchmark.store.tables import SUCCESS_SSIM
from reports.drawing import Palette, plain, save, style
from reports.gallery import Pictures
from reports.leaderboard import Section
from reports.text import checkpoint

#: Victims of each data set.
_VICTIMS = 4
#: Inches of a column of pictures, and of a row; the gap below a row as a share of it.
_COLUMN, _ROW, _GAP = 3.0, 0.68, 0.36
#: Defenses of a figure that can still be read.
_ROWS = 10
_LINES = ("-", "--", ":", "-.")


def summary_figure(sections: list[Section], pictures: list[Pictures], palette: Palette, path: Path) -> bool:
    """Draw the sections of one model, which have a data set each.

    Args:
        sections: of one model.
        pictures: theirs, in the same order.
        palette: of the report.
        path: of the figure, without its ending.

    Returns:
        Whether there was anything to draw.
    """
    both = [(s, p) for s, p in zip(sections, pictures, strict=True) if s.cells and any(e.worst_case for e in s.board.entries)]
    if not both:
        return False
    measured = list(dict.fromkeys(entry.defense for section, _ in both for entry in section.board.entries if entry.accuracy))
    # The best, and what all are compared with; the tables have the others.
    undefended = {section.board.undefended for section, _ in both}
    defenses = [name for place, name in enumerate(measured) if len(measured) <= _ROWS or place < _ROWS - 1 or name in undefended]
    left_out = len(measured) - len(defenses)
    # The first checkpoint: untrained models leak most.
    epoch = min(section.board.checkpoints[0] for section, _ in both)
    # Of a single data set the title takes two lines.
    above = 0.5 if len(both) > 1 else 0.7
    width, height = 2.4 + _COLUMN * len(both), _ROW * (1 + _GAP) * (len(defenses) + 1) + 0.25 + above
    with style():
        # The places are known, and a computed layout of so many axes takes seconds.
        drawn = Figure(figsize=(width, height))
        grid = GridSpec(len(defenses) + 1, 1 + len(both), drawn, left=0.3 / width, right=1, top=1 - above / height,
                        bottom=0.4 / height, wspace=0.08, hspace=_GAP, width_ratios=[2.0, *[_COLUMN] * len(both)])
        names = drawn.add_subplot(grid[0, 0])
        names.set_axis_off()
        for line, (section, _) in zip(_LINES * len(both), both, strict=False):
            names.plot([], [], color="0.3", linestyle=line, label=plain(section.board.dataset, 24))
        names.legend(loc="center left", frameon=False, fontsize=7.5, title="test accuracy", title_fontsize=8)
        for row, defense in enumerate(defenses, start=1):
            _curves(drawn.add_subplot(grid[row, 0]), defense, [section for section, _ in both], palette, last=row == len(defenses))
        for column, (section, pictures_of) in enumerate(both, start=1):
            _pictures(drawn.add_subplot(grid[:, column]), defenses, epoch, section, pictures_of)
        model, space = plain(both[0][0].board.model), "\n" if len(both) == 1 else " "
        more = f"; {left_out} more in the tables" if left_out else ""
        drawn.suptitle(f"{model}, {checkpoint(epoch)}: originals, and the worst case's{space}reconstructions under each defense; "
                       f"bold: mean SSIM ≥ {SUCCESS_SSIM}{more}", fontsize=9.5, y=1 - 0.12 / height, va="top")
        save(drawn, path)
    return True


def _curves(axes: Axes, defense: str, sections: list[Section], palette: Palette, *, last: bool) -> None:
    for line, section in zip(_LINES * len(sections), sections, strict=False):
        training = section.training[section.training["defense"] == defense]
        curve = training.groupby("epoch")["test_accuracy"].mean()
        axes.plot(curve.index, curve.values, color=palette.colours[defense], linestyle=line, linewidth=1.3)
    axes.set(ylim=(0, 1.02), yticks=(0, 1))
    axes.tick_params(labelbottom=last, labelsize=7)
    axes.set_title(plain(defense, 40), fontsize=8, loc="left", pad=2)
    if last:
        axes.set_xlabel("epoch", fontsize=8)


def _pictures(axes: Axes, defenses: list[str], epoch: int, section: Section, pictures: Pictures) -> None:
    """A strip per row on one pair of axes, whose unit is the height of a row of curves."""
    rows = len(defenses) + 1
    axes.set_axis_off()
    originals = None
    for row, defense in enumerate(defenses, start=1):
        entry = next((e for e in section.board.entries if e.defense == defense), None)
        result = entry.worst_case_at(epoch) if entry is not None else None
        example = pictures.example(defense, epoch, _VICTIMS)
        if example is None or result is None or result.asr is None or result.ssim is None:
            axes.text(2, row * (1 + _GAP) + 0.5, "not run", ha="center", va="center", fontsize=8)
            continue
        originals, rebuilt = example
        _strip(axes, row, rebuilt, f"ASR {result.asr.mean:.2f}, SSIM {result.ssim.mean:.2f}",
               bold=result.ssim.mean >= SUCCESS_SSIM)
    if originals is not None:
        _strip(axes, 0, originals, plain(section.board.dataset, 24))
    axes.set(xlim=(-0.05, _COLUMN / _ROW), ylim=(rows * (1 + _GAP) - _GAP, 0), aspect="auto")


def _strip(axes: Axes, row: int, images: np.ndarray, title: str, *, bold: bool = False) -> None:
    strip = np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1)
    top = row * (1 + _GAP)
    axes.imshow(np.broadcast_to(strip, (*strip.shape[:2], 3)), interpolation="nearest",
                extent=(0, strip.shape[1] / strip.shape[0], top + 1, top), aspect="auto")
    axes.text(0, top - 0.04, title, fontsize=8, va="bottom", fontweight="bold" if bold else "normal")
