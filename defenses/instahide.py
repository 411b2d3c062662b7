"""Mixed images under random signs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from defenses.mixing import Mixing
from defenses.mixup import Mixup
from defenses.step import Batch, Facts, Step


@dataclass(frozen=True)
class InstaHide(Mixup):
    """Mix k images and their labels, and flip the sign of each normalised pixel with probability 1/2 (Huang et al., ICML 2020,
    "inside" a data set).

    Every mix has signs of its own, anew in every step. Images are mixed with others of their batch, as a client step sees no
    others: this is the simplest of the paper's forms. (The paper mixes with images of the client's whole training set, anew in
    every epoch; its "cross-dataset" form, with public images, is not this one. The released code draws coefficients as normalised
    absolute normal numbers, and may mix an image with itself; here they are uniform within the bound, and the k are distinct.) In
    a batch of fewer images than k all are mixed; of one image the signs alone hide anything.

    Args:
        k, largest: as for :class:`defenses.mixup.Mixup`.
    """

    name: ClassVar[str] = "instahide"
    summary: ClassVar[str] = "k images of the batch are mixed, and the signs of pixels flipped at random"
    paper: ClassVar[str] = "Huang et al., ICML 2020"

    def transform_batch(self, batch: Batch, step: Step) -> Batch:
        images, targets = super().transform_batch(batch, step)
        positive = torch.empty_like(images).uniform_(generator=step.generator) < 0.5
        return Batch(torch.where(positive, images, -images), targets)

    def mixing(self, facts: Facts) -> Mixing:
        return replace(super().mixing(facts) or Mixing(), flipped=True)
