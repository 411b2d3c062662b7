"""Convex combinations of images and labels in the place of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from defenses.base import Defense
from defenses.mixing import Mixing
from defenses.release import Release
from defenses.step import Batch, Facts, Step
from defenses.support import checks
from defenses.support.convex import mixed
from defenses.support.targets import probabilities


@dataclass(frozen=True)
class Mixup(Defense):
    """Train on convex combinations of k images and of their labels (Zhang et al., ICLR 2018), as a defense with k = 4 or 6 and no
    coefficient above 0.65 (Huang et al., NeurIPS 2021).

    An image is mixed with others of its batch, anew in every step, since a client step sees no other images. (Huang et al. mix with
    images of the whole training set of the client, anew in every epoch, with coefficients from a Dirichlet distribution that
    favours the first; Zhang et al. mix two, within the batch, with coefficients from a Beta distribution.) Coefficients are uniform
    within the bound, as in InstaHide (Huang et al., ICML 2020). In a batch of fewer images than k all are mixed; a batch
    of one image is left as it is, and nothing is hidden.

    Args:
        k: images in a mix, >= 1.
        largest: no coefficient is larger, 0 < largest <= 1; where 1 / k is, all are 1 / k.
    """

    name: ClassVar[str] = "mixup"
    summary: ClassVar[str] = "convex combinations of k images of the batch and of their labels"
    paper: ClassVar[str] = "Huang et al., NeurIPS 2021"

    k: int = 4
    largest: float = 0.65

    def __post_init__(self) -> None:
        checks.whole("k", self.k, at_least=1)
        checks.number("largest", self.largest, above=0, at_most=1)

    def transform_batch(self, batch: Batch, step: Step) -> Batch:
        targets = probabilities(batch.targets, step.module, batch.images)
        return Batch(*mixed(batch.images, targets, self.k, self.largest, step.generator))

    def mixing(self, facts: Facts) -> Mixing | None:
        k = min(self.k, facts.batch_size)
        return Mixing(k, max(self.largest, 1 / k)) if k > 1 else None

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        return dict.fromkeys(shared, Release())  # the gradient of the mixed images as it is
