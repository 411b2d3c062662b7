"""What a defense that changes images and labels says of it: of which images the shared gradient is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mixing:
    """What a client does to its B images and labels before the gradient is taken, as far as everybody knows. What it draws
    for it is its secret.

    Args:
        images: how many of the client's images are in each convex combination, and their labels with the same coefficients; with 1
            they are as they were.
        largest: no coefficient is larger.
        flipped: whether the sign of every normalised pixel was drawn at random afterwards.
        concealing: images that stand beside each of the client's images, in no pixel range and under labels that are not known.
    """

    images: int = 1
    largest: float = 1.0
    flipped: bool = False
    concealing: int = 0
