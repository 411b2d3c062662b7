"""What a model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from defenses.support.registry import label


@dataclass(frozen=True)
class Model:
    """A classifier that can be built for any data set; parameters are dataclass fields, checked in ``__post_init__``."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """The specification that makes this model, such as ``lenet``."""
        return label(self)

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """A module that maps normalised images [B, C, H, W] to class scores [B, classes], freshly initialised from torch's global
        generator. It is also built on the meta device, where nothing is computed, to check that it takes the images.

        Args:
            image_shape: (C, H, W).
            classes: number of outputs.
        """
        raise NotImplementedError
