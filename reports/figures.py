"""Figures of a section, as SVG."""

from __future__ import annotations

from pathlib import Path

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.leaderboard import Section
from reports.text import checkpoint

# Dates and random names would make equal reports differ.
_METADATA = {"Date": None}
#: Characters of a name in a legend.
_LONGEST = 56
_STYLE = {"svg.hashsalt": "leakboard", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3, "font.size": 10}


def palette(defenses: list[str]) -> dict[str, tuple[float, float, float]]:
    """One colour per defense, safe for colour-blind readers, the same in every figure."""
    # The colour-blind safe palette has ten colours; more defenses than that cannot all be told apart by colour.
    name = "colorblind" if len(defenses) <= 10 else "husl"
    return dict(zip(defenses, sns.color_palette(name, len(defenses)), strict=True))


def accuracy_curves(section: Section, colours: dict[str, tuple[float, float, float]], path: Path) -> None:
    """Test accuracy per epoch, with the range over seeds."""
    with sns.plotting_context("paper", font_scale=1.1), sns.axes_style("ticks", _axes_style()):
        figure, axes = _figure()
        order = [entry.defense for entry in section.entries if entry.accuracy is not None]
        sns.lineplot(section.training, x="epoch", y="test_accuracy", hue="defense", hue_order=order, palette=colours,
                     errorbar=("pi", 100), ax=axes)
        axes.set(xlabel="epoch", ylabel="test accuracy")
        _legend(axes)
        _save(figure, path)


def accuracy_against_asr(section: Section, colours: dict[str, tuple[float, float, float]], path: Path) -> None:
    """Test accuracy against the ASR of the strongest attack that was run, with their intervals."""
    with sns.plotting_context("paper", font_scale=1.1), sns.axes_style("ticks", _axes_style()):
        figure, axes = _figure()
        for entry in section.entries:
            strongest = entry.strongest
            if strongest is None or strongest.asr is None or entry.accuracy is None:
                continue
            asr, accuracy = strongest.asr, entry.accuracy
            label = f"{entry.defense} ({checkpoint(strongest.checkpoint_epoch)})"
            sns.scatterplot(x=[asr.mean], y=[accuracy.mean], color=colours[entry.defense], s=60, label=label, ax=axes)
            if asr.low is not None and asr.high is not None:
                axes.hlines(accuracy.mean, asr.low, asr.high, color=colours[entry.defense], alpha=0.5)
            if accuracy.low is not None and accuracy.high is not None:
                axes.vlines(asr.mean, accuracy.low, accuracy.high, color=colours[entry.defense], alpha=0.5)
        axes.set(xlabel="attack success rate of the strongest attack run", ylabel="test accuracy", xlim=(-0.03, 1.03))
        _legend(axes)
        _save(figure, path)


def _axes_style() -> dict[str, object]:
    return {"axes.grid": True}


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles, [_plain(label) for label in labels], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _plain(label: str) -> str:
    """A name as text of bounded length: matplotlib takes dollar signs for formulas and drops what starts with an underscore."""
    short = label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
    return ("\u200b" + short if short.startswith("_") else short).replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import rc_context

    with rc_context(_STYLE):
        figure.savefig(path, metadata=_METADATA)
