"""What single layers tell of the client's forward pass: codes that were sampled, features, and which layers come before them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attacks.base import Observation
from attacks.objective.comparison import layer_of
from attacks.reading.linear_inputs import linear_inputs
from defenses.release import Kept
from defenses.stochastic import no_noise, sampling, stochastic_layers
from defenses.support.last_linear import last_linear
from defenses.support.watching import watching


def replay_obstacle(observation: Observation) -> str | None:
    """Why the codes of the stochastic layers cannot be read from the gradient, or None when they can."""
    layers = stochastic_layers(observation.module)
    if observation.defense is None:
        return "a blind attacker does not know that layers are stochastic"
    if not layers:
        return "the model has no stochastic layer"
    if observation.batch_size > 1:
        return f"codes are read from the gradient of one image, not of {observation.batch_size}, which is a sum over images"
    if concealed(observation):
        return "codes are read from the gradient of one image, beside which another was concealing here"
    if observation.averaged_rounds > 1:
        return "codes differ between the rounds that were averaged"
    if any(not layer.reads_code for layer in layers.values()):
        return "the code of a stochastic layer does not enter a linear layer"
    return None


def concealed(observation: Observation) -> bool:
    """Whether images are known to be in the gradient that are not the client's."""
    return observation.mixing is not None and observation.mixing.concealing > 0


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
    stochastic = list(stochastic_layers(observation.module).values())
    watched = {name: layer for name, layer in observation.module.named_modules() if layer in stochastic or has_parameters(layer)}
    ran = list(entered(observation, watched, observation.mean.new_zeros(1, *observation.image_shape)))
    first = next((place for place, name in enumerate(ran) if watched[name] in stochastic), len(ran))
    observed = {layer_of(name) for name in observation.shared}
    return tuple(name for name in ran[:first] if name in observed)


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
    if concealed(observation):
        return "features are read from the gradient of one image, beside which another was concealing here"
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
    form = releases[weight].form
    variance = 0.0 if form is None or form.noise is None else form.noise.variance
    found = linear_inputs(observation.shared[weight], observation.shared[bias], variance=variance,
                          hidden=any(isinstance(stage, Kept) for name in (weight, bias) for stage in releases[name].stages))
    return found[:, None]


def entered(observation: Observation, layers: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    """What enters layers of the model in a forward pass of images [B, C, H, W], by name, in the order in which they run; stochastic
    layers give the mean of their code."""
    stochastic = list(stochastic_layers(observation.module).values())
    with torch.no_grad(), sampling(stochastic, no_noise(stochastic, images)), watching(layers) as found:
        observation.module(images)
    return found


def has_parameters(layer: nn.Module) -> bool:
    """Whether it has some of its own."""
    return next(layer.parameters(recurse=False), None) is not None


def first_linear(observation: Observation) -> tuple[str, str | None]:
    """The first layer that runs, and why it does not tell the pixels; found by a forward pass on a random image."""
    generator = torch.Generator("cpu").manual_seed(0)
    image = torch.randn((1, *observation.image_shape), generator=generator, device="cpu").to(observation.mean)
    layers = {name: layer for name, layer in observation.module.named_modules() if has_parameters(layer)}
    name, seen = next(iter(entered(observation, layers, image).items()))
    module = layers[name]
    if not isinstance(module, nn.Linear):
        return name, f"the first layer is a {_KINDS.get(type(module), type(module).__name__)}, not a linear one"
    if module.bias is None:
        return name, "the first layer has no bias"
    if seen.shape != (1, image.numel()) or (seen.device.type != "meta" and not torch.equal(seen, image.flatten(1))):
        return name, "the first layer does not see the pixels as they are"
    return name, None


_KINDS: dict[type, str] = {nn.Conv2d: "convolution", nn.Conv1d: "convolution", nn.Embedding: "embedding"}
