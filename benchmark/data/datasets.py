"""The data sets: found by name or path, decoded to uint8, and put on the device."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import platformdirs
import torch

from benchmark.data import registry
from benchmark.data.base import DatasetBuilder, split_by_class
from benchmark.data.image_folders import ImageFolder
from benchmark.data.loaders import LabelledImages
from benchmark.errors import InputError
from defenses.support.registry import SpecificationError, unknown
from defenses.support.upload import upload


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: see :class:`DatasetSource`.
        classes: names of the labels.
        train, test: the two splits.
        fingerprint: hash of all pixels and labels, so that results can be tied to their data.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages
    fingerprint: str

    def without_test(self, validation: float) -> Dataset:
        """The training images alone: a share of each class, always the same images, is its test split."""
        held_out = torch.from_numpy(split_by_class(self.train.labels.cpu().numpy(), validation))
        train, test = (self.train.select(upload(marked.nonzero().flatten(), self.train.labels.device))
                       for marked in (~held_out, held_out))
        return replace(self, train=train, test=test)


@dataclass(frozen=True)
class DatasetSource:
    """A data set that was found. Its ``name`` is as it was asked for, with its parameters; of a path it is the last part, without
    ``.zip``, so that results do not depend on where a folder lies or how its path is written."""

    name: str
    builder: DatasetBuilder
    data_root: Path


def find(name: str, data_root: Path | None = None, image_size: int | None = None) -> DatasetSource:
    """Look for a data set without decoding it.

    Args:
        name: of a data set, or the path of a folder or zip.
        data_root: folder to look in for NAME.zip or NAME/ (dashes or underscores); by default ``LEAKBOARD_DATA``, else the
            platform's cache folder.
        image_size: see :func:`benchmark.data.image_folders.read`.

    Raises:
        InputError: there is no such data set; the text says what to put where.
    """
    root = _data_root(data_root)
    before, bracket, _ = name.partition("(")
    known = before.strip() in registry.names()
    if not (known and bracket) and ("/" in name or "\\" in name or name.endswith(".zip")):
        path = Path(name).expanduser()
        if not path.exists():
            raise InputError(f"dataset {name} does not exist; expected the path of a folder or zip file")
        return DatasetSource(path.resolve().name.removesuffix(".zip"), ImageFolder(path, image_size), root)
    if not known or not registry.find(before.strip()).embedded:
        for spelling in dict.fromkeys((name, name.replace("-", "_"), name.replace("_", "-"))):
            for candidate in (root / f"{spelling}.zip", root / spelling):
                if candidate.is_file() or (candidate.is_dir() and not _is_torchvision(candidate)):
                    return DatasetSource(name, ImageFolder(candidate, image_size), root)
    if not known:
        raise InputError(unknown("dataset", name, registry.names())
                         + f"; put {name}.zip or the folder {name} into {root}, or give a path")
    try:
        builder = registry.create(name)
    except SpecificationError as error:
        raise InputError(str(error)) from error
    if type(builder).decode is DatasetBuilder.decode:
        raise InputError(f"dataset {name} is not in the data root: put {name}.zip or the folder {name} (one folder per class) "
                         f"into {root}, or name another data root with --data-root or LEAKBOARD_DATA")
    if image_size is not None:
        raise InputError(f"dataset {name} has images of one size already; an image size is for folders and zip files")
    return DatasetSource(builder.label, builder, root)


def load(source: DatasetSource, device: torch.device) -> Dataset:
    """Decode a data set, or take it from the cache, and put it on the device.

    Raises:
        InputError: it is corrupt, is no image classification set, or cannot be downloaded.
    """
    try:
        decoded = source.builder.decode(source.data_root)
    except InputError:
        raise
    except Exception as error:  # a foreign data set can fail in any way
        reason = " ".join(str(error).split())
        raise InputError(f"dataset {source.name} cannot be decoded: {type(error).__name__}: {reason}") from error
    if not len(decoded.test_labels):
        raise InputError(f"dataset {source.name} has no test images: it needs more than one image in a class, or a test folder")
    digest = hashlib.sha256()
    for array in (decoded.train_pixels, decoded.train_labels, decoded.test_pixels, decoded.test_labels):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    mean, std = _statistics(decoded.train_pixels)

    def on_device(pixels: np.ndarray, labels: np.ndarray) -> LabelledImages:
        tensors = (upload(torch.from_numpy(np.ascontiguousarray(array)), device) for array in (pixels, labels, mean, std))
        return LabelledImages(*tensors)

    return Dataset(source.name, decoded.classes, on_device(decoded.train_pixels, decoded.train_labels),
                   on_device(decoded.test_pixels, decoded.test_labels), digest.hexdigest())


def _data_root(given: Path | None) -> Path:
    root = given if given is not None else os.environ.get("LEAKBOARD_DATA")
    if root is None:
        return platformdirs.user_cache_path("leakboard") / "data"
    path = Path(root).expanduser()
    if not path.is_dir():
        raise InputError(f"the data root {path} is not a folder (--data-root or LEAKBOARD_DATA)")
    return path


def _is_torchvision(folder: Path) -> bool:
    """Whether a folder is torchvision's own (it keeps MNIST in MNIST/raw), not classes of images."""
    return (folder / "raw").is_dir()


def _statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel of pixels in [0, 1]; a constant channel is not scaled."""
    counts = np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(pixels.shape[-1])]).astype(np.float64)
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0))
    return mean.astype(np.float32), np.where(std < 1e-6, 1, std).astype(np.float32)
