"""Candidates where a layer samples: by what entered it, or by the gradients under the code that was read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks.base import Observation, Progress
from attacks.engine.per_image import PerImage
from attacks.identification.candidates import Candidates
from attacks.identification.likelihood import ROUNDING, ImageLikelihood
from attacks.identification.pools import of_victims, over_choices, scored
from attacks.reading.layers import codes, entered, features, layers_that_see_the_image, replay_obstacle
from defenses.release import Clipped, Scaled
from defenses.stochastic import stochastic_layers
from defenses.support.seeds import derive


def exact_features(observation: Observation) -> dict[str, Tensor]:
    """What entered the first stochastic layer to run at the client, [N, 1, d], by the linear layer that it entered; nothing where
    the gradient of that layer is not shared as it is, but for its scale."""
    if replay_obstacle(observation) is not None:
        return {}
    releases, found = observation.releases(), features(observation)
    ran = entered(observation, _modules(observation, found), observation.mean.new_zeros(1, *observation.image_shape))
    first = next(iter(ran), None)
    if first is None or any(not isinstance(stage, (Scaled, Clipped)) for child in ("weight", "bias")
                            for stage in releases[f"{first}.{child}"].stages):
        return {}
    return {first: found[first]}


def by_features(observation: Observation, candidates: Candidates, tell: Progress) -> Tensor:
    """How far the features of candidates are from those that were read exactly, [N, M]: lower is likelier."""
    (name, values), = exact_features(observation).items()
    read = values.flatten(1).double()
    layer = _modules(observation, [name])

    def score(images: Tensor, labels: Tensor, victims: Tensor) -> Tensor:
        own = entered(observation, layer, images)[name].flatten(1).double()
        given = of_victims(read, victims)
        scale = (ROUNDING**2 * given.square().mean(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
        return torch.cdist(given, own, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * scale)

    return scored(candidates, over_choices(observation.choices, score), PerImage(observation).bytes_per_image, tell)


def by_replayed_codes(observation: Observation, candidates: Candidates, tell: Progress) -> Tensor:
    """The likelihood of candidates' gradients before the sampling, under the codes that were read with noise, [N, M]."""
    layers = layers_that_see_the_image(observation)
    compute, compare, sampled = PerImage(observation, layers), ImageLikelihood(observation, layers), codes(observation)
    found = []
    for victim, pool in enumerate(candidates.pools):
        one = replace(candidates, pools=pool[None])
        place = pool.new_tensor([victim])

        def score(images: Tensor, labels: Tensor, _: Tensor, victim: int = victim, place: Tensor = place) -> Tensor:
            replayed = [code[victim].expand(len(images), -1) for code in sampled]
            return compare(compute(images, labels, codes=replayed), place)

        found.append(scored(one, over_choices(observation.choices, score), compute.bytes_per_image, lambda done, of: None))
        tell(victim + 1, len(candidates.pools))
    return torch.cat(found)


def fresh_noise(observation: Observation, seed: int) -> list[Tensor]:
    """What the stochastic layers sample for an attacker who does not know of them, [1, size] each: the same for all candidates, so
    that it does not decide between them."""
    layers = stochastic_layers(observation.module).values()
    generators = (torch.Generator("cpu").manual_seed(derive(seed, "layer", i)) for i in range(len(layers)))
    return [torch.randn((1, layer.size), generator=generator, device="cpu").to(observation.mean)
            for layer, generator in zip(layers, generators, strict=True)]


def _modules(observation: Observation, names: Iterable[str]) -> dict[str, nn.Module]:
    return {name: observation.module.get_submodule(name) for name in names}
