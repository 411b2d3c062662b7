"""Places for texts beside what they name, where they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

#: Width of a letter, and height of a line, as shares of the size of the font.
_LETTER, _LINE = 0.62, 1.15
#: Where a text may stand, seen from its point: the shift of its centre as a share of its size and of the distance.
_SIDES = ((0, 1), (1, 0.6), (1, -0.6), (0, -1), (-1, 0.6), (-1, -0.6), (1, 0), (-1, 0))


@dataclass(frozen=True)
class Label:
    """A text beside a point of some axes, in the units of their data; ``needed`` ones are shown even where something is in the way."""

    x: float
    y: float
    text: str
    colour: str
    needed: bool


def annotate(axes: Axes, labels: Sequence[Label], lines: Sequence[np.ndarray], size: float, distance: float = 6.0) -> int:
    """Write labels where there is room, those that are needed first.

    Args:
        axes: whose limits and place are final.
        labels: one per point.
        lines: points [N, 2] of what should not be covered, in the units of the data.
        size: of the font, in points.
        distance: from a point to its text, in points.

    Returns:
        How many found no room.
    """
    frame = axes.get_window_extent()
    points = axes.transData.transform([(label.x, label.y) for label in labels]) if labels else np.empty((0, 2))
    paths = np.concatenate([_dense(axes.transData.transform(line)) for line in lines if len(line)] or [np.empty((0, 2))])
    taken: list[tuple[float, float, float, float]] = []
    left_out = 0
    for place in sorted(range(len(labels)), key=lambda place: not labels[place].needed):
        label = labels[place]
        width, height = _LETTER * size * len(label.text), _LINE * size
        found = []
        for turn, (right, up) in enumerate(_SIDES):
            centre = points[place] + (right * (width / 2 + distance), up * (height / 2 + distance * (right == 0 or 0.5)))
            box = (centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2)
            inside = box[0] >= frame.x0 and box[2] <= frame.x1 and box[1] >= frame.y0 and box[3] <= frame.y1
            hit = sum(_overlap(box, other) for other in taken) + int(_within(box, points, 3).sum())
            found.append((hit + 2 * (not inside), int(_within(box, paths, 0).sum()), turn, centre, box))
        cost, _, _, centre, box = min(found, key=lambda option: option[:3])
        if cost and not label.needed:
            left_out += 1
            continue
        taken.append(box)
        x, y = axes.transData.inverted().transform(centre)
        axes.text(x, y, label.text, color=label.colour, fontsize=size, ha="center", va="center", zorder=5)
    return left_out


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least ``gap`` apart within bounds, in the order of those that are wanted and close to them; closer together where
    there is no room."""
    if not wanted:
        return []
    order = np.argsort(wanted, kind="stable")
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    # Blocks of places that touch, each around the mean of what its members want.
    blocks: list[list[float]] = []
    for value in np.asarray(wanted, dtype=float)[order]:
        blocks.append([value])
        while len(blocks) > 1 and _first(blocks[-1], gap, low, high) < _first(blocks[-2], gap, low, high) + gap * len(blocks[-2]) - 1e-9:
            last = blocks.pop()
            blocks[-1] += last
    places = [_first(block, gap, low, high) + gap * i for block in blocks for i in range(len(block))]
    found = [0.0] * len(wanted)
    for place, index in zip(places, order, strict=True):
        found[index] = float(place)
    return found


def _first(block: list[float], gap: float, low: float, high: float) -> float:
    length = gap * (len(block) - 1)
    return float(np.clip(np.mean(block) - length / 2, low, high - length))


def _dense(line: np.ndarray) -> np.ndarray:
    """Points along a line of [N, 2], some points apart."""
    steps = [np.linspace(a, b, max(2, int(np.hypot(*(b - a)) / 4))) for a, b in zip(line[:-1], line[1:], strict=True)]
    return np.concatenate(steps) if steps else line


def _overlap(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _within(box: tuple[float, float, float, float], points: np.ndarray, margin: float) -> np.ndarray:
    return ((points[:, 0] > box[0] - margin) & (points[:, 0] < box[2] + margin)
            & (points[:, 1] > box[1] - margin) & (points[:, 1] < box[3] + margin))
