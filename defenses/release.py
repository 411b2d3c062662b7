"""What a shared gradient tells of the clean one, declared by the defense that changed it.

A :class:`Release` is the chain of stages that the gradient of one parameter went through, in their order; none is dropped or
merged. Whoever knows the defense passes a candidate's own gradient through the stages before the noise and compares what comes
out with what was shared, under the noise and what the stages after it hide. Nothing else of a defense is known to an attacker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from defenses.stages import Bounds, Clipped, Intervals, Noise, OwnLikelihood, Scaled, Stage, Unknown


@dataclass(frozen=True)
class Release:
    """What happened to the gradient of one parameter, first to last; nothing happened to it where there are no stages."""

    stages: tuple[Stage, ...] = ()

    def then(self, other: Release) -> Release:
        """The chain of both."""
        return Release(self.stages + other.stages)

    @property
    def form(self) -> Form | None:
        """The parts of the chain where it has a closed form: deterministic stages; noise of one kind (none is of variance 0), and
        stages that leave of each entry an interval, or a stage with a likelihood of its own. None where it is to be simulated."""
        before: list[Stage] = []
        after: list[Stage] = []
        noise: Noise | None = None
        own: OwnLikelihood | None = None
        for stage in self.stages:
            if isinstance(stage, Unknown) or (own is not None and not isinstance(stage, Scaled)):
                return None
            if isinstance(stage, OwnLikelihood):
                if noise is not None or any(isinstance(earlier, Intervals) and earlier.function is None for earlier in before):
                    return None
                own = stage
            elif isinstance(stage, Noise):
                if any(not isinstance(hidden, Scaled) for hidden in after):
                    return None  # noise upon what noise had decided
                if any(isinstance(earlier, Intervals) and earlier.function is None for earlier in before):
                    return None
                if noise is None:
                    noise = stage
                else:
                    # Scaling comes to the same before and after the noise; a sum that is not of Gaussians is taken for one of the
                    # same variance.
                    noise = Noise(noise.variance * _squared_factor(after) + stage.variance)
                    before += after
                after = []
            elif noise is None and own is None:
                before.append(stage)
            elif isinstance(stage, Clipped):
                return None
            else:
                after.append(stage)
        return Form(tuple(before), noise, tuple(after), own)

    def bounds(self, shared: Tensor) -> Bounds:
        """What the clean entries can have been, from the shared ones."""
        bounds = Bounds(shared, shared)
        for stage in reversed(self.stages):
            bounds = stage.before(bounds)
        return bounds

    def summed(self, clients: int) -> Release:
        """What the mean over clients, each of whom released in this way, tells of the mean of their clean gradients."""
        return Release(tuple(stage.summed(clients) for stage in self.stages))

    def averaged(self, rounds: int) -> Release:
        """What the mean over rounds, of gradients that were each released in this way, tells of the mean of the clean ones."""
        form = self.form
        if rounds == 1 or not self.stages:
            return self
        if form is None or form.noise is None or any(not isinstance(stage, Scaled) for stage in form.after):
            return Release((Unknown("rounds were averaged in which different entries were hidden"),))
        return Release((*form.before, *form.after, Noise(form.noise.variance * _squared_factor(form.after) / rounds)))


class Form(NamedTuple):
    """The parts of a chain in closed form."""

    before: tuple[Stage, ...]
    noise: Noise | None
    after: tuple[Stage, ...]
    own: OwnLikelihood | None = None


def _squared_factor(stages: Sequence[Stage]) -> float:
    """What scaling among some stages does to a variance."""
    return math.prod(stage.factor**2 for stage in stages if isinstance(stage, Scaled))
