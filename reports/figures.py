"""The figures of a board. Each returns whether there was anything to draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import FormatStrFormatter
from scipy.special import ndtr, ndtri

from benchmark.store.tables import SUCCESS_SSIM
from reports.boards import Board
from reports.drawing import MOST_NAMES, Palette, figure, legend, plain, save, style
from reports.entries import WORST_CASE
from reports.leaderboard import Section
from reports.text import checkpoint, labelled
from reports.worst_case import blind, likeliest


def accuracy_curves(section: Section, palette: Palette, path: Path) -> bool:
    """Test accuracy per epoch, with the range over seeds."""
    if section.training.empty:
        return False
    curves = dict(list(section.training.groupby(["defense", "epoch"])["test_accuracy"].agg(["mean", "min", "max"]).reset_index(
        "epoch").groupby("defense")))
    with _axes(section.board, path) as axes:
        for entry in section.board.entries:
            if (curve := curves.get(entry.defense)) is None:
                continue
            colour = palette.colours[entry.defense]
            axes.plot(curve["epoch"], curve["mean"], color=colour, linestyle=palette.line(entry.defense), label=entry.defense)
            axes.fill_between(curve["epoch"], curve["min"], curve["max"], color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel="test accuracy")
    return True


def accuracy_against_asr(board: Board, palette: Palette, path: Path) -> bool:
    """Test accuracy against the worst-case ASR, with their intervals and the Pareto front."""
    measured = [entry for entry in board.entries if entry.measured is not None]
    if not measured:
        return False
    with _axes(board, path) as axes:
        front = sorted({entry.measured for entry in measured if entry.pareto and entry.measured}, key=lambda point: point[::-1])
        axes.step([point[1] for point in front], [point[0] for point in front], where="post", color="0.6", linewidth=1, zorder=1,
                  label="Pareto front")
        for entry in measured:
            accuracy, asr = entry.accuracy, entry.worst_case.asr  # type: ignore[union-attr]
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
    return True


def asr_against_epoch(board: Board, palette: Palette, path: Path) -> bool:
    """The ASR of the worst case at each checkpoint, with its interval."""
    if not any(entry.worst_case for entry in board.entries):
        return False
    with _axes(board, path) as axes:
        spread = max(board.checkpoints[-1], 1) * 0.006
        for place, entry in enumerate(board.entries):
            results = [(point, result.asr) for point in board.checkpoints if (result := entry.worst_case_at(point)) and result.asr]
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
    return True


def top_one_against_pool(board: Board, palette: Palette, path: Path) -> bool:
    """The share of victims identified, by an attacker who knows the defense, against the size of the pool, with 95 % intervals and,
    dashed, what a guarantee allows every attacker; on logarithmic axes."""
    found = [(entry, result) for entry in board.entries if (result := board.identification(entry)) is not None]
    if not found:
        return False
    largest = max(result.candidates for _, result in found)
    lowest = 0.4 / largest
    with _axes(board, path) as axes:
        sizes = np.geomspace(2, largest, 60)
        axes.plot(sizes, 1 / sizes, color="0.6", linewidth=2.5, zorder=1, label="chance")
        for place, (entry, result) in enumerate(found):
            colour, rates = palette.colours[entry.defense], [point.rate for point in result.top1]
            # Side by side, so that equal rates do not hide each other.
            x = [point.size * 1.6 ** (place / len(found) - 0.5) for point in result.top1]
            bounds = [(rate.mean, rate.mean) if rate.low is None or rate.high is None else (rate.low, rate.high) for rate in rates]
            mean, low, high = np.clip([[rate.mean for rate in rates], *zip(*bounds, strict=True)], lowest, None)
            axes.errorbar(x, mean, yerr=np.maximum([mean - low, high - mean], 0), color=colour, linewidth=1.2, elinewidth=0.8,
                          zorder=3, linestyle=palette.line(entry.defense), marker=palette.markers[entry.defense], markersize=4.5,
                          label=labelled(entry))
            if result.mu is not None:
                axes.plot(sizes, ndtr(ndtri(1 / sizes) + result.mu), color=colour, linestyle="--", linewidth=1, zorder=2)
        if any(result.mu is not None for _, result in found):
            axes.plot([], [], color="0.3", linestyle="--", linewidth=1, label="bound of every attacker")
        axes.set(xscale="log", yscale="log", ylim=(lowest, 1.3), xlabel="candidates (size of the pool)",
                 ylabel="share of victims identified")
        axes.xaxis.set_major_formatter(FormatStrFormatter("%d"))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    return True


def ssim_distributions(section: Section, palette: Palette, path: Path) -> bool:
    """Per attack, what it knew, and checkpoint the share of images rebuilt at least as well as an SSIM; of an attack with several
    settings, of each victim the likeliest reconstruction. At the threshold of success the curve gives the ASR."""
    if section.reconstructions.empty:
        return False
    panels = dict(list(_by_name(section.reconstructions).groupby(["checkpoint_epoch", "knowledge", "name"], sort=False)))
    # A block of panels for each checkpoint and what is known.
    blocks = [[place for place in panels if place[:2] == block] for block in sorted({place[:2] for place in panels})]
    columns = min(4, max(map(len, blocks)))
    rows = [block[i : i + columns] for block in blocks for i in range(0, len(block), columns)]
    measured = set(section.reconstructions["defense"])
    with style():
        height = max(1.75 * len(rows) + 0.6, _height(section.board))
        drawn = figure(2.2 * columns + 4.0, height, above=0.45)
        grid = drawn.add_gridspec(len(rows), columns, wspace=0.1, hspace=0.5)
        for i, row in enumerate(rows):
            for j, place in enumerate(row):
                axes = drawn.add_subplot(grid[i, j], xlim=(-0.1, 1.02), ylim=(-0.02, 1.04), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
                axes.tick_params(labelbottom=all(len(below) <= j for below in rows[i + 1 :]), labelleft=j == 0)
                axes.axvline(SUCCESS_SSIM, color="0.5", linewidth=0.8, linestyle=":")
                scores = dict(list(panels[place].groupby("defense", sort=False)["ssim"]))
                axes.add_collection(LineCollection([_at_least(values) for values in scores.values()], linewidths=1.2,
                                                   colors=[palette.colours[defense] for defense in scores],
                                                   linestyles=[palette.line(defense) for defense in scores]), autolim=False)
                epoch, knowledge, name = place
                axes.set_title(f"{plain(name, 30)}\n{knowledge}, {checkpoint(int(epoch))}", fontsize=8)
        for defense in (entry.defense for entry in section.board.entries if entry.defense in measured):
            drawn.axes[0].plot([], [], color=palette.colours[defense], linestyle=palette.line(defense), label=defense)
        legend(drawn, drawn.axes[0])
        drawn.supxlabel("SSIM", x=(drawn.subplotpars.left + drawn.subplotpars.right) / 2, fontsize=9)
        drawn.supylabel("share of images with at least this SSIM", fontsize=9)
        save(drawn, path)
    return True


@contextmanager
def _axes(board: Board, path: Path) -> Iterator[Axes]:
    """The axes of a figure, which is written with the names of what was drawn."""
    with style():
        drawn = figure(7.4, _height(board))
        axes = drawn.subplots()
        yield axes
        legend(drawn, axes)
        save(drawn, path)


def _height(board: Board) -> float:
    """Inches that a legend of all entries needs."""
    return max(3.6, 0.2 * min(len(board.entries), MOST_NAMES) + 0.5)


def _at_least(scores: pd.Series) -> np.ndarray:
    """The share of scores that are at least x, as the corners (x, share) of a falling step curve."""
    ordered = np.sort(scores)
    shares = 1 - np.arange(len(ordered) + 1) / len(ordered)
    return np.column_stack([np.repeat([-1, *ordered], 2)[1:], np.repeat(shares, 2)[:-1]])


def _by_name(reconstructions: pd.DataFrame) -> pd.DataFrame:
    """The worst cases, and of each attack by its name and what it knew, of each victim the likeliest of its settings."""
    kind = reconstructions["kind"]
    attacks = reconstructions[kind == "attack"]
    names = {attack: attack.split("(")[0] for attack in attacks["attack"].unique()}
    attacks = attacks.assign(name=attacks["attack"].map(names))
    return pd.concat([
        reconstructions[kind == WORST_CASE].assign(name=WORST_CASE), blind(attacks, ["name"]).assign(knowledge="blind"),
        likeliest(attacks[attacks["knowledge"] != "blind"], "score", ["name"]).assign(knowledge="informed")], ignore_index=True)
