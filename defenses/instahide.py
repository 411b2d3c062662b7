"""Mixed images under random signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Defense
from defenses.mixing import Mixing
from defenses.release import Release
from defenses.step import Batch, Facts, Step
from defenses.support import checks
from defenses.support.convex import mixed
from defenses.support.targets import probabilities


@dataclass(frozen=True)
class InstaHide(Defense):
    """Mix k images and their labels, and flip the sign of each normalised pixel with probability 1/2 (Huang et al., ICML 2020,
    sections 3 and 4; "inside" a data set).

    Every mix has signs of its own, anew in every step. Images are mixed with others of their batch, as a client step sees no
    others: this is the simplest of the paper's forms. (The paper mixes with images of the client's whole training set, anew in
    every epoch; its "cross-dataset" form, with public images, is not this one. The released code draws coefficients as normalised
    absolute normal numbers, and may mix an image with itself; here they are uniform within the bound, and the k are distinct.) In
    a batch of fewer images than k all are mixed; of one image the signs alone hide anything.

    Args:
        k: images in a mix, >= 1.
        largest: no coefficient is larger, 0 < largest <= 1; where 1 / k is, all are 1 / k.
    """

    name: ClassVar[str] = "instahide"
    summary: ClassVar[str] = "k images of the batch are mixed, and the signs of pixels flipped at random"
    paper: ClassVar[str] = "Huang et al., ICML 2020"

    k: int = 4
    largest: float = 0.65

    def __post_init__(self) -> None:
        checks.whole("k", self.k, at_least=1)
        checks.number("largest", self.largest, above=0, at_most=1)

    def transform_batch(self, batch: Batch, step: Step) -> Batch:
        targets = probabilities(batch.targets, step.module, batch.images)
        images, targets = mixed(batch.images, targets, self.k, self.largest, step.generator)
        positive = torch.empty_like(images).uniform_(generator=step.generator) < 0.5
        return Batch(torch.where(positive, images, -images), targets)

    def mixing(self, facts: Facts) -> Mixing | None:
        k = min(self.k, facts.batch_size)
        return Mixing(k, max(self.largest, 1 / k), flipped=True)

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        return dict.fromkeys(shared, Release())  # the gradient of the flipped mixes as it is
