"""What an attacker reads from an observation before any optimisation: from the releases, and from what single layers tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import Observation
from attacks.objective.objectives import Objective, layer_of
from attacks.reading.linear_inputs import linear_inputs
from defenses.release import Clipped, Intervals, Kept, Release, Scaled, Sign, Stage
from defenses.stochastic import no_noise, sampling, stochastic_layers
from defenses.support.last_linear import last_linear


@dataclass(frozen=True)
class Told:
    """What the releases of an observation mean for matching; parameters are named as gradients are.

    Attributes:
        masks: where the clean entries are told, of parameters of which some were hidden.
        passes: what a candidate's own gradient goes through before it is compared, where it does.
        variances: of the noise on each entry, of parameters with noise.
        clip: the norm that the whole gradient was clipped to, None where it was not, or where other images were clipped beside it.
        free_scale: whether the gradient is known up to its scale only.

    Of parameters whose release has no closed form nothing is told.
    """

    masks: dict[str, Tensor] = field(default_factory=dict)
    passes: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    variances: dict[str, float] = field(default_factory=dict)
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
            else:
                scale_is_lost = True  # of what became signs
        if variance:
            found.variances[name] = variance
        clips |= {stage for stage in through if isinstance(stage, Clipped)}
        if others := tuple(stage for stage in through if not isinstance(stage, Clipped)):
            found.passes[name] = _Through(others)
    if not clips:
        return replace(found, free_scale=scale_is_lost)
    (clip, *further) = clips
    known = not (further or scale_is_lost or found.masks) and clip.images == 1 and set(clip.names) == set(releases)
    return replace(found, clip=clip.norm if known else None, free_scale=not known)


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


def with_knowledge(objective: Objective, observation: Observation) -> Objective:
    """The objective over what the releases tell, under the codes that stochastic layers sampled, as far as they can be read."""
    known = told(observation)
    objective = replace(objective, masks=known.masks, passes=known.passes)
    if objective.cost == "euclidean":  # a cosine does not depend on the scale
        objective = replace(objective, clip=known.clip, free_scale=known.free_scale)
    if replay_obstacle(observation) is None:
        objective = replace(objective, codes=codes(observation))
    return objective


def replay_obstacle(observation: Observation) -> str | None:
    """Why the codes of the stochastic layers cannot be read from the gradient, or None when they can."""
    layers = stochastic_layers(observation.module)
    if observation.defense is None:
        return "a blind attacker does not know that layers are stochastic"
    if not layers:
        return "the model has no stochastic layer"
    if observation.batch_size > 1:
        return f"codes are read from the gradient of one image, not of {observation.batch_size}, which is a sum over images"
    if observation.averaged_rounds > 1:
        return "codes differ between the rounds that were averaged"
    if any(not layer.reads_code for layer in layers.values()):
        return "the code of a stochastic layer does not enter a linear layer"
    return None


def codes(observation: Observation) -> tuple[Tensor, ...]:
    """What each stochastic layer sampled at the client, [N, 1, K], from the gradient of the linear layer that it enters."""
    return tuple(layer_input(observation, f"{name}.{layer.reads_code}")
                 for name, layer in stochastic_layers(observation.module).items())


def features(observation: Observation) -> dict[str, Tensor]:
    """What entered each stochastic layer at the client, [N, 1, d], by the name of the linear layer that it enters first."""
    layers = stochastic_layers(observation.module)
    places = [f"{name}.{layer.reads_features}" for name, layer in layers.items() if layer.reads_features]
    return {place: layer_input(observation, place) for place in places}


def layers_before_sampling(observation: Observation) -> tuple[str, ...]:
    """The layers with an observed gradient that run before the first stochastic layer."""
    module, ran = observation.module, []
    stochastic = list(stochastic_layers(module).values())

    def watcher(name: str) -> Any:
        return lambda layer, arguments: ran.append(name)

    names = {name: layer for name, layer in module.named_modules() if layer in stochastic or _has_parameters(layer)}
    handles = [layer.register_forward_pre_hook(watcher(name)) for name, layer in names.items()]
    image = observation.mean.new_zeros(1, *observation.image_shape)
    try:
        with torch.no_grad(), sampling(stochastic, no_noise(stochastic, image)):
            module(image)
    finally:
        for handle in handles:
            handle.remove()
    first = next((place for place, name in enumerate(ran) if names[name] in stochastic), len(ran))
    observed = {layer_of(name) for name in observation.shared}
    return tuple(name for name in dict.fromkeys(ran[:first]) if name in observed)


def layers_that_see_the_image(observation: Observation) -> tuple[str, ...] | None:
    """The layers whose gradients say something of the image beyond what is known of it: where codes are replayed, those that run
    before the sampling, and those that the features enter; None for all."""
    if replay_obstacle(observation) is not None:
        return None
    return tuple(dict.fromkeys((*layers_before_sampling(observation), *features(observation))))


def last_features(observation: Observation) -> dict[str, Tensor] | str:
    """What entered the last layer at the client, [N, 1, d], by its name; or why that cannot be read."""
    if observation.batch_size > 1:
        return f"features are read from the gradient of one image, not of {observation.batch_size}"
    try:
        name, linear = last_linear(observation.module)
    except ValueError as error:
        return str(error)
    if linear.bias is None or linear.in_features < 2:
        return "the last layer has no bias, so that its gradient does not tell the features"
    return {name: layer_input(observation, name)}


def layer_input(observation: Observation, layer: str) -> Tensor:
    """What entered a linear layer with bias at the client, [N, 1, I], from the gradient of one image, without what the releases say
    of noise and hidden entries."""
    weight, bias = (f"{layer}.{child}" if layer else child for child in ("weight", "bias"))
    releases = observation.releases()
    found = linear_inputs(observation.shared[weight], observation.shared[bias], variance=_variance(releases[weight]),
                          hidden=any(isinstance(stage, Kept) for name in (weight, bias) for stage in releases[name].stages))
    return found[:, None]


def _variance(release: Release) -> float:
    form = release.form
    return 0.0 if form is None or form.noise is None else form.noise.variance


def _has_parameters(layer: nn.Module) -> bool:
    return next(layer.parameters(recurse=False), None) is not None
