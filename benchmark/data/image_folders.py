"""Reading class-per-folder images from a folder or a zip file."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image

from benchmark.data.base import DatasetBuilder, DecodedImages, split_by_class
from benchmark.data.cache import cached
from benchmark.errors import InputError

_TEST_NAMES = ("test", "val", "valid", "validation")

#: What a zip file may hold. ImageNet has 1.3 million images, of 0.1 MB each.
_MOST_ENTRIES, _LARGEST_ENTRY, _LARGEST_TOTAL = 5_000_000, 256_000_000, 500_000_000_000
#: How many times as much as on disk a large file may unpack to; images hardly compress.
_MOST_COMPRESSED = 200


@dataclass(frozen=True)
class ImageFolder(DatasetBuilder):
    """Images of a folder or zip; the arguments are those of :func:`read`. Not in the registry: it is named by its path."""

    name: ClassVar[str] = "PATH"
    summary: ClassVar[str] = "any folder or zip with CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE"

    path: Path
    image_size: int | None = None

    def decode(self, data_root: Path) -> DecodedImages:
        return cached(_identity(self.path, self.image_size), lambda: read(self.path, self.image_size))


def _identity(path: Path, image_size: int | None) -> str:
    """What tells a folder or zip from another, and from itself after a change, without reading it."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(p.as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return json.dumps([str(path.resolve()), stats, image_size])


def read(path: Path, image_size: int | None = None) -> DecodedImages:
    """Decode a folder or zip with CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE.

    Without a split, 20 % of each class become the test set, drawn with a fixed seed. Images are grey when all of them are, else
    RGB.

    Args:
        path: the folder or zip file.
        image_size: resize the shorter side to this and crop the centre to a square; without it all images must be of one size.

    Raises:
        InputError: it cannot be read, or is no such data set.
    """
    if path.is_dir():
        found = [(p.relative_to(path).as_posix(), p) for p in sorted(path.rglob("*")) if p.is_file()]
        return _decode(path, [name for name, _ in found], lambda name: (path / name).read_bytes(), image_size)
    try:
        with zipfile.ZipFile(path) as archive:
            names = _checked(path, archive)
            return _decode(path, names, archive.read, image_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"dataset {path} is not a readable zip file: {error}") from error
    except OSError as error:
        raise InputError(f"dataset {path} cannot be read: {error}") from error


def _checked(path: Path, archive: zipfile.ZipFile) -> list[str]:
    """The names of all files of a zip, sorted.

    Raises:
        InputError: it holds more than a set of images would, or names a place outside of itself.
    """
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > _MOST_ENTRIES:
        raise InputError(f"dataset {path} has {len(infos):,} files; a zip may have {_MOST_ENTRIES:,}")
    for info in infos:
        parts = PurePosixPath(info.filename.replace("\\", "/")).parts
        if ".." in parts or (parts and (parts[0] == "/" or parts[0].endswith(":"))):
            raise InputError(f"dataset {path} names a place outside of itself: {info.filename!r}")
        if info.file_size > _LARGEST_ENTRY:
            raise InputError(f"dataset {path}: {info.filename!r} has {info.file_size:,} bytes; an image may have "
                             f"{_LARGEST_ENTRY:,}")
        if info.file_size > 1_000_000 and info.file_size > _MOST_COMPRESSED * max(info.compress_size, 1):
            raise InputError(f"dataset {path}: {info.filename!r} unpacks from {info.compress_size:,} to {info.file_size:,} bytes, "
                             f"more than {_MOST_COMPRESSED} times as much")
    total = sum(info.file_size for info in infos)
    if total > _LARGEST_TOTAL:
        raise InputError(f"dataset {path} unpacks to {total:,} bytes; a zip may have {_LARGEST_TOTAL:,}")
    return sorted(info.filename for info in infos)


def _decode(path: Path, names: list[str], load: Callable[[str], bytes], image_size: int | None) -> DecodedImages:
    entries = _entries(path, names)
    classes = tuple(sorted({label for split, label, _ in entries if split != "test"}))
    if len(classes) < 2:
        raise InputError(f"dataset {path} needs at least two classes, one folder each, found {len(classes)}"
                         + (f" ({classes[0]!r})" if classes else ""))
    strange = sorted({label for split, label, _ in entries if split == "test"} - set(classes))
    if strange:
        raise InputError(f"dataset {path} has test images of a class without training images: {strange[0]!r}")
    labels = np.array([classes.index(label) for _, label, _ in entries], dtype=np.int64)
    is_test = np.array([split == "test" for split, _, _ in entries])
    if not any(split for split, _, _ in entries):
        is_test = split_by_class(labels)
    pixels = _stack(path, [(name, load(name)) for _, _, name in entries], image_size)
    return DecodedImages(classes, pixels[~is_test], labels[~is_test], pixels[is_test], labels[is_test])


def _entries(path: Path, names: list[str]) -> list[tuple[str, str, str]]:
    """(split or "", class, name) of every image, sorted by name."""
    images = image_files(names)
    if not images:
        raise InputError(f"dataset {path} holds no images; expected CLASS/IMAGE or train/CLASS/IMAGE and test/CLASS/IMAGE")
    # A single folder around everything is packaging, unless it is itself the only class.
    while min(len(parts) for parts, _ in images) >= 3 and len({parts[0] for parts, _ in images}) == 1:
        images = [(parts[1:], name) for parts, name in images]
    loose = [name for parts, name in images if len(parts) < 2]
    if loose:
        raise InputError(f"dataset {path} has an image outside of any class folder: {loose[0]!r}")
    top = {parts[0].lower() for parts, _ in images}
    test_names = [name for name in _TEST_NAMES if name in top]
    if "train" not in top or not test_names:
        return [("", parts[0], name) for parts, name in images]
    splits = {"train": "train", test_names[0]: "test"}
    chosen = [(splits[parts[0].lower()], parts, name) for parts, name in images if parts[0].lower() in splits]
    loose = [name for _, parts, name in chosen if len(parts) < 3]
    if loose:
        raise InputError(f"dataset {path} has an image outside of any class folder: {loose[0]!r}")
    return [(split, parts[1], name) for split, parts, name in chosen]


def image_files(names: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """(parts of the path, name) of those of some files that are images and not hidden."""
    extensions = Image.registered_extensions()
    images = []
    for name in names:
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if not hidden and PurePosixPath(name).suffix.lower() in extensions:
            images.append((parts, name))
    return images


def _stack(path: Path, files: list[tuple[str, bytes]], image_size: int | None) -> np.ndarray:
    """[N, H, W, C] of all files."""
    decoded = [decode_image(f"dataset {path}", name, content, image_size) for name, content in files]
    if any(array.ndim == 3 for array in decoded):
        decoded = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in decoded]
    else:
        decoded = [array[..., None] for array in decoded]
    first = decoded[0].shape
    for (name, _), array in zip(files, decoded, strict=True):
        if array.shape != first:
            raise InputError(f"dataset {path} has images of different sizes: {files[0][0]!r} is {first[1]}x{first[0]}, {name!r} is "
                             f"{array.shape[1]}x{array.shape[0]}; give an image size to resize them all")
    return np.stack(decoded)


def decode_image(where: str, name: str, content: bytes, image_size: int | None = None) -> np.ndarray:
    """[H, W] of a grey image, [H, W, 3] of any other.

    Args:
        where: what the file is part of, for the error.
        name: of the file, likewise.
        content: of the file, in any format that Pillow knows.
        image_size: see :func:`read`.

    Raises:
        InputError: it is no image, has more than 8 bits per channel, or more pixels than any photograph.
    """
    try:
        with _no_bombs(), Image.open(io.BytesIO(content)) as image:
            if image.mode[0] in "IF":
                raise ValueError("more than 8 bits per channel; convert it to 8 bits")
            grey = image.mode in ("1", "L", "LA")
            return np.asarray(_resize(image.convert("L" if grey else "RGB"), image_size))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{where} has an image that cannot be decoded, {name!r}: {error}") from error


@contextmanager
def _no_bombs() -> Iterator[None]:
    """Pillow warns of an image of more pixels than any photograph has, and raises at twice as many; here both raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _resize(image: Image.Image, size: int | None) -> Image.Image:
    if size is None:
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
