"""Whose gradients are observed, and of which images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from benchmark.config import Evaluation
from benchmark.data.datasets import Dataset
from benchmark.data.loaders import LabelledImages
from defenses.support.seeds import derive
from defenses.support.upload import upload


@dataclass(frozen=True)
class Victims:
    """What the clients keep to themselves: the images of a split with ``indices`` [N, B]; ``numbers`` names the N victims. The
    first of a victim's images is its target, the others are its companions."""

    split: LabelledImages
    indices: np.ndarray
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.indices.shape[1]

    @cached_property
    def labels(self) -> Tensor:
        """[N, B]."""
        return self.split.labels[self._upload(self.indices)]

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 [N, B, C, H, W]."""
        pixels: np.ndarray = self.split.pixels(self._upload(self.indices.ravel())).cpu().numpy()
        return pixels.reshape(*self.indices.shape, *pixels.shape[1:])

    def images(self, place: int) -> Tensor:
        """Normalised, of the victim at this place, [B, C, H, W]. Of all victims at once they can be more than memory holds."""
        return self.split.batch(self._upload(self.indices[place]))[0].contiguous()

    def select(self, first: int, count: int) -> Victims:
        """Some victims in a row."""
        some = slice(first, first + count)
        return Victims(self.split, self.indices[some], self.numbers[some])

    def _upload(self, indices: np.ndarray) -> Tensor:
        return upload(torch.from_numpy(indices), self.split.labels.device)


def choose_victims(dataset: Dataset, evaluation: Evaluation, batch_size: int, seed: int) -> Victims:
    """Draw training images (clients' private data); the same for every model and defense of a seed.

    No two victims have the same target, and it is the same whatever the batch size. Companions are drawn for each victim, without
    replacement, from all images that are not public, and may be those of other victims too, since clients share more gradients
    than there are images to fill their batches with. Those of a smaller batch are among those of a larger one.

    Args:
        dataset: whose training images they are.
        evaluation: how many victims.
        batch_size: images behind each gradient.
        seed: of the cell.

    Raises:
        ValueError: there are too few images.
    """
    split = dataset.train
    if evaluation.victims > len(split):
        raise ValueError(f"{evaluation.victims} victims need as many training images, got {len(split)}")
    targets = _order(len(split), seed, dataset.name, "victims")[:evaluation.victims]
    indices = targets[:, None]
    if batch_size > 1:
        private = np.flatnonzero(~np.isin(split.alike, split.alike[public_images(dataset, targets, evaluation, seed)]))
        if len(private) < batch_size:
            raise ValueError(f"gradients of {batch_size} images need as many training images beside the public ones, "
                             f"got {len(private)}")
        companions = []
        for number, target in enumerate(targets):
            order = private[_order(len(private), seed, dataset.name, "companions", number)]
            companions.append(order[order != target][:batch_size - 1])
        indices = np.hstack([indices, companions])
    return Victims(split, indices, tuple(range(evaluation.victims)))


def shared_companions(dataset: Dataset, evaluation: Evaluation, batch_size: int) -> str:
    """What is to be told of sums over clients, whose images are more than there are; "" where they are not."""
    images = len(dataset.train)
    there, needed = images - most_public(evaluation, images - evaluation.victims), evaluation.victims * batch_size
    return "" if needed <= there else (f"participants of different observations overlap: {evaluation.victims} sums of {batch_size} "
                                       f"images take {needed:,}, and there are {there:,} beside the public ones")


def public_images(dataset: Dataset, targets: np.ndarray, evaluation: Evaluation, seed: int) -> np.ndarray:
    """Images that attackers have beside their candidates, given the targets of all victims: none looks like one of these. From them
    the covariance of the gradients of companions is estimated."""
    others = np.flatnonzero(~np.isin(dataset.train.alike, dataset.train.alike[targets]))
    order = others[_order(len(others), seed, dataset.name, "public")]
    return order[:most_public(evaluation, len(others))]


def most_public(evaluation: Evaluation, others: int) -> int:
    """How many of so many images that are no targets are public: at most half, so that as many are left for companions and
    pools."""
    return min(evaluation.public, others // 2)


def _order(count: int, seed: int, *purpose: str | int) -> np.ndarray:
    order: np.ndarray = torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, *purpose))).numpy()
    return order
