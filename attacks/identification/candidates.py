"""The images among which a server looks for a victim's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Observation


@dataclass(frozen=True)
class Candidates:
    """The pools of N victims, and what the server has beside them.

    Attributes:
        images: [K, C, H, W], normalised; each once, whichever pools it is in. Faster where those of a class are together.
        labels: [K], the class of each.
        pools: [N, M], of each victim the places of its candidates among the images.
        public_images: [L, C, H, W], normalised, of the same distribution and in no pool; None where there are none. By them the
            other images behind a gradient are known, as noise.
        public_labels: [L].

    Raises:
        ValueError: shapes do not fit, pixels are not finite, or a place is none.
    """

    images: Tensor
    labels: Tensor
    pools: Tensor
    public_images: Tensor | None = None
    public_labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or len(self.images) != len(self.labels) or self.labels.dim() != 1:
            raise ValueError(f"candidates must be images [K, C, H, W] with labels [K], got {list(self.images.shape)} and "
                             f"{list(self.labels.shape)}")
        if self.pools.dim() != 2 or self.pools.shape[1] < 1 or not (
                bool((self.pools >= 0).all()) and bool((self.pools < len(self.images)).all())):
            raise ValueError(f"pools must be places [N, M] among {len(self.images)} candidates")
        if (self.public_images is None) != (self.public_labels is None) or (
                self.public_images is not None and len(self.public_images) != len(self.public_labels)):  # type: ignore[arg-type]
            raise ValueError("public images need a label each")
        for kind, images in (("candidates", self.images), ("public images", self.public_images)):
            if images is not None and not bool(torch.isfinite(images).all()):
                raise ValueError(f"{kind} have pixels that are not finite")

    def check(self, observation: Observation) -> None:
        """Raise ValueError where they are not those of the observation."""
        if len(self.pools) != len(observation):
            raise ValueError(f"there are {len(self.pools)} pools for {len(observation)} victims")
        for images in (self.images, self.public_images):
            if images is not None and tuple(images.shape[1:]) != tuple(observation.image_shape):
                raise ValueError(f"candidates must be images of {list(observation.image_shape)}, got {list(images.shape[1:])}")
