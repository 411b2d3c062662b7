"""Originals beside reconstructions: the pictures of a defense or board, as strips of small images."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.errors import InputError
from benchmark.store.results import Cell, images_key
from reports.entries import AttackResult, Entry
from reports.leaderboard import Section
from reports.text import attacker, checkpoint

#: Victims of each choice.
SHOWN = 6


@dataclass(frozen=True)
class Picture:
    """One image of a strip: where it lies, in percent of the way from the first to the last; the text for who cannot see it; its
    SSIM (None for an original)."""

    position: float
    alternative: str
    ssim: float | None


@dataclass(frozen=True)
class Row:
    """Pictures of the same victims in the same order as in every other row; all lie in one file."""

    title: str
    subtitle: str
    file: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Choice:
    """A choice of victims, with a row of originals and rows of reconstructions."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Gallery:
    """The same victims for every row; ``width`` and ``height`` are the pixels of an image."""

    width: int
    height: int
    choices: list[Choice]


@dataclass(frozen=True)
class _Strip:
    """A row before victims are chosen: flat images [M, C, H, W] and scores [M]."""

    title: str
    subtitle: str
    images: np.ndarray
    scores: np.ndarray


class Pictures:
    """The pictures of a section's first seed; cells are read once."""

    def __init__(self, section: Section) -> None:
        first = min((cell.trained["seed"] for cell in section.cells), default=0)
        self._cells: dict[str, Cell] = {cell.trained["defense"]: cell for cell in section.cells if cell.trained["seed"] == first}
        frame: pd.DataFrame = section.reconstructions
        self._rows: dict[tuple[str, int, str, str, str], pd.DataFrame] = {} if frame.empty else dict(list(
            frame[frame["seed"] == first].sort_values(["victim", "image"], kind="stable").groupby(
                ["defense", "checkpoint_epoch", "kind", "attack", "knowledge"], sort=False)))
        self._section = section
        self._examples: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        self._worst: dict[str, _Strip] = {}
        self.originals: np.ndarray | None = None

    def of_defense(self, entry: Entry, out: Path, stem: str) -> Gallery | None:
        """Write the strips of a defense, a row per attack and checkpoint; also keep its worst case for the board's gallery."""
        cell = self._cells.get(entry.defense)
        if cell is None or not entry.attacks:
            return None
        images = self._images(cell)
        originals = _flat(images["original"])
        self.originals = originals if self.originals is None else self.originals
        worst = entry.worst_case
        strips = []
        for result in _in_order(entry.attacks):
            if (strip := self._strip(entry.defense, result, images)) is None:
                continue
            strips.append(strip)
            if result == entry.worst_case_at(result.checkpoint_epoch):
                self._examples[entry.defense, result.checkpoint_epoch] = originals[:SHOWN].copy(), strip.images[:SHOWN].copy()
            if result == worst:
                self._worst[entry.defense] = replace(strip, title=entry.defense)
        if entry.defense not in self._worst:
            return None
        return _gallery(originals, strips, self._worst[entry.defense].scores, "under this defense", out, stem)

    def _strip(self, defense: str, result: AttackResult, images: dict[str, np.ndarray]) -> _Strip | None:
        """The row of a result, put together from the attacks that were chosen; None where their images are not stored."""
        rows = self._rows.get((defense, result.checkpoint_epoch, result.kind, result.attack, result.knowledge))
        shown = np.empty_like(_flat(images["original"]))
        if rows is None or len(rows) != len(shown):
            return None
        places: dict[tuple[str, str], list[int]] = {}
        for place, of in enumerate(zip(rows["of_attack"], rows["of_knowledge"], strict=True)):
            places.setdefault(of, []).append(place)
        for (attack, knowledge), chosen in places.items():
            if (key := images_key(result.checkpoint_epoch, attack, knowledge)) not in images:
                return None
            shown[chosen] = _flat(images[key])[chosen]
        title = attacker(result.attack, result.knowledge)
        return _Strip(title, checkpoint(result.checkpoint_epoch), shown, rows["ssim"].to_numpy())

    def _images(self, cell: Cell) -> dict[str, np.ndarray]:
        """The images of a cell, checked against its tables.

        Raises:
            InputError: they are not of uint8 [victims, B, 1 or 3, H, W], or not as many as the table has rows.
        """
        images = cell.images()
        originals = images.get("original")
        folder = cell.folder
        for name, stored in images.items():
            if stored.dtype != np.uint8 or stored.ndim != 5 or stored.shape[2] not in (1, 3) or originals is None \
                    or stored.shape != originals.shape:
                raise InputError(
                    f"{folder}: {name!r} holds {stored.dtype} {list(stored.shape)}, expected uint8 [victims, images, 1 or 3, "
                    "height, width] like the originals; remove its attacks and give the command of the run again")
        for (defense, epoch, kind, attack, knowledge), rows in self._rows.items():
            key = images_key(epoch, attack, knowledge)
            if (defense, kind) == (cell.trained["defense"], "attack") and key in images and len(rows) != len(_flat(images[key])):
                raise InputError(f"{folder}: {key!r} has {len(_flat(images[key]))} images, but {len(rows)} rows in the table; "
                                 "remove its attacks and give the command of the run again")
        return images

    def of_board(self, out: Path, stem: str) -> Gallery | None:
        """Write the strips of the worst case of each defense, best defense first; after :meth:`of_defense` of all."""
        strips = [self._worst[entry.defense] for entry in self._section.board.entries if entry.defense in self._worst]
        if not strips or self.originals is None:
            return None
        common = [strip.scores for strip in strips if len(strip.scores) == len(self.originals)]
        return _gallery(self.originals, strips, np.mean(common, axis=0), "on average over the defenses", out, stem)

    def example(self, defense: str, epoch: int, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The first originals and what the worst case rebuilds of them [count, C, H, W], at most :data:`SHOWN`, where they are
        stored; after :meth:`of_defense` of the defense."""
        images = self._examples.get((defense, epoch))
        return None if images is None else (images[0][:count], images[1][:count])


def _in_order(results: list[AttackResult]) -> list[AttackResult]:
    """As they are, but the attacks of a checkpoint by their mean SSIM."""
    def order(result: AttackResult) -> tuple[int, float]:
        return result.checkpoint_epoch, -result.ssim.mean if result.kind == "attack" and result.ssim is not None else -math.inf

    return sorted((result for result in results if result.asr is not None), key=order)


def _gallery(originals: np.ndarray, strips: list[_Strip], scores: np.ndarray, of: str, out: Path, stem: str) -> Gallery:
    count = len(originals)
    by_score = np.argsort(-scores, kind="stable")
    choices = {
        "first victims": list(range(min(SHOWN, count))),
        f"victims rebuilt best {of}": by_score[:SHOWN].tolist(),
        f"victims rebuilt worst {of}": by_score[::-1][:SHOWN].tolist(),
    }
    stored = sorted({victim for chosen in choices.values() for victim in chosen})
    place = {victim: 100 * i / max(len(stored) - 1, 1) for i, victim in enumerate(stored)}
    files = [_save(originals[stored], out, f"{stem}-original")]
    files += [_save(strip.images[stored], out, f"{stem}-{i}") for i, strip in enumerate(strips)]
    rows_of = []
    for title, chosen in choices.items():
        rows = [Row("original", "", files[0], [Picture(place[v], f"original of victim {v}", None) for v in chosen])]
        for strip, file in zip(strips, files[1:], strict=True):
            told = f"as rebuilt: {strip.title}, {strip.subtitle}"
            rows.append(Row(strip.title, strip.subtitle, file,
                            [Picture(place[v], f"victim {v} {told}", float(strip.scores[v])) for v in chosen]))
        rows_of.append(Choice(title, rows))
    height, width = originals.shape[-2:]
    return Gallery(width, height, rows_of)


def _flat(images: np.ndarray) -> np.ndarray:
    """[victims, B, C, H, W] as [victims * B, C, H, W]."""
    return images.reshape(-1, *images.shape[2:])


def _save(images: np.ndarray, out: Path, stem: str) -> str:
    """Write images side by side; the file's path from the report."""
    strip = np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1)
    file = f"assets/{stem}.png"
    # Of small pictures runs of bytes compress as well as what the default looks for, and faster.
    Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip).save(out / file, compress_level=1, compress_type=zlib.Z_RLE)
    return file
