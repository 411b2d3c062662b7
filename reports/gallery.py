"""Originals beside reconstructions: the pictures of a defense or board, as strips of small images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.errors import InputError
from benchmark.results import ORACLE, Cell, images_key
from reports.entries import AttackResult, Entry
from reports.leaderboard import Section
from reports.text import attack_and_checkpoint, checkpoint

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
        seeds = [cell.trained["seed"] for cell in section.cells]
        self._cells: dict[str, Cell] = {
            cell.trained["defense"]: cell for cell in section.cells if cell.trained["seed"] == min(seeds)}
        frame: pd.DataFrame = section.reconstructions
        self._scores = {} if frame.empty else {
            key: group.sort_values(["victim", "image"])["ssim"].to_numpy()
            for key, group in frame[frame["seed"] == min(seeds)].groupby(["defense", "checkpoint_epoch", "attack"], sort=False)}
        self._section = section
        self._first: dict[str, dict[str, np.ndarray]] = {}
        self._strongest: dict[str, _Strip] = {}
        self.originals: np.ndarray | None = None

    def of_defense(self, entry: Entry, out: Path, stem: str) -> Gallery | None:
        """Write the strips of a defense, a row per attack and checkpoint; also keep its strongest for the board's gallery."""
        cell = self._cells.get(entry.defense)
        if cell is None or not entry.attacks:
            return None
        images = self._images(cell)
        self._first[entry.defense] = {key: _flat(stored)[:SHOWN].copy() for key, stored in images.items()}
        originals = _flat(images["original"])
        self.originals = originals if self.originals is None else self.originals
        strips = [_Strip(result.attack, checkpoint(result.checkpoint_epoch), _flat(images[key]), scores)
                  for result in _in_order(entry.attacks)
                  if (key := images_key(result.checkpoint_epoch, result.attack)) in images
                  and (scores := self._scores.get((entry.defense, result.checkpoint_epoch, result.attack))) is not None]
        worst = entry.strongest
        if worst is not None and (key := images_key(worst.checkpoint_epoch, worst.attack)) in images:
            scores = self._scores[(entry.defense, worst.checkpoint_epoch, worst.attack)]
            self._strongest[entry.defense] = _Strip(entry.defense, attack_and_checkpoint(worst), _flat(images[key]), scores)
        if not strips or entry.defense not in self._strongest:
            return None
        return _gallery(originals, strips, self._strongest[entry.defense].scores, "under this defense", out, stem)

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
        for (defense, epoch, attack), scores in self._scores.items():
            key = images_key(epoch, attack)
            if defense == cell.trained["defense"] and key in images and len(scores) != len(_flat(images[key])):
                raise InputError(f"{folder}: {key!r} has {len(_flat(images[key]))} images, but {len(scores)} rows in the table; "
                                 "remove its attacks and give the command of the run again")
        return images

    def of_board(self, out: Path, stem: str) -> Gallery | None:
        """Write the strips of the strongest attack on each defense, best defense first; after :meth:`of_defense` of all."""
        strips = [self._strongest[entry.defense] for entry in self._section.board.entries if entry.defense in self._strongest]
        if not strips or self.originals is None:
            return None
        common = [strip.scores for strip in strips if len(strip.scores) == len(self.originals)]
        return _gallery(self.originals, strips, np.mean(common, axis=0), "on average over the defenses", out, stem)

    def example(self, defense: str, result: AttackResult, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The first originals and reconstructions [count, C, H, W] of an attack, at most :data:`SHOWN`, where they are stored;
        after :meth:`of_defense` of the defense."""
        images = self._first.get(defense, {})
        key = images_key(result.checkpoint_epoch, result.attack)
        return (images["original"][:count], images[key][:count]) if key in images else None


def _in_order(results: list[AttackResult]) -> list[AttackResult]:
    """By checkpoint; within it the worst case first, the oracle bound behind it, then the attacks by their ASR."""
    def order(result: AttackResult) -> tuple[int, int, float]:
        place = {"worst case": 0, ORACLE: 1}.get(result.tier, 2)
        return result.checkpoint_epoch, place, -(result.ssim.mean if result.ssim is not None else 0.0)

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
    Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip).save(out / file, compress_level=3)
    return file
