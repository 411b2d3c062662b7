"""What a model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from defenses.support.registry import Named


@dataclass(frozen=True)
class Model(Named):
    """A classifier that can be built for any data set. Its label shows the parameters that differ from their defaults."""

    first_shown: ClassVar[bool] = False

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """A module that maps normalised images [B, C, H, W] to class scores [B, classes], freshly initialised from torch's global
        generator. It is also built on the meta device, where nothing is computed, to check that it takes the images.

        Args:
            image_shape: (C, H, W).
            classes: number of outputs.
        """
        raise NotImplementedError
