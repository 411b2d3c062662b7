"""A defense with mixed labels: images and their labels are mixed within the batch (mixup; Zhang et al., ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn import functional as F

from defenses import Batch, Defense
from defenses.support.last_linear import last_linear


@dataclass(frozen=True)
class MixedLabels(Defense):
    """Mix each image with its neighbour in the batch, and its label with that of the neighbour and, a little, with all classes."""

    name: ClassVar[str] = "mixed-labels"
    summary: ClassVar[str] = "images and labels are mixed within the batch"
    paper: ClassVar[str] = "Zhang et al., ICLR 2018"

    share: float = 0.7

    def transform_batch(self, batch, step):
        images, targets = batch
        classes = last_linear(step.module)[1].out_features
        if targets.dim() == 1:
            targets = F.one_hot(targets, classes).to(images.dtype)
        targets = 0.98 * targets + 0.02 / classes
        return Batch(self.share * images + (1 - self.share) * images.roll(1, 0),
                     self.share * targets + (1 - self.share) * targets.roll(1, 0))
