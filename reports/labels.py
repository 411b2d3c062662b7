"""Places for texts beside what they name, where they cover neither each other nor what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from reports.drawing import LETTER

#: Height of a line as a share of the size of the font.
_LINE = 1.15
#: Where a text may stand, seen from its point: the shift of its centre as a share of its size and of the distance.
_SIDES = ((0, 1), (1, 0.6), (1, -0.6), (0, -1), (-1, 0.6), (-1, -0.6), (1, 0), (-1, 0))

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """A text beside a point of some axes, in the units of their data; ``needed`` ones are shown even where something is in the
    way."""

    x: float
    y: float
    text: str
    colour: str
    needed: bool = False


class Places:
    """What is taken within some axes, whose limits and place are final."""

    def __init__(self, axes: Axes, points: np.ndarray, lines: Sequence[np.ndarray]) -> None:
        """
        Args:
            axes: to write into.
            points: [N, 2], in the units of the data; no text stands on them.
            lines: [N, 2] each; no text stands on them where there is another place.
        """
        self._axes = axes
        frame = axes.get_window_extent()
        self._frame: Box = (frame.x0, frame.y0, frame.x1, frame.y1)
        self._points = axes.transData.transform(points) if len(points) else np.empty((0, 2))
        self._paths = np.concatenate([np.empty((0, 2)), *(_dense(axes.transData.transform(line)) for line in lines if len(line))])
        self._taken: list[Box] = []

    def beside(self, labels: Sequence[Label], size: float, distance: float = 6.0) -> int:
        """Write labels in a font of this size, so many points from theirs, those that are needed first; returns how many found no
        room."""
        left_out = 0
        for label in sorted(labels, key=lambda label: not label.needed):
            x, y = self._axes.transData.transform((label.x, label.y))
            width, height = LETTER * size * len(label.text), _LINE * size
            centres = [(x + right * (width / 2 + distance), y + up * (height / 2 + distance * (1 if right == 0 else 0.5)))
                       for right, up in _SIDES]
            left_out += not self._write(label, centres, width, height, size)
        return left_out

    def along(self, label: Label, size: float) -> None:
        """Write a label above or below a horizontal line through its point, as far to the right as there is room."""
        left, _, right, _ = self._frame
        width, height = LETTER * size * len(label.text), _LINE * size
        y = self._axes.transData.transform((label.x, label.y))[1]
        centres = [(right - width / 2 - shift * (right - left - width), y + up * (height / 2 + 1.5))
                   for shift in (0, 0.2, 0.4, 0.6, 0.8) for up in (1, -1)]
        self._write(label, centres, width, height, size)

    def upwards(self, label: Label, size: float) -> None:
        """Write a label above its point, as far down as there is room."""
        width, height = LETTER * size * len(label.text), _LINE * size
        x, y = self._axes.transData.transform((label.x, label.y))
        steps = range(int((self._frame[3] - y) / height) - 1)
        self._write(label, [(x, y + (step + 0.7) * height) for step in steps], width, height, size)

    def _write(self, label: Label, centres: Sequence[tuple[float, float]], width: float, height: float, size: float) -> bool:
        found = []
        for turn, (x, y) in enumerate(centres):
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            left, bottom, right, top = self._frame
            inside = box[0] >= left and box[1] >= bottom and box[2] <= right and box[3] <= top
            hit = sum(_overlap(box, other) for other in self._taken) + int(_within(box, self._points, 3).sum()) + 2 * (not inside)
            found.append((hit, int(_within(box, self._paths, 0).sum()), turn, box))
        hit, _, turn, box = min(found)
        if hit and not label.needed:
            return False
        self._taken.append(box)
        x, y = self._axes.transData.inverted().transform(centres[turn])
        self._axes.text(x, y, label.text, color=label.colour, fontsize=size, ha="center", va="center", zorder=5)
        return True


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least ``gap`` apart within bounds, in the order of those that are wanted and close to them; closer together where
    there is no room."""
    order = np.argsort(wanted, kind="stable")
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    # Blocks of places that touch, each around the mean of what its members want.
    blocks: list[list[float]] = []
    for index in order:
        blocks.append([wanted[index]])
        while len(blocks) > 1 and (_first(blocks[-1], gap, low, high)
                                   < _first(blocks[-2], gap, low, high) + gap * len(blocks[-2]) - 1e-9):
            last = blocks.pop()
            blocks[-1] += last
    places = [_first(block, gap, low, high) + gap * i for block in blocks for i in range(len(block))]
    return [place for _, place in sorted(zip(order.tolist(), places, strict=True))]


def _first(block: list[float], gap: float, low: float, high: float) -> float:
    length = gap * (len(block) - 1)
    return float(np.clip(np.mean(block) - length / 2, low, high - length))


def _dense(line: np.ndarray) -> np.ndarray:
    """Points along a line of [N, 2], some points apart."""
    steps = [np.linspace(a, b, max(2, int(np.hypot(*(b - a)) / 4))) for a, b in pairwise(line)]
    return np.concatenate(steps) if steps else line


def _overlap(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _within(box: Box, points: np.ndarray, margin: float) -> np.ndarray:
    return np.asarray((points[:, 0] > box[0] - margin) & (points[:, 0] < box[2] + margin)
                      & (points[:, 1] > box[1] - margin) & (points[:, 1] < box[3] + margin))
