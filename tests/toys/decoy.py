"""A defense that needs a gradient of its own: that of a decoy image is mixed into the shared one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from defenses import Batch, Defense


@dataclass(frozen=True)
class Decoy(Defense):
    """Share the mean of the gradient and, with a weight, that of images of noise with the same labels."""

    name: ClassVar[str] = "decoy"
    summary: ClassVar[str] = "the gradient of images of noise is mixed in"
    paper: ClassVar[str] = "a test"

    weight: float = 0.3

    def transform_gradients(self, gradients, step):
        images = step.batch.images
        noise = torch.empty_like(images).normal_(generator=step.generator)
        decoy = step.gradient(Batch(noise, step.batch.targets))
        return {name: (1 - self.weight) * g + self.weight * decoy[name] for name, g in gradients.items()}
