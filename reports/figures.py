"""The other figures of a board. Each returns what was drawn, None where there was nothing, and writes its data beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter
from scipy.special import ndtr, ndtri

from benchmark.store.tables import SUCCESS_SSIM
from reports.boards import Board
from reports.drawing import GREY, INK, MOST_NAMES, Drawn, Look, Palette, figure, legend, plain, save, style
from reports.entries import WORST_CASE
from reports.leaderboard import Section
from reports.text import checkpoint, labelled
from reports.worst_case import blind, informed


def accuracy_curves(section: Section, palette: Palette, out: Path, file: str) -> Drawn | None:
    """Test accuracy per epoch, with the range over seeds."""
    if section.training.empty:
        return None
    data = section.training.groupby(["defense", "epoch"], sort=False)["test_accuracy"].agg(["mean", "min", "max"]).reset_index()
    curves = dict(list(data.groupby("defense")))
    with style():
        drawn, axes = _figure(section.board)
        for entry in section.board.entries:
            if (curve := curves.get(entry.defense)) is not None:
                look = palette.defenses[entry.defense]
                axes.plot(curve["epoch"], curve["mean"], color=look.colour, linestyle=look.line, marker=look.marker,
                          markevery=[-1], markersize=6)
                axes.fill_between(curve["epoch"], curve["min"], curve["max"], color=look.colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", ylabel="test accuracy")
        legend(drawn, [(entry.defense, palette.defenses[entry.defense], True) for entry in section.board.entries
                       if entry.defense in curves])
        return save(drawn, out, file, f"{section.board.title}: test accuracy over training",
                    "Test accuracy of each defense over the epochs of training, after the last one: " + _ends(
                        {name: curve["mean"].iloc[-1] for name, curve in curves.items()}), data)


def asr_against_epoch(board: Board, mode: str, palette: Palette, out: Path, file: str) -> Drawn | None:
    """The ASR of the worst case at each checkpoint of a mode, with its interval; where there are several checkpoints."""
    seen = [entry.seen(mode) for entry in board.entries]
    results = [(entry, result) for entry in seen for epoch in board.checkpoints
               if (result := entry.worst_case_at(epoch)) is not None]
    data = pd.DataFrame([
        {"defense": labelled(entry), "checkpoint_epoch": result.checkpoint_epoch, "asr": result.asr.mean,
         "asr_low": result.asr.low, "asr_high": result.asr.high} for entry, result in results if result.asr is not None])
    if data.empty or data["checkpoint_epoch"].nunique() < 2:
        return None
    rates = dict(list(data.groupby("defense")))
    with style():
        drawn, axes = _figure(board)
        intervals, spread = [], max(board.checkpoints[-1], 1) * 0.006
        for place, entry in enumerate(seen):
            if (found := rates.get(labelled(entry))) is None:
                continue
            # Side by side, so that equal rates do not hide each other.
            x = found["checkpoint_epoch"] + (place - (len(seen) - 1) / 2) * spread
            look = palette.defenses[entry.defense]
            axes.plot(x, found["asr"], color=look.colour, linestyle=look.line, marker=look.marker, markersize=5)
            intervals.append((x, found["asr_low"], found["asr_high"], look))
        _draw_intervals(axes, intervals)
        axes.set(xlabel="epochs of training before the observation", ylabel="worst-case attack success rate", ylim=(-0.03, 1.03),
                 xticks=board.checkpoints)
        legend(drawn, [(labelled(entry), palette.defenses[entry.defense], True) for entry in seen if labelled(entry) in rates])
        last = data[data["checkpoint_epoch"] == data["checkpoint_epoch"].max()]
        return save(drawn, out, file, f"{board.title}, {mode}: ASR over training",
                    "Worst-case attack success rate of each defense against the epochs of training, at the last checkpoint: "
                    + _ends(dict(zip(last["defense"], last["asr"], strict=True))), data)


def top_one_against_pool(board: Board, mode: str, palette: Palette, out: Path, file: str) -> Drawn | None:
    """The share of victims identified, by an attacker who knows the defense, against the size of the pool, with 95 % intervals and,
    dashed, what a guarantee allows every attacker; on logarithmic axes."""
    found = [(entry, result) for entry in board.entries if (result := board.identification(entry.seen(mode))) is not None]
    if not found:
        return None
    data = pd.DataFrame([{
        "defense": labelled(entry), "checkpoint_epoch": result.checkpoint_epoch, "pool_size": point.size, "top1": point.rate.mean,
        "top1_low": point.rate.mean if point.rate.low is None else point.rate.low,
        "top1_high": point.rate.mean if point.rate.high is None else point.rate.high,
        "bound": None if result.mu is None else ndtr(ndtri(1 / point.size) + result.mu)}
        for entry, result in found for point in result.top1])
    largest = max(result.candidates for _, result in found)
    lowest = 0.4 / largest
    rates = dict(list(data.groupby("defense")))
    with style():
        drawn, axes = _figure(board)
        intervals, sizes = [], np.geomspace(2, largest, 60)
        axes.plot(sizes, 1 / sizes, color=GREY, linewidth=1.6, linestyle=":", zorder=1)
        for place, (entry, result) in enumerate(found):
            look, of = palette.defenses[entry.defense], rates[labelled(entry)]
            # Side by side, so that equal rates do not hide each other.
            x = of["pool_size"] * 1.6 ** (place / len(found) - 0.5)
            mean, low, high = (of[name].clip(lower=lowest) for name in ("top1", "top1_low", "top1_high"))
            axes.plot(x, mean, color=look.colour, linewidth=1.2, zorder=3, linestyle=look.line, marker=look.marker, markersize=4.5)
            intervals.append((x, low, high, look))
            if result.mu is not None:
                axes.plot(sizes, ndtr(ndtri(1 / sizes) + result.mu), color=look.colour, linestyle="--", linewidth=1, zorder=2)
        names = [(labelled(entry), palette.defenses[entry.defense], True) for entry, _ in found[: MOST_NAMES - 3]]
        if len(found) > len(names):
            names.append((f"and {len(found) - len(names)} more", Look(INK, "", ""), False))
        if any(result.mu is not None for _, result in found):
            names.append(("bound of every attacker", Look(GREY, "--", ""), False))
        _draw_intervals(axes, intervals)
        axes.set(xscale="log", yscale="log", ylim=(lowest, 1.3), xlabel="candidates (size of the pool)",
                 ylabel="share of victims identified")
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(FormatStrFormatter("%d"))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        legend(drawn, [*names, ("chance", Look(GREY, ":", ""), False)])
        return save(drawn, out, file, f"{board.title}, {mode}: identification by the size of the pool",
                    "Share of victims identified under each defense, against the number of candidates, both on logarithmic axes; "
                    "among all candidates " + _ends({labelled(entry): result.at_all.mean for entry, result in found}), data)


def ssim_distributions(section: Section, mode: str, palette: Palette, out: Path, file: str) -> Drawn | None:
    """Per attack, what it knew, and checkpoint the share of images of a mode rebuilt at least as well as an SSIM; of an attack with
    several settings, of each victim the likeliest reconstruction. At the threshold of success the curve gives the ASR."""
    if section.reconstructions.empty or not (section.reconstructions["observed"] == mode).any():
        return None
    named = by_name(section.reconstructions[section.reconstructions["observed"] == mode])
    curves: dict[tuple[int, str, str], dict[str, np.ndarray]] = {}
    for (epoch, knowledge, name, defense), scores in named.groupby(
            ["checkpoint_epoch", "knowledge", "name", "defense"], sort=False)["ssim"]:
        curves.setdefault((int(epoch), knowledge, name), {})[defense] = at_least(scores)
    # A block of panels for each checkpoint and what is known.
    blocks = [[place for place in curves if place[:2] == block] for block in sorted({place[:2] for place in curves})]
    columns = min(4, max(map(len, blocks)))
    rows = [block[i : i + columns] for block in blocks for i in range(0, len(block), columns)]
    measured = [entry.defense for entry in section.board.entries if any(entry.defense in of for of in curves.values())]
    with style():
        drawn = figure(2.3 * columns + 4.0, max(1.85 * len(rows) + 0.6, _height(section.board)), above=0.45)
        # All panels on one pair of axes, which takes a tenth of the time of as many.
        axes = drawn.add_subplot(xlim=(-0.12, (columns - 1) * _WIDE + 1.05), ylim=(-(len(rows) - 1) * _HIGH - 0.05, 1.05))
        axes.set_axis_off()
        for i, row in enumerate(rows):
            for j, place in enumerate(row):
                last = all(len(below) <= j for below in rows[i + 1 :])
                _panel(axes, (j * _WIDE, -i * _HIGH), curves[place], palette, place, numbers=(last, j == 0))
        legend(drawn, [(defense, palette.defenses[defense], False) for defense in measured])
        drawn.text((drawn.subplotpars.left + drawn.subplotpars.right) / 2, 0.01, "SSIM", fontsize=9, ha="center", va="bottom")
        drawn.text(0.01, 0.5, "share of images with at least this SSIM", fontsize=9, rotation=90, ha="left", va="center")
        return save(drawn, out, file, f"{section.board.title}, {mode}: similarity of reconstructions",
                    "Share of images rebuilt at least as well as an SSIM, a panel per attack, what it knew, and checkpoint, and a "
                    f"curve per defense; at SSIM {SUCCESS_SSIM} it gives the attack success rate", _corners(curves))


#: From one panel of similarities, which is 1 wide and high, to the next.
_WIDE, _HIGH = 1.22, 1.5


def _panel(axes: Axes, corner: tuple[float, float], curves: dict[str, np.ndarray], palette: Palette, place: tuple[int, str, str],
           numbers: tuple[bool, bool]) -> None:
    """One panel of similarities at a corner of the axes, with numbers below and to its left."""
    x, y = corner
    looks = [palette.defenses[defense] for defense in curves]
    ticks = (0, 0.5, 1)
    frame = [[(0, 1), (0, 0), (1, 0)], *([(tick, 0), (tick, -0.03)] for tick in ticks),
             *([(0, tick), (-0.03, tick)] for tick in ticks)]
    axes.add_collection(LineCollection([np.add(np.asarray(line), corner) for line in frame], colors=INK, linewidths=0.8),
                        autolim=False)
    axes.add_collection(LineCollection([[(x + SUCCESS_SSIM, y), (x + SUCCESS_SSIM, y + 1)]], colors=GREY, linewidths=0.8,
                                       linestyles=":"), autolim=False)
    lines = [np.maximum(line, 0) + corner for line in curves.values()]
    axes.add_collection(LineCollection(lines, linewidths=1.2, colors=[look.colour for look in looks],
                                       linestyles=[look.line for look in looks]), autolim=False)
    epoch, knowledge, name = place
    axes.text(x + 0.5, y + 1.06, f"{plain(name, 26)}\n{knowledge}, {checkpoint(epoch)}", fontsize=8, ha="center", va="bottom")
    for tick in ticks:
        if numbers[0]:
            axes.text(x + tick, y - 0.06, f"{tick:g}", fontsize=8, ha="center", va="top")
        if numbers[1]:
            axes.text(x - 0.06, y + tick, f"{tick:g}", fontsize=8, ha="right", va="center")


def _corners(curves: dict[tuple[int, str, str], dict[str, np.ndarray]]) -> pd.DataFrame:
    """The corners of all curves as one table."""
    rows = [(*place, defense, line) for place, of in curves.items() for defense, line in of.items()]
    counts = [len(row[-1]) for row in rows]
    names = ("checkpoint_epoch", "knowledge", "attack", "defense")
    return pd.DataFrame({**{name: np.repeat([row[i] for row in rows], counts) for i, name in enumerate(names)},
                         **dict(zip(("ssim", "share"), np.concatenate([row[-1] for row in rows]).T, strict=True))})


def _draw_intervals(axes: Axes, intervals: Sequence[tuple[pd.Series, pd.Series, pd.Series, Look]]) -> None:
    """Upright lines at x from low to high, all as one artist."""
    lines = [line for x, low, high, _ in intervals for line in np.stack([np.stack([x, x], 1), np.stack([low, high], 1)], 2)]
    colours = [look.colour for x, _, _, look in intervals for _ in x]
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.8, zorder=3), autolim=False)


def _figure(board: Board) -> tuple[Figure, Axes]:
    """A figure of one pair of axes, with room for the names of what is drawn."""
    drawn = figure(9.6, _height(board))
    return drawn, drawn.subplots()


def _height(board: Board) -> float:
    """Inches that a legend of all entries needs."""
    return max(4.2, 0.2 * min(len(board.entries), MOST_NAMES) + 0.5)


def _ends(values: dict[str, float]) -> str:
    """The lowest and the highest of some values, for who cannot see them."""
    low, high = min(values, key=lambda name: values[name]), max(values, key=lambda name: values[name])
    return f"from {values[low]:.3f} ({low}) to {values[high]:.3f} ({high})"


def at_least(scores: pd.Series) -> np.ndarray:
    """The share of scores that are at least x, as the corners (x, share) of a falling step curve."""
    ordered = np.sort(scores)
    shares = 1 - np.arange(len(ordered) + 1) / len(ordered)
    return np.column_stack([np.repeat([-1, *ordered], 2)[1:], np.repeat(shares, 2)[:-1]])


def by_name(reconstructions: pd.DataFrame) -> pd.DataFrame:
    """The worst cases, and of each attack by its name and what it knew, the strongest way among its settings."""
    kind = reconstructions["kind"]
    attacks = reconstructions[kind == "attack"]
    names = {attack: attack.split("(")[0] for attack in attacks["attack"].unique()}
    attacks = attacks.assign(name=attacks["attack"].map(names))
    return pd.concat([
        reconstructions[kind == WORST_CASE].assign(name=WORST_CASE), blind(attacks, ["name"]).assign(knowledge="blind"),
        informed(attacks[attacks["knowledge"] != "blind"], ["name"]).assign(knowledge="informed")], ignore_index=True)
