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
from benchmark.store.layout import images_key
from benchmark.store.results import Cell
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
    """The same victims for every row below the same originals; ``width`` and ``height`` are the pixels of an image. ``stored`` of
    ``images`` have pictures to choose from."""

    width: int
    height: int
    choices: list[Choice]
    stored: int
    images: int


@dataclass(frozen=True)
class _Strip:
    """A row before victims are chosen: flat originals and images [M, C, H, W], scores [M], and how many images there are, of which
    these are the first."""

    title: str
    subtitle: str
    originals: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    measured: int


class Pictures:
    """The pictures of a section's first seed by gradients of one mode; cells are read once."""

    def __init__(self, section: Section, observed: str) -> None:
        first = min((cell.trained["seed"] for cell in section.cells), default=0)
        self._cells: dict[str, Cell] = {cell.trained["defense"]: cell for cell in section.cells if cell.trained["seed"] == first}
        frame: pd.DataFrame = section.reconstructions
        self._rows: dict[tuple[str, int, str, str, str], pd.DataFrame] = {} if frame.empty else dict(list(
            frame[(frame["seed"] == first) & (frame["observed"] == observed)].sort_values(
                ["victim", "image"], kind="stable").groupby(
                    ["defense", "checkpoint_epoch", "kind", "attack", "knowledge"], sort=False)))
        # By defenses, as boards may have many.
        self._attacks: dict[str, list[tuple[str, int]]] = {}
        for (defense, epoch, kind, attack, knowledge), rows in self._rows.items():
            if kind == "attack":
                self._attacks.setdefault(defense, []).append((images_key(epoch, attack, knowledge), len(rows)))
        self._section, self._observed = section, observed
        self._examples: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        self._worst: dict[str, _Strip] = {}

    def of_defense(self, entry: Entry, out: Path, stem: str) -> Gallery | None:
        """Write the strips of a defense, a row per attack and checkpoint; also keep its worst case for the board's gallery."""
        cell, seen = self._cells.get(entry.defense), entry.seen(self._observed)
        if cell is None or not seen.attacks or "original" not in (images := self._images(cell)):
            return None
        worst = seen.worst_case
        strips = []
        for result in _in_order(seen.attacks):
            if (strip := self._strip(entry.defense, result, images)) is None:
                continue
            strips.append(strip)
            if result == seen.worst_case_at(result.checkpoint_epoch):
                self._examples[entry.defense, result.checkpoint_epoch] = strip.originals[:SHOWN].copy(), strip.images[:SHOWN].copy()
            if result == worst:
                batch = f", {result.batch_size} images" if result.batch_size not in (None, 1) else ""
                self._worst[entry.defense] = replace(strip, title=entry.defense, subtitle=strip.subtitle + batch)
        if entry.defense not in self._worst:
            return None
        return _gallery([strips], self._worst[entry.defense].scores, "under this defense", out, stem)

    def of_board(self, out: Path, stem: str) -> Gallery | None:
        """Write the strips of the worst case of each defense, best defense first, those with the same originals together; after
        :meth:`of_defense` of all."""
        groups: dict[bytes, list[_Strip]] = {}
        for entry in self._section.board.entries:
            if (strip := self._worst.get(entry.defense)) is not None:
                groups.setdefault(strip.originals.tobytes(), []).append(strip)
        if not groups:
            return None
        return _gallery(list(groups.values()), None, "on average over the defenses", out, stem)

    def example(self, defense: str, epoch: int, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The first originals and what the worst case rebuilds of them [count, C, H, W], at most :data:`SHOWN`, where they are
        stored; after :meth:`of_defense` of the defense."""
        images = self._examples.get((defense, epoch))
        return None if images is None else (images[0][:count], images[1][:count])

    def _strip(self, defense: str, result: AttackResult, images: dict[str, np.ndarray]) -> _Strip | None:
        """The row of a result, put together from the attacks that were chosen; None where their images are not stored."""
        rows = self._rows.get((defense, result.checkpoint_epoch, result.kind, result.attack, result.knowledge))
        originals = _flat(images["original"])
        if rows is None or len(rows) < len(originals):
            return None
        measured, rows, shown = len(rows), rows.iloc[: len(originals)], np.empty_like(originals)
        places: dict[tuple[str, str], list[int]] = {}
        for place, of in enumerate(zip(rows["of_attack"], rows["of_knowledge"], strict=True)):
            places.setdefault(of, []).append(place)
        for (attack, knowledge), chosen in places.items():
            if (key := images_key(result.checkpoint_epoch, attack, knowledge)) not in images:
                return None
            shown[chosen] = _flat(images[key])[chosen]
        title = attacker(result.attack, result.knowledge)
        return _Strip(title, checkpoint(result.checkpoint_epoch), originals, shown, rows["ssim"].to_numpy(), measured)

    def _images(self, cell: Cell) -> dict[str, np.ndarray]:
        """The images of a cell, checked against its tables.

        Raises:
            InputError: they are not of uint8 [victims, B, 1 or 3, H, W], or more than the table has rows.
        """
        images = cell.images(self._observed)
        originals = images.get("original")
        folder = cell.folder
        for name, stored in images.items():
            if stored.dtype != np.uint8 or stored.ndim != 5 or stored.shape[2] not in (1, 3) or originals is None \
                    or stored.shape != originals.shape:
                raise InputError(
                    f"{folder}: {name!r} holds {stored.dtype} {list(stored.shape)}, expected uint8 [victims, images, 1 or 3, "
                    "height, width] like the originals; remove its attacks and give the command of the run again")
        for key, rows in self._attacks.get(cell.trained["defense"], []):
            if key in images and rows < len(_flat(images[key])):
                raise InputError(f"{folder}: {key!r} has {len(_flat(images[key]))} images, but {rows} rows in the table; "
                                 "remove its attacks and give the command of the run again")
        return images


def _in_order(results: list[AttackResult]) -> list[AttackResult]:
    """As they are, but the attacks of a checkpoint by their mean SSIM."""
    def order(result: AttackResult) -> tuple[int, float]:
        return result.checkpoint_epoch, -result.ssim.mean if result.kind == "attack" and result.ssim is not None else -math.inf

    return sorted((result for result in results if result.asr is not None), key=order)


def _gallery(groups: list[list[_Strip]], scores: np.ndarray | None, of: str, out: Path, stem: str) -> Gallery:
    """Strips in groups of the same originals; without scores the victims of each group are chosen by its mean."""
    choices: dict[str, list[Row]] = {}
    for number, strips in enumerate(groups):
        by = np.mean([strip.scores for strip in strips], axis=0) if scores is None else scores
        for title, rows in _rows(strips, by, of, out, f"{stem}-{number}" if number else stem):
            choices.setdefault(title, []).extend(rows)
    first = groups[0][0]
    height, width = first.originals.shape[-2:]
    return Gallery(width, height, [Choice(title, rows) for title, rows in choices.items()], len(first.originals), first.measured)


def _rows(strips: list[_Strip], scores: np.ndarray, of: str, out: Path, stem: str) -> list[tuple[str, list[Row]]]:
    """The rows of each choice of victims of strips with the same originals, which are written."""
    originals = strips[0].originals
    by_score = np.argsort(-scores, kind="stable")
    choices = {
        "first victims": list(range(min(SHOWN, len(originals)))),
        f"victims rebuilt best {of}": by_score[:SHOWN].tolist(),
        f"victims rebuilt worst {of}": by_score[::-1][:SHOWN].tolist(),
    }
    stored = sorted({victim for chosen in choices.values() for victim in chosen})
    place = {victim: 100 * i / max(len(stored) - 1, 1) for i, victim in enumerate(stored)}
    original = _save(originals[stored], out, f"{stem}-original")
    files = [_save(strip.images[stored], out, f"{stem}-{i}") for i, strip in enumerate(strips)]
    rows_of = []
    for title, chosen in choices.items():
        rows = [Row("original", "", original, [Picture(place[v], f"original of victim {v}", None) for v in chosen])]
        for strip, file in zip(strips, files, strict=True):
            told = f"as rebuilt: {strip.title}, {strip.subtitle}"
            rows.append(Row(strip.title, strip.subtitle, file,
                            [Picture(place[v], f"victim {v} {told}", float(strip.scores[v])) for v in chosen]))
        rows_of.append((title, rows))
    return rows_of


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
