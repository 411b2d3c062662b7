"""The figures of a board. Each returns whether there was anything to draw."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns

from benchmark.results import ORACLE, SUCCESS_SSIM
from reports.drawing import MOST_NAMES, Palette, figure, legend, plain, save, style
from reports.entries import Board
from reports.leaderboard import Section
from reports.text import checkpoint, labelled


def accuracy_curves(section: Section, palette: Palette, path: Path) -> bool:
    """Test accuracy per epoch, with the range over seeds."""
    if section.training.empty:
        return False
    order = [entry.defense for entry in section.board.entries if entry.accuracy is not None]
    curves = section.training.groupby(["defense", "epoch"])["test_accuracy"].agg(["mean", "min", "max"]).reset_index()
    with style():
        drawn, axes = figure(7.4, _height(section.board))
        sns.lineplot(curves, x="epoch", y="mean", hue="defense", style="defense", hue_order=order, style_order=order,
                     palette=palette.colours, dashes=palette.dashes, errorbar=None, ax=axes[0, 0])
        for defense, curve in curves.groupby("defense"):
            axes[0, 0].fill_between(curve["epoch"], curve["min"], curve["max"], color=palette.colours[defense], alpha=0.2,
                                    linewidth=0)
        axes[0, 0].set(xlabel="epoch", ylabel="test accuracy")
        legend(axes[0, 0])
        save(drawn, path)
    return True


def accuracy_against_asr(board: Board, palette: Palette, path: Path) -> bool:
    """Test accuracy against the worst-case ASR, with their intervals and the Pareto front."""
    measured = [entry for entry in board.entries if entry.measured is not None]
    if not measured:
        return False
    with style():
        drawn, grid = figure(7.4, _height(board))
        axes = grid[0, 0]
        front = sorted({entry.measured for entry in measured if entry.pareto and entry.measured}, key=lambda point: point[::-1])
        axes.step([point[1] for point in front], [point[0] for point in front], where="post", color="0.6", linewidth=1, zorder=1,
                  label="Pareto front")
        for entry in measured:
            accuracy, asr = entry.accuracy, entry.strongest.asr  # type: ignore[union-attr]
            assert accuracy is not None and asr is not None
            colour = palette.colours[entry.defense]
            axes.scatter([asr.mean], [accuracy.mean], color=[colour], marker=palette.markers[entry.defense], s=42, zorder=3,
                         label=labelled(entry) + (" ★" if entry.pareto else ""))
            if asr.low is not None and asr.high is not None:
                axes.hlines(accuracy.mean, asr.low, asr.high, color=colour, alpha=0.45, zorder=2)
            if accuracy.low is not None and accuracy.high is not None:
                axes.vlines(asr.mean, accuracy.low, accuracy.high, color=colour, alpha=0.45, zorder=2)
        axes.set(xlabel="worst-case attack success rate (left is better)", ylabel="test accuracy (up is better)",
                 xlim=(-0.03, 1.03))
        legend(axes)
        save(drawn, path)
    return True


def asr_against_epoch(board: Board, palette: Palette, path: Path) -> bool:
    """The highest ASR at each checkpoint, with its interval."""
    if not any(entry.strongest for entry in board.entries):
        return False
    with style():
        drawn, grid = figure(7.4, _height(board))
        axes = grid[0, 0]
        spread = max(board.checkpoints[-1], 1) * 0.006
        for place, entry in enumerate(board.entries):
            results = [(point, result.asr) for point in board.checkpoints if (result := entry.strongest_at(point)) and result.asr]
            if not results:
                continue
            # Side by side, so that equal rates do not hide each other.
            x = [point + (place - (len(board.entries) - 1) / 2) * spread for point, _ in results]
            y = [asr.mean for _, asr in results]
            bounds = [[asr.mean - (asr.low or 0.0) for _, asr in results],
                      [(asr.high or asr.mean) - asr.mean for _, asr in results]]
            axes.errorbar(x, y, yerr=bounds, color=palette.colours[entry.defense], linestyle=palette.line(entry.defense),
                          marker=palette.markers[entry.defense], markersize=5, capsize=2, elinewidth=0.8, label=labelled(entry))
        axes.set(xlabel="epochs of training before the observation", ylabel="worst-case attack success rate", ylim=(-0.03, 1.03),
                 xticks=board.checkpoints)
        legend(axes)
        save(drawn, path)
    return True


def ssim_distributions(section: Section, palette: Palette, path: Path) -> bool:
    """Per attack and checkpoint the share of images rebuilt at least as well as an SSIM; of an attack with several settings the one
    with the highest mean for each defense. At the threshold of success the curve gives the ASR."""
    if section.reconstructions.empty:
        return False
    best = _best_settings(section.reconstructions)
    names = list(dict.fromkeys(best["name"]))
    points = sorted(best["checkpoint_epoch"].unique())
    order = [entry.defense for entry in section.board.entries if entry.defense in set(best["defense"])]
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    with style():
        height = max(1.75 * rows * len(points) + 0.4, _height(section.board))
        drawn, grid = figure(2.2 * columns + 3.4, height, rows * len(points), columns, sharex=True, sharey=True)
        for block, point in enumerate(points):
            for place in range(len(names), rows * columns):
                grid[block * rows + place // columns, place % columns].remove()
            for place, name in enumerate(names):
                axes = grid[block * rows + place // columns, place % columns]
                axes.axvline(SUCCESS_SSIM, color="0.5", linewidth=0.8, linestyle=":")
                frame = best[(best["name"] == name) & (best["checkpoint_epoch"] == point)]
                for defense, scores in frame.groupby("defense", sort=False)["ssim"]:
                    ordered = np.sort(scores)
                    shares = 1 - np.arange(len(ordered) + 1) / len(ordered)
                    axes.step([-1, *ordered], shares, where="post", color=palette.colours[defense],
                              linestyle=palette.line(defense), linewidth=1.2)
                axes.set(xlim=(-0.1, 1.02), ylim=(-0.02, 1.04), xlabel="", ylabel="")
                axes.set_title(f"{plain(name, 30)}\n{checkpoint(int(point))}", fontsize=8)
        for defense in order:
            grid[0, 0].plot([], [], color=palette.colours[defense], linestyle=palette.line(defense), label=defense)
        drawn.supxlabel("SSIM", fontsize=9)
        drawn.supylabel("share of images with at least this SSIM", fontsize=9)
        legend(grid[0, 0], drawn)
        save(drawn, path)
    return True


def _height(board: Board) -> float:
    """Inches that a legend of all entries needs."""
    return max(3.6, 0.2 * min(len(board.entries), MOST_NAMES) + 0.5)


def _best_settings(reconstructions: pd.DataFrame) -> pd.DataFrame:
    """Of the settings of an attack the one with the highest mean SSIM per defense and checkpoint; oracle bounds are left out."""
    frame = reconstructions[reconstructions["tier"] != ORACLE]
    frame = frame.assign(name=frame["attack"].str.split("(").str[0])
    means = frame.groupby(["defense", "checkpoint_epoch", "name", "attack"], sort=False)["ssim"].mean().reset_index()
    chosen = means.loc[means.groupby(["defense", "checkpoint_epoch", "name"], sort=False)["ssim"].idxmax()]
    return frame.merge(chosen[["defense", "checkpoint_epoch", "attack"]], on=["defense", "checkpoint_epoch", "attack"])
