"""Among which images each victim's own is looked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attacks.identification import Candidates
from benchmark.config import Evaluation
from benchmark.data.datasets import Dataset
from benchmark.measure.victims import Victims, public_images
from defenses.support.seeds import derive
from defenses.support.upload import upload


@dataclass(frozen=True)
class Pools:
    """The pools of all N victims of a cell, whose numbers are their rows, as indices of training images.

    Attributes:
        indices: [N, M] the candidates of each victim.
        places: [N] the position of the true one, the first image behind the victim's gradient.
        public: [L] images that are in no pool and behind no gradient; none where a gradient is of one image, and nothing hides it.
        note: what to tell the user of them; "" where they are as many as were asked for.
        obstacle: why there are none; "" where there are.
    """

    indices: np.ndarray
    places: np.ndarray
    public: np.ndarray
    note: str = ""
    obstacle: str = ""

    @property
    def size(self) -> int:
        """M, the true one included."""
        return self.indices.shape[1]

    def candidates(self, dataset: Dataset, numbers: Sequence[int]) -> Candidates:
        """The pools of some of the victims as an attacker has them; only images of these are normalised."""
        used, pools = np.unique(self.indices[list(numbers)], return_inverse=True)
        order = np.argsort(_labels(dataset)[used], kind="stable")
        images, labels = _batch(dataset, used[order])
        pools = np.argsort(order)[pools].reshape(len(numbers), -1)
        public = _batch(dataset, self.public) if len(self.public) else (None, None)
        return Candidates(images, labels, upload(torch.from_numpy(pools), labels.device), *public)

    def parts(self, numbers: Sequence[int], most: int) -> Iterator[list[int]]:
        """Victims in parts whose pools have at most so many distinct images together, or which are one victim."""
        if len(np.unique(self.indices[list(numbers)])) <= most:
            yield list(numbers)
            return
        part: list[int] = []
        images = np.array([], dtype=np.int64)
        for number in numbers:
            together = np.union1d(images, self.indices[number])
            if part and len(together) > most:
                yield part
                part, together = [], self.indices[number]
            part, images = [*part, number], together
        if part:
            yield part


def draw_pools(dataset: Dataset, victims: Victims, evaluation: Evaluation, seed: int) -> Pools:
    """Draw candidates from the images that victims are drawn from; the same for every model and defense of a seed. (Test images
    would stand out on a trained model.)

    A pool holds the target, which is the first image behind the gradient (victims are drawn at random), at a uniform place among
    images that are drawn uniformly and without replacement from those of its class, or from all where labels are to be inferred.
    None of them is behind the same gradient, and no two have the same pixels; images behind other gradients may be among them. All
    pools of the victims are as large as the smallest that can be filled.

    Args:
        dataset: where the victims are from.
        victims: all victims of the cell.
        evaluation: how many candidates, and what attackers are given.
        seed: of the cell.
    """
    labels, alike = _labels(dataset), dataset.train.alike
    several = victims.batch_size > 1
    public = public_images(dataset, victims.indices[:, 0], evaluation, seed) if several else np.array([], dtype=np.int64)
    free = ~np.isin(alike, alike[public])
    # One image of those with the same pixels, in each class or in all.
    known = evaluation.labels == "known"
    kinds = alike * len(dataset.classes) + labels if known else alike
    distinct = np.unique(kinds, return_index=True)[1]
    distinct = distinct[free[distinct]]
    # In an order of the seed, so that victims of a class have most candidates in common, whose gradients are then computed once.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive(seed, dataset.name, "candidates"))).numpy()
    distinct = order[np.isin(order, distinct)]
    generators, others = [], []
    for number, own in zip(victims.numbers, victims.indices, strict=True):
        generator = torch.Generator().manual_seed(derive(seed, dataset.name, "candidates", number))
        of_class = distinct[labels[distinct] == labels[own[0]]] if known else distinct
        eligible = of_class[~np.isin(alike[of_class], alike[own])]
        others.append(eligible[:evaluation.candidates - 1])
        generators.append(generator)
    scarcest = min(range(len(others)), key=lambda position: len(others[position]))
    size = 1 + len(others[scarcest])
    of = f" of class {dataset.classes[labels[victims.indices[scarcest, 0]]]!r}" if known else ""
    obstacle = ""
    if size < 2:
        obstacle = f"there are no other training images{of} that could be candidates"
    elif several and len(public) < 2:
        obstacle = "there are no training images beside the victims' that could be public"
    if obstacle:
        return Pools(np.empty((len(others), 0), int), np.array([], int), public, f"no identification: {obstacle}", obstacle)
    note = f"identification among {size} candidates, not {evaluation.candidates}: there are no more training images{of}"
    places = np.array([int(torch.randint(size, (), generator=generator)) for generator in generators])
    rows = [np.insert(other[:size - 1], place, own[0])
            for other, place, own in zip(others, places, victims.indices, strict=True)]
    return Pools(np.stack(rows), places, public, note if size < evaluation.candidates else "")


def _labels(dataset: Dataset) -> np.ndarray:
    labels: np.ndarray = dataset.train.labels.cpu().numpy()
    return labels


def _batch(dataset: Dataset, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    images, labels = dataset.train.batch(upload(torch.from_numpy(indices), dataset.train.labels.device))
    return images.contiguous(), labels
