"""The discrete choices that a defense draws for each image, declared so that whoever knows the defense can go through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from defenses.support.upload import upload


class Change(Protocol):
    """What is done to images [B, C, H, W], normalised, each by itself."""

    def changed(self, images: Tensor) -> Tensor:
        """What becomes of the images, the same each time."""

    def undone(self, images: Tensor) -> Tensor:
        """The images that became these, as far as it can be told; what was lost is filled in."""


@dataclass(frozen=True)
class Choice:
    """One outcome of what a defense draws for an image.

    Args:
        probability: > 0; those of all choices sum to 1.
        changes: what is done to the image then, first to last.
    """

    probability: float
    changes: tuple[Change, ...] = ()

    def changed(self, images: Tensor) -> Tensor:
        """What becomes of images [B, C, H, W]."""
        for change in self.changes:
            images = change.changed(images)
        return images

    def undone(self, images: Tensor) -> Tensor:
        """The images [B, C, H, W] that became these, as far as it can be told."""
        for change in reversed(self.changes):
            images = change.undone(images)
        return images

    def then(self, other: Choice) -> Choice:
        """Both, drawn independently."""
        return Choice(self.probability * other.probability, self.changes + other.changes)


def chained(first: Sequence[Choice], second: Sequence[Choice]) -> tuple[Choice, ...]:
    """The choices of two defenses, one after the other; of one alone where the other has none."""
    if not first or not second:
        return tuple(first or second)
    return tuple(one.then(other) for one in first for other in second)


def changed_at_random(choices: Sequence[Choice], images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [B, C, H, W], each changed by a choice of its own.

    Which was drawn for which is known on the device alone. On a CPU each image goes through its own; elsewhere all images go
    through all choices, so that nothing waits for the host.

    Args:
        choices: at least one.
        images: which are not written into.
        generator: on the device of the images.
    """
    if not len(images):
        return images
    drawn = torch.rand(len(images), generator=generator, device=images.device)
    ends = [math.fsum(choice.probability for choice in choices[: i + 1]) for i in range(len(choices) - 1)]
    places = torch.bucketize(drawn, upload(ends, images.device, torch.float32), right=True)
    if images.device.type == "cpu":
        return changed_by(choices, images, places)
    found = images
    for place, choice in enumerate(choices):
        found = torch.where((places == place).view(-1, 1, 1, 1), choice.changed(images), found)
    return found


def changed_by(choices: Sequence[Choice], images: Tensor, places: Tensor) -> Tensor:
    """Images [B, C, H, W], each changed by one of the choices, by their places [B], which are on the CPU."""
    found = torch.empty_like(images)
    for place, choice in enumerate(choices):
        own = (places == place).nonzero().flatten()
        if len(own):
            own = upload(own, images.device)
            found[own] = choice.changed(images[own])
    return found
