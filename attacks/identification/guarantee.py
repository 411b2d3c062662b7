"""What an attacker cannot exceed: a guarantee for the presence of one image, read from what a defense discloses."""

from __future__ import annotations

import math

from attacks.base import Observation
from defenses.release import Release
from defenses.stages import Clipped, Noise, Scaled, Unknown


def presence_mu(observation: Observation) -> float | None:
    """The mu for which all that was observed of a victim is mu-GDP for the presence of one image behind the gradient, None where
    nothing is guaranteed (Dong, Roth and Su, 2022: no test between its presence and its absence does better than one between
    N(0, 1) and N(mu, 1)).

    The gradient of each image was clipped to a norm C before the mean over B was taken, and Gaussian noise of standard deviation s
    followed: the image moves what is shared by C / B at most, so that mu = C / (B s), which is 1 / multiplier in DP-SGD's terms.
    Where the gradients of n clients were clipped as wholes instead (one client: n = 1), the part of its client is at most C / n
    away from nothing with the image or without, so that mu = C / (n s) between that the client took part and that it did not, of
    which the bound on top-1 follows alike. What is done afterwards takes nothing away (post-processing), and T rounds compose to
    sqrt(T) mu. So do local steps of b images: in each in which an image takes part it moves the step's gradient by C / b, under
    noise of sqrt(T) times that of the update.
    """
    squared = 0.0
    for seen in observation.by_round():
        mu = _of_round(seen.releases(), observation.batch_size)
        if mu is None:
            return None
        squared += mu**2
    return math.sqrt(squared) * _of_steps(observation)


def _of_steps(observation: Observation) -> float:
    """How much more all steps tell that an image takes part in than their mean would, were they independent of each other."""
    local, images = observation.local, observation.batch_size
    if not local:
        return 1.0
    of_step = min(local.batch_size or images, images)
    taken = math.ceil(local.steps / math.ceil(images / of_step))
    return math.sqrt(taken / local.steps) * images / of_step


def _of_round(releases: dict[str, Release], batch_size: int) -> float | None:
    clips, ratios = set(), []
    for release in releases.values():
        if not release.stages or not isinstance(clip := release.stages[0], Clipped) or batch_size % clip.images:
            return None
        if set(clip.names) != set(releases) or any(isinstance(stage, Unknown) for stage in release.stages):
            return None  # what is not declared may look at the images again
        clips.add(clip)
        moved, variance = clip.norm / clip.images, 0.0
        for stage in release.stages[1:]:
            if isinstance(stage, Scaled):
                moved, variance = moved * abs(stage.factor), variance * stage.factor**2
            elif isinstance(stage, Noise) and stage.distribution == "gaussian":
                variance += stage.variance
            else:
                break  # what follows is post-processing, or comes before any noise
        if variance == 0:
            return None
        ratios.append(moved / math.sqrt(variance))
    return max(ratios) if len(clips) == 1 else None
