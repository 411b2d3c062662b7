"""Candidates where a layer samples: by what entered it, or by the gradients under the code that was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks.base import Observation, Progress
from attacks.engine.per_image import PerImage
from attacks.identification.candidates import Candidates
from attacks.identification.likelihood import ROUNDING, ImageLikelihood
from attacks.identification.pools import of_victims, over_choices, scored
from attacks.reading.layers import codes, entered, features, layers_that_see_the_image, replay_obstacle, told_by_codes
from defenses.stages import Clipped, Scaled
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

    def score(images: Tensor, labels: Tensor, victims: Tensor, replayed: Sequence[Tensor] = ()) -> Tensor:
        own = entered(observation, layer, images, replayed)[name].flatten(1).double()
        given = of_victims(read, victims)
        scale = (ROUNDING**2 * given.square().mean(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
        return torch.cdist(given, own, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * scale)

    bytes_per_image = PerImage(observation).bytes_per_image
    if told_by_codes(observation):
        return _by_codes(observation, candidates, bytes_per_image, score, tell)
    return scored(candidates, over_choices(observation.choices, score), bytes_per_image, tell)


def _by_codes(observation: Observation, candidates: Candidates, bytes_per_image: Callable[[], int],
              score: Callable[[Tensor, Tensor, Tensor, list[Tensor]], Tensor], tell: Progress) -> Tensor:
    """The scores of all pools, [N, M], one victim after another: from images [K, C, H, W], labels [K], the place of a victim [1]
    and its codes, [K, *shape] each, to [1, K]."""
    sampled, found = codes(observation), []
    for victim, pool in enumerate(candidates.pools):
        place = pool.new_tensor([victim])

        def of_victim(images: Tensor, labels: Tensor, _: Tensor, victim: int = victim, place: Tensor = place) -> Tensor:
            return score(images, labels, place, [code[victim].expand(len(images), *code.shape[2:]) for code in sampled])

        found.append(scored(replace(candidates, pools=pool[None]), over_choices(observation.choices, of_victim), bytes_per_image,
                            lambda done, of: None))
        tell(victim + 1, len(candidates.pools))
    return torch.cat(found)


def by_replayed_codes(observation: Observation, candidates: Candidates, tell: Progress) -> Tensor:
    """The likelihood of candidates' gradients before the sampling, under the codes that were read with noise, [N, M]."""
    layers = layers_that_see_the_image(observation)
    compute, compare = PerImage(observation, layers), ImageLikelihood(observation, layers)

    def score(images: Tensor, labels: Tensor, victims: Tensor, replayed: list[Tensor]) -> Tensor:
        return compare(compute(images, labels, codes=replayed), victims)

    return _by_codes(observation, candidates, compute.bytes_per_image, score, tell)


def fresh_noise(observation: Observation, seed: int) -> list[Tensor]:
    """What the stochastic layers sample for an attacker who does not know of them, [1, *shape] each: the same for all candidates,
    so that it does not decide between them."""
    shapes = observation.sample_shapes
    generators = (torch.Generator("cpu").manual_seed(derive(seed, "layer", i)) for i in range(len(shapes)))
    return observation.samples_of([torch.randn((1, *shape), generator=generator, device="cpu").to(observation.mean)
                                   for shape, generator in zip(shapes, generators, strict=True)])


def _modules(observation: Observation, names: Iterable[str]) -> dict[str, nn.Module]:
    return {name: observation.module.get_submodule(name) for name in names}
