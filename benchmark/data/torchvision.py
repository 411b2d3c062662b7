"""Data sets that torchvision downloads."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import platformdirs

from benchmark.data.base import DatasetBuilder, DecodedImages
from benchmark.errors import InputError

log = logging.getLogger("leakboard")


@dataclass(frozen=True)
class _Torchvision(DatasetBuilder):
    """Read from the data root in torchvision's own layout, else downloaded there."""

    #: The class of torchvision.
    kind: ClassVar[str]

    def decode(self, data_root: Path) -> DecodedImages:
        import torchvision.datasets

        kind = getattr(torchvision.datasets, self.kind)
        # A read-only data root cannot take the download, but may hold it already.
        writable = os.access(data_root, os.W_OK) or not data_root.exists()
        download = data_root if writable else platformdirs.user_cache_path("leakboard") / "data"
        try:
            splits = [_open(kind, data_root, download, train) for train in (True, False)]
        except Exception as error:  # torchvision raises what the network and the archives raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"dataset {self.name} is not in the data root {data_root} and could not be downloaded ({reason}); put "
                f"{self.name}.zip (train/CLASS/IMAGE and test/CLASS/IMAGE) there, or name another data root with --data-root"
            ) from error
        arrays = []
        for split in splits:
            pixels = np.asarray(split.data)
            arrays += [pixels[..., None] if pixels.ndim == 3 else pixels, np.asarray(split.targets, dtype=np.int64)]
        return DecodedImages(tuple(str(c) for c in splits[0].classes), *arrays)


@dataclass(frozen=True)
class MNIST(_Torchvision):
    """MNIST."""

    name: ClassVar[str] = "mnist"
    summary: ClassVar[str] = "MNIST, 28x28 grey, 10 classes; torchvision"
    paper: ClassVar[str] = "LeCun et al., 1998"
    kind: ClassVar[str] = "MNIST"


@dataclass(frozen=True)
class FashionMNIST(_Torchvision):
    """Fashion-MNIST."""

    name: ClassVar[str] = "fashion-mnist"
    summary: ClassVar[str] = "Fashion-MNIST, 28x28 grey, 10 classes; torchvision"
    paper: ClassVar[str] = "Xiao et al., 2017"
    kind: ClassVar[str] = "FashionMNIST"


@dataclass(frozen=True)
class CIFAR10(_Torchvision):
    """CIFAR-10."""

    name: ClassVar[str] = "cifar10"
    summary: ClassVar[str] = "CIFAR-10, 32x32 RGB, 10 classes; torchvision"
    paper: ClassVar[str] = "Krizhevsky, 2009"
    kind: ClassVar[str] = "CIFAR10"


@dataclass(frozen=True)
class CIFAR100(_Torchvision):
    """CIFAR-100."""

    name: ClassVar[str] = "cifar100"
    summary: ClassVar[str] = "CIFAR-100, 32x32 RGB, 100 classes; torchvision"
    paper: ClassVar[str] = "Krizhevsky, 2009"
    kind: ClassVar[str] = "CIFAR100"


def _open(kind: Any, present: Path, download: Path, train: bool) -> Any:
    try:
        return kind(present, train=train, download=False)
    except RuntimeError:
        log.info("downloading %s to %s", kind.__name__, download)
        return kind(download, train=train, download=True)
