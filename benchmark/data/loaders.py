"""Labelled images on the device, and batches of them without per-sample Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from defenses.support.upload import upload


class LabelledImages:
    """Images as uint8 with labels, normalised when a batch is taken.

    Args:
        pixels: [N, H, W, C] uint8; channels last, which is both the layout of decoded files and the fastest for convolutions.
        labels: [N] int64.
        mean, std: [C], of pixels in [0, 1].
    """

    def __init__(self, pixels: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        self.labels = labels
        self.mean, self.std = mean, std
        self._shape = tuple(pixels.shape[1:])
        self._rows = pixels.contiguous().flatten(1)
        # x = (pixel / 255 - mean) / std as one subtraction and one product over whole rows.
        repeats = self._rows.shape[1] // len(mean)
        self._shift = (mean * 255).repeat(repeats)
        self._scale = (1 / (std * 255)).repeat(repeats)

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What it was made of: pixels, labels, mean and std."""
        return self._rows.view(-1, *self._shape), self.labels, self.mean, self.std

    @property
    def image_shape(self) -> tuple[int, int, int]:
        h, w, c = self._shape
        return c, h, w

    @cached_property
    def alike(self) -> np.ndarray:
        """[N] of each image the index of the first one with the same pixels."""
        first: dict[bytes, int] = {}
        return np.array([first.setdefault(hashlib.blake2b(row, digest_size=16).digest(), index)
                         for index, row in enumerate(self._rows.cpu().numpy())])

    def select(self, indices: Tensor) -> LabelledImages:
        """Some of the images, normalised as before."""
        pixels, labels, *normalisation = self.tensors()
        return LabelledImages(pixels.index_select(0, indices), labels.index_select(0, indices), *normalisation)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [B, C, H, W] (channels-last memory) and labels [B] of some indices [B]."""
        rows = self._rows.index_select(0, indices).float().sub_(self._shift).mul_(self._scale)
        return rows.view(-1, *self._shape).permute(0, 3, 1, 2), self.labels.index_select(0, indices)

    def pixels(self, indices: Tensor) -> Tensor:
        """uint8 [B, C, H, W]."""
        return self._rows.index_select(0, indices).view(-1, *self._shape).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class BatchLoader:
    """Iterates over batches (images, labels) of one epoch.

    Attributes:
        dataset: the images.
        batch_size: (expected) size of a batch.
        generator: a CPU generator that orders or samples the batches; None for the order of the dataset.
        poisson: draw each image for each batch independently with probability 1 / len(self), as DP-SGD's accounting assumes;
            otherwise every image comes once in an epoch.
    """

    dataset: LabelledImages
    batch_size: int
    generator: torch.Generator | None = None
    poisson: bool = False

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def with_poisson_sampling(self) -> BatchLoader:
        return replace(self, poisson=True)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in self._indices():
            yield self.dataset.batch(indices)

    def _indices(self) -> Iterator[Tensor]:
        count, device = len(self.dataset), self.dataset.labels.device
        if self.poisson:
            for _ in range(len(self)):
                chosen = torch.rand(count, generator=self.generator) < 1 / len(self)
                yield upload(chosen.nonzero().flatten(), device)
        else:
            order = torch.arange(count) if self.generator is None else torch.randperm(count, generator=self.generator)
            yield from upload(order, device).split(self.batch_size)
