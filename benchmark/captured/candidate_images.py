"""Images of a folder, with their names: candidates, and public images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attacks import Observation
from benchmark.captured.limits import require_fits
from benchmark.data.image_folders import decode_image, image_files
from benchmark.data.loaders import LabelledImages
from benchmark.errors import InputError
from defenses.support.upload import upload


@dataclass(frozen=True)
class NamedImages:
    """Images of a folder.

    Attributes:
        names: of K files, within the folder.
        pixels: uint8 [K, H, W, C].
        labels: [K] of int64; None where the folder does not tell.
    """

    names: tuple[str, ...]
    pixels: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.names)

    def normalised(self, observation: Observation) -> Tensor:
        """[K, C, H, W], as they enter the model."""
        device = observation.device
        pixels = upload(torch.from_numpy(self.pixels), device)
        images = LabelledImages(pixels, torch.zeros(len(self), device=device), observation.mean, observation.std)
        return images.batch(torch.arange(len(self), device=device))[0].contiguous()

    def without(self, others: NamedImages) -> NamedImages:
        """Those whose pixels are not those of another."""
        known = {image.tobytes() for image in others.pixels}
        kept = np.array([image.tobytes() not in known for image in self.pixels])
        names = tuple(name for name, keep in zip(self.names, kept, strict=True) if keep)
        return NamedImages(names, self.pixels[kept], None if self.labels is None else self.labels[kept])


def read(folder: Path, kind: str, image_shape: tuple[int, int, int], classes: int, image_size: int | None, device: torch.device
         ) -> NamedImages:
    """The images of a folder: CLASS/IMAGE, or IMAGE alone, of which the class is not told.

    Args:
        folder: where.
        kind: what they are, for errors.
        image_shape: (C, H, W) that they must have; grey images become ones of three channels where these are asked for.
        classes: that the model knows. A class is named by its number, or the names of all are sorted, as those of a data set are.
        image_size: resize the shorter side to this and crop the centre to a square first.
        device: whose memory they are to fit.

    Raises:
        InputError: there are none, one cannot be decoded or has another shape, or the classes are not those of the model.
    """
    where, (c, h, w) = f"{kind} {folder}", image_shape
    if image_size is not None and (h, w) != (image_size, image_size):
        raise InputError(f"an image size of {image_size} is not that of the observation, whose images are {w}x{h}")
    if not folder.is_dir():
        raise InputError(f"{where} is not a folder")
    found = image_files(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
    if not found:
        raise InputError(f"{where} holds no images; expected IMAGE or CLASS/IMAGE, such as PNG files")
    require_fits(f"the {len(found)} images of {folder}", 4 * len(found) * c * h * w, device)
    labels = _labels(where, found, classes)
    pixels = np.empty((len(found), h, w, c), np.uint8)
    for place, (_, name) in enumerate(found):
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise InputError(f"{where}: cannot read {name!r}: {error.strerror or error}") from error
        pixels[place] = _fitting(where, name, decode_image(where, name, content, image_size), image_shape)
    return NamedImages(tuple(name for _, name in found), pixels, labels)


def _fitting(where: str, name: str, image: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """An image [H, W] or [H, W, 3] as [H, W, C]."""
    c, h, w = image_shape
    if image.shape[:2] != (h, w):
        resized = f"; --image-size {h} resizes and crops all of them" if h == w else ""
        raise InputError(f"{where}: {name!r} is {image.shape[1]}x{image.shape[0]}, the observation's images are {w}x{h}{resized}")
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] != c and (image.shape[2], c) != (1, 3):
        raise InputError(f"{where}: {name!r} has {image.shape[2]} channels, the observation's images have {c}")
    return image


def _labels(where: str, found: list[tuple[tuple[str, ...], str]], classes: int) -> np.ndarray | None:
    """The class of each file, by the folder that it is in; None where none is in a folder."""
    if all(len(parts) == 1 for parts, _ in found):
        return None
    loose = [name for parts, name in found if len(parts) == 1]
    if loose:
        raise InputError(f"{where} has images in class folders, and one outside of any: {loose[0]!r}")
    names = sorted({parts[0] for parts, _ in found})
    if all(name.isascii() and name.isdigit() for name in names):
        number = {name: int(name) for name in names}
        beyond = [name for name in names if number[name] >= classes]
        if beyond:
            raise InputError(f"{where} has a class folder {beyond[0]!r}; the model has classes from 0 to {classes - 1}")
    elif len(names) == classes:
        number = {name: place for place, name in enumerate(names)}
    else:
        raise InputError(f"{where} has {len(names)} class folders for {classes} classes of the model; name each by its number")
    return np.array([number[parts[0]] for parts, _ in found], dtype=np.int64)
