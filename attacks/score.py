"""By what an attacker chooses among candidates of different attacks, without the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from attacks.adaptive.knowledge import is_clipped, noise_std, with_knowledge
from attacks.adaptive.noise_aware import NoiseAware
from attacks.base import Observation
from attacks.matching import GradientMatcher
from attacks.objectives import Comparison, Objective, layer_of, total
from attacks.seeds import derive
from attacks.total_variation import total_variation
from attacks.upload import upload
from attacks.width import filled

#: Candidates whose scores are computed at once.
_AT_ONCE = 64
#: A total variation below that of any photograph says nothing more; one minus a cosine of this size is rounding.
_SMOOTH, _ROUNDING = 0.02, 1e-7


def score(observation: Observation, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """How unlikely candidates are under the known defense and an image prior: lower is likelier. Equal for equal images, whichever
    attack made them, and comparable between all of them.

    Where the gradient carries noise of known standard deviation it is the negative log-posterior that ``noise-aware`` minimises,
    |g - G|^2 / (2 sigma^2 n) + 0.1 TV. Otherwise the gradient of the original would match exactly, and nothing says how near that
    of another image should come, nor how smooth it should be: deviations of each layer, and of pixels from their neighbours, are
    taken to have unknown scales, which leaves their logarithms: the mean over layers of log(1 - cos), plus log TV. In both a
    bottleneck's code is replayed and pruned entries are left out.

    Args:
        observation: the victims.
        images: [N, B, C, H, W], normalised.
        labels: [N, B].
        seed: of the model's sampling, where a bottleneck's codes are not known.

    Returns:
        [N]; infinite where the images or their gradient are not finite.
    """
    variation, stds = total_variation(images), noise_std(observation)
    if stds and not is_clipped(observation.defense):
        objective = replace(NoiseAware().objective(observation), total_variation=0.0)
        entries = sum(observation.gradients[name][0].numel() for name in stds)
        total = _evaluate(observation, objective, images, labels, seed) / (2 * min(stds.values()) ** 2 * entries) + 0.1 * variation
    else:
        objective = with_knowledge(_MeanLogDistance(), observation)
        total = _evaluate(observation, objective, images, labels, seed) + variation.clamp_min(_SMOOTH).log()
    return total.nan_to_num(nan=torch.inf)


@dataclass(frozen=True)
class _MeanLogDistance(Objective):
    """The mean over layers of the logarithm of one minus the cosine."""

    def well_conditioned(self) -> Objective:
        return Objective(**{field.name: getattr(self, field.name) for field in fields(self)})

    def __call__(self, compared: Mapping[str, Comparison], observed: Mapping[str, Tensor]) -> Tensor:
        distances = []
        for layer in dict.fromkeys(map(layer_of, compared)):
            own = {name: comparison for name, comparison in compared.items() if layer_of(name) == layer}
            distances.append(super().__call__(own, observed).clamp_min(_ROUNDING).log())
        return total(distances) / len(distances)


def _evaluate(observation: Observation, objective: Objective, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    costs = []
    for start in range(0, len(observation), _AT_ONCE):
        places = list(range(start, min(start + _AT_ONCE, len(observation))))
        # Slots that are left over compute what nobody reads (attacks.width).
        slots = places + places[:1] * (filled(len(places), _AT_ONCE) - len(places))
        seeds = [derive(seed, "score", observation.victims[place]) for place in slots]
        matcher = GradientMatcher(observation, labels, objective, seeds=seeds, positions=slots)
        costs.append(matcher.step(images[upload(slots, images.device)])[1][: len(places)])
    return torch.cat(costs)
