"""Originals beside reconstructions, as small PNG files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.results import Cell, images_key
from reports.leaderboard import Section
from reports.text import checkpoint

#: Images of one row; the tables count all victims, the gallery shows the first.
SHOWN = 10


@dataclass(frozen=True)
class Picture:
    """One image: its file, relative to the report, the text for who cannot see it, and its SSIM (None for an original)."""

    file: str
    alternative: str
    ssim: float | None


@dataclass(frozen=True)
class Row:
    """Pictures of the same victims in the same order as in every other row of the section."""

    defense: str
    what: str
    pictures: list[Picture]


def rows(section: Section, number: int, out: Path) -> list[Row]:
    """Write the pictures of a section below ``out/assets`` and return the gallery: originals first, then a row per defense,
    checkpoint and attack. All are of the first seed, and show the first victims."""
    seeds = [cell.info["seed"] for cell in section.cells]
    if not seeds:
        return []
    seed = min(seeds)
    cells = {cell.info["defense"]: cell for cell in section.cells if cell.info["seed"] == seed}
    gallery: list[Row] = []
    for place, entry in enumerate(section.entries):
        cell = cells.get(entry.defense)
        if cell is None:
            continue
        images = cell.images()
        if not gallery:
            gallery.append(Row("original", "", _pictures(images["original"], f"{number}-original", out, "original", None)))
        for index, result in enumerate(entry.attacks):
            key = images_key(result.checkpoint_epoch, result.attack)
            if key in images:
                scores = _scores(section, cell, result.checkpoint_epoch, result.attack)
                what = f"{checkpoint(result.checkpoint_epoch)}, {result.attack}"
                gallery.append(Row(entry.defense, what, _pictures(
                    images[key], f"{number}-{place}-{index}", out, f"reconstruction under {entry.defense}, {what}", scores)))
    return gallery


def _scores(section: Section, cell: Cell, epoch: int, attack: str) -> list[float]:
    """SSIM by victim and image, in the order of the stored images."""
    frame: pd.DataFrame = section.reconstructions
    frame = frame[(frame["defense"] == cell.info["defense"]) & (frame["seed"] == cell.info["seed"])]
    frame = frame[(frame["checkpoint_epoch"] == epoch) & (frame["attack"] == attack)]
    return [float(score) for score in frame.sort_values(["victim", "image"])["ssim"]]


def _pictures(images: np.ndarray, stem: str, out: Path, description: str, scores: list[float] | None) -> list[Picture]:
    flat = images.reshape(-1, *images.shape[2:])[:SHOWN]
    pictures = []
    for i, image in enumerate(flat):
        file = f"assets/{stem}-{i}.png"
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(out / file)
        score = None if scores is None else scores[i]
        pictures.append(Picture(file, f"victim {i}, {description}", score))
    return pictures
