"""A stage with a likelihood of its own: Gaussian noise in disguise."""

from __future__ import annotations

from dataclasses import dataclass

from defenses import OwnLikelihood


@dataclass(frozen=True)
class Gaussian(OwnLikelihood):
    variance: float

    def surprise(self, own, left):
        return (own - left).flatten(1).square().sum(1) / (2 * self.variance)

    def typical(self, left):
        half = left.new_full((len(left),), left[0].numel() / 2)
        return half, half

    def as_noise(self, left):
        return self.variance
