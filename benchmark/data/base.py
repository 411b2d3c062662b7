"""What a data set is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from defenses.support.registry import Named

_SPLIT_SEED = 0
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class DecodedImages:
    """Images [N, H, W, C] uint8 with labels [N] int64, in two splits; ``classes`` names the labels.

    Raises:
        ValueError: the arrays are not of these shapes and types, or a label has no class.
    """

    classes: tuple[str, ...]
    train_pixels: np.ndarray
    train_labels: np.ndarray
    test_pixels: np.ndarray
    test_labels: np.ndarray

    def __post_init__(self) -> None:
        most = len(self.classes) - 1
        for split in ("train", "test"):
            pixels, labels = getattr(self, f"{split}_pixels"), getattr(self, f"{split}_labels")
            if pixels.dtype != np.uint8 or pixels.ndim != 4:
                raise ValueError(f"{split}_pixels must be uint8 of shape [N, H, W, C], got {pixels.dtype} of {list(pixels.shape)}")
            if labels.dtype != np.int64 or labels.shape != (len(pixels),):
                raise ValueError(f"{split}_labels must be int64 of shape [{len(pixels)}], got {labels.dtype} of "
                                 f"{list(labels.shape)}")
            if len(labels) and not 0 <= labels.min() <= labels.max() <= most:
                raise ValueError(f"{split}_labels must be 0 to {most}, got {labels.min()} to {labels.max()}")
        if self.train_pixels.shape[1:] != self.test_pixels.shape[1:]:
            raise ValueError(f"images must be of one shape [H, W, C], got {list(self.train_pixels.shape[1:])} in train and "
                             f"{list(self.test_pixels.shape[1:])} in test")


@dataclass(frozen=True)
class DatasetBuilder(Named):
    """Images of a name. One that does not override ``decode`` is put into the data root by its user."""

    #: Whether the images come with the code; then nothing in the data root takes their place.
    embedded: ClassVar[bool] = False

    def decode(self, data_root: Path) -> DecodedImages:
        """All images, with a split into train and test; see :func:`split_by_class` for a set without one.

        Args:
            data_root: the folder for files; it need not exist, or take any more.
        """
        raise NotImplementedError


def split_by_class(labels: np.ndarray, share: float = _TEST_SHARE) -> np.ndarray:
    """Mark a share of each class (at least one image, where there are two, and not all) as another split, by default 20 % as test
    images, with a fixed seed."""
    generator = np.random.default_rng(_SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    for value in np.unique(labels):
        members = np.flatnonzero(labels == value)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        is_test[generator.permutation(members)[:count]] = True
    return is_test
