"""What the releases of an observation mean for matching."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from attacks.base import Observation
from attacks.objective.comparison import Surprise
from defenses.stages import Clipped, Intervals, Kept, OwnLikelihood, Scaled, Sign, Stage


@dataclass(frozen=True)
class Told:
    """What the releases of an observation mean for matching; parameters are named as gradients are.

    Attributes:
        masks: where the clean entries are told, of parameters of which some were hidden.
        passes: what a candidate's own gradient goes through before it is compared, where it does.
        variances: of the noise on each entry, of parameters with noise.
        judges: how unlikely what was shared is, of parameters whose release says it by itself, or of which signs were shared.
        clip: the norm that the whole gradient was clipped to, None where it was not, or where other images were clipped beside it,
            or several steps.
        free_scale: whether the gradient is known up to its scale only.

    Of parameters whose release has no closed form nothing is told.
    """

    masks: dict[str, Tensor] = field(default_factory=dict)
    passes: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    variances: dict[str, float] = field(default_factory=dict)
    judges: dict[str, Judge] = field(default_factory=dict)
    clip: float | None = None
    free_scale: bool = False


def told(observation: Observation) -> Told:
    """What the releases mean for matching; nothing for a blind attacker."""
    releases = observation.releases()
    found = Told()
    clips: set[Clipped] = set()
    scale_is_lost = False
    for name, release in releases.items():
        form = release.form
        if form is None:
            continue
        through, variance = list(form.before), 0.0 if form.noise is None else form.noise.variance
        last: list[Stage] = list(form.after)
        while form.noise is None and through and _known_by_what_it_left(through[-1]):
            last.append(through.pop())
        signs: Sign | None = None
        for stage in last:
            if isinstance(stage, Kept):
                if stage.mask is not None:
                    before = found.masks.get(name)
                    found.masks[name] = stage.mask if before is None else before & stage.mask
            elif isinstance(stage, Scaled):
                through.append(stage)
                variance *= stage.factor**2
            elif isinstance(stage, Intervals):
                variance += (stage.below + stage.above) ** 2 / 12 if variance else 0.0
            elif isinstance(stage, Sign) and form.noise is None:
                signs = stage
            else:
                scale_is_lost = True  # of what became signs
        if variance:
            found.variances[name] = variance
        together = {stage for stage in through if isinstance(stage, Clipped) and not stage.alone}
        if form.own is not None and not together:
            judge = found.judges[name] = Judge(form.own, math.prod(s.factor for s in form.after if isinstance(s, Scaled)))
            if (seen := form.own.seen(observation.shared[name] / judge.factor)) is not None:
                found.masks[name] = seen
            through = list(form.before)
        if signs is not None:
            if name in found.masks:
                scale_is_lost = True
            else:
                found.judges[name] = Judge(signs, 1.0)
        clips |= together
        if others := tuple(stage for stage in through if stage not in together):
            found.passes[name] = _Through(others)
    if not clips:
        return replace(found, free_scale=scale_is_lost)
    (clip, *further) = clips
    known = not (further or scale_is_lost or found.masks) and clip.images == clip.steps == 1 and set(clip.names) == set(releases)
    return replace(found, clip=clip.norm if known else None, free_scale=not known)


def alteration(observation: Observation, names: Sequence[str]) -> str | None:
    """What is known to have happened to the gradients of some parameters, as a reason; None where it was nothing, or left them all,
    or the part of each image in them all, as it was but for one factor."""
    chains = {observation.releases()[name].stages for name in names}
    if len(chains) > 1 or not all(isinstance(stage, Scaled) or (isinstance(stage, Clipped) and set(names) <= set(stage.names))
                                  for stages in chains for stage in stages):
        return "the defense alters them"
    return None


@dataclass(frozen=True)
class Judge:
    """How unlikely what was shared of a parameter is.

    Args:
        stage: which says so.
        factor: what left the stage was multiplied by.
    """

    stage: OwnLikelihood | Sign
    factor: float

    def __call__(self, own: Tensor, shared: Tensor) -> Surprise:
        """Of candidates' gradients as they enter the stage [N, *shape], and what was shared [N, *shape]."""
        left = shared / self.factor
        return Surprise(self.stage.surprise(own, left), *self.stage.typical(left))


def _known_by_what_it_left(stage: Stage) -> bool:
    """Whether the last stage of a chain without noise is compared by its outcome, which a candidate need not go through."""
    return isinstance(stage, Sign) or (isinstance(stage, Kept) and stage.mask is not None) or (
        isinstance(stage, Intervals) and stage.function is None)


@dataclass(frozen=True)
class _Through:
    """Several stages, one after another."""

    stages: tuple[Stage, ...]

    def __call__(self, gradient: Tensor) -> Tensor:
        for stage in self.stages:
            gradient = stage.passed(gradient)
        return gradient


def parts_left(observation: Observation, parameter: str) -> Stage | None:
    """The stage that parts of a parameter's gradient passed as they were, where it is the only one."""
    stages = observation.releases()[parameter].stages
    alone = len(stages) == 1 and type(stages[0]).shown is not Stage.shown
    return stages[0] if alone and not (isinstance(stages[0], Kept) and stages[0].mask is None) else None
