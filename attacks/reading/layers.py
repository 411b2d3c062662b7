"""What single layers tell of the client's forward pass: codes that were sampled, features, and which layers come before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.base import Observation
from attacks.objective.comparison import layer_of
from attacks.reading.concealed import inputs_beside
from attacks.reading.linear_inputs import linear_inputs
from defenses.release import Release
from defenses.stages import Kept, Projected
from defenses.stochastic import StochasticLayer, sampling
from defenses.support.last_linear import last_linear
from defenses.support.watching import watching


def replay_obstacle(observation: Observation) -> str | None:
    """Why the codes of the stochastic layers cannot be read from the gradient, or None when they can."""
    if observation.defense is None:
        return "a blind attacker does not know that layers are stochastic"
    layers = observation.stochastic
    if not layers:
        return "the model has no stochastic layer"
    if observation.batch_size > 1:
        return f"codes are read from the gradient of one image, not of {observation.batch_size}, which is a sum over images"
    if concealed(observation):
        return "codes are read from the gradient of one image, beside which another was concealing here"
    if observation.local:
        return "codes are read from one gradient, and differ between the local steps of an update"
    if observation.averaged_rounds > 1:
        return "codes differ between the rounds that were averaged"
    if not all(_enters_linear_with_bias(layer) for layer in layers.values()):
        return "the code of a stochastic layer does not enter a linear layer with bias"
    return None


def _enters_linear_with_bias(layer: StochasticLayer) -> bool:
    linear = layer.get_submodule(layer.reads_code) if layer.reads_code else None
    return isinstance(linear, nn.Linear) and linear.bias is not None

def concealed(observation: Observation) -> bool:
    """Whether images are known to be in the gradient that are not the client's."""
    return observation.mixing is not None and observation.mixing.concealing > 0


def codes(observation: Observation) -> tuple[Tensor, ...]:
    """The code of each stochastic layer at the client, [N, 1, K], from the gradient of the linear layer that it enters."""
    return tuple(_code(observation, name, layer) for name, layer in observation.stochastic.items())


def features(observation: Observation) -> dict[str, Tensor]:
    """What is read of the features that enter each stochastic layer, [N, 1, d], by the name of a linear layer: what entered it at
    the client. Where any features can have a code, it is the layer that they enter; else it is the one that the code enters, which
    tells of them, and under which candidates are to be compared."""
    found: dict[str, Tensor] = {}
    for name, layer in observation.stochastic.items():
        if not layer.hides_features:
            found[f"{name}.{layer.reads_code}"] = _code(observation, name, layer)
        elif layer.reads_features:
            found[f"{name}.{layer.reads_features}"] = layer_input(observation, f"{name}.{layer.reads_features}")
    return found


def told_by_codes(observation: Observation) -> bool:
    """Whether every code tells of the features, so that under replayed codes all layers say something of the image."""
    return not any(layer.hides_features for layer in observation.stochastic.values())


def _code(observation: Observation, name: str, layer: StochasticLayer) -> Tensor:
    place = f"{name}.{layer.reads_code}"
    variance = _variance(observation, f"{place}.weight")
    code = layer_input(observation, place)
    if not variance:
        return code
    rows = observation.shared[f"{place}.bias"].square().sum(1)
    rows = (rows - variance * observation.shared[f"{place}.bias"].shape[1]).clamp_min(0.1 * rows)
    return layer.denoised(code, (variance * (1 + code.square()) / rows.view(-1, 1, 1)).sqrt())


def layers_before_sampling(observation: Observation) -> tuple[str, ...]:
    """The layers with an observed gradient that run before the first stochastic layer."""
    stochastic = list(observation.stochastic.values())
    watched = {name: layer for name, layer in observation.module.named_modules() if layer in stochastic or has_parameters(layer)}
    ran = list(entered(observation, watched, observation.mean.new_zeros(1, *observation.image_shape)))
    first = next((place for place, name in enumerate(ran) if watched[name] in stochastic), len(ran))
    observed = {layer_of(name) for name in observation.shared}
    return tuple(name for name in ran[:first] if name in observed)


def layers_that_see_the_image(observation: Observation) -> tuple[str, ...] | None:
    """The layers whose gradients say something of the image beyond what is known of it: where codes are replayed, those that run
    before the sampling, and those that the features enter; None for all."""
    if replay_obstacle(observation) is not None or told_by_codes(observation):
        return None
    return tuple(dict.fromkeys((*layers_before_sampling(observation), *features(observation))))


def last_features(observation: Observation) -> dict[str, Tensor] | str:
    """What entered the last layer at the client, [N, 1, d], by its name, where another image conceals the client's of both,
    [N, 2, d]; or why that cannot be read."""
    if observation.batch_size > 1:
        return f"features are read from the gradient of one image, not of {observation.batch_size}"
    try:
        name, linear = last_linear(observation.module)
    except ValueError as error:
        return str(error)
    if linear.bias is None or linear.in_features < 2:
        return "the last layer has no bias, so that its gradient does not tell the features"
    if concealed(observation):
        return two_obstacle(observation) or {name: last_of_two(observation)[0]}
    return {name: layer_input(observation, name)}


def two_obstacle(observation: Observation) -> str | None:
    """Why what entered the last layer, of an image and of a concealing one beside it, is not told apart; None where it is."""
    assert observation.mixing is not None
    if observation.mixing.concealing > 1:
        return f"features are told apart of two images, not of {1 + observation.mixing.concealing}"
    if observation.labels is None:
        return "features are told apart by the label of the client's image, which is not known"
    altered = any(set(release.stages) - {Projected()} for release in observation.releases().values())
    if altered or observation.local or observation.averaged_rounds > 1:
        return "features are told apart in one gradient as it was computed"
    return None


def last_of_two(observation: Observation) -> tuple[Tensor, Tensor]:
    """What entered the last layer, [N, 2, d], of the client's image and of a concealing one, and the derivative by what left it,
    [N, 2, classes]."""
    name, linear = last_linear(observation.module)
    weight, bias = _parameters(name)
    assert observation.labels is not None
    own = observation.labels[:, 0]
    targets = own if own.dim() > 1 else F.one_hot(own, linear.out_features)
    biases = observation.shared[bias]
    return observation.once(weight, "two inputs", lambda gradient: inputs_beside(gradient, biases, linear, targets))


def layer_input(observation: Observation, layer: str) -> Tensor:
    """What entered a linear layer with bias at the client, [N, 1, I], from the gradient of one image, without what the releases say
    of noise and hidden entries."""
    weight, bias = _parameters(layer)
    return linear_inputs(observation.shared[weight], observation.shared[bias], variance=_variance(observation, weight),
                         seen=_seen(observation, weight, bias))[:, None]


def told_inputs(observation: Observation, layer: str) -> Tensor | None:
    """Which entries of :func:`layer_input` are told, [N, 1, I]; None for all, also where hidden entries were the smallest, so that
    inputs are zero where no row tells them."""
    hidden = (stage for name in _parameters(layer) for stage in observation.releases()[name].stages)
    if not any(isinstance(stage, Kept) and stage.mask is not None and stage.threshold is None for stage in hidden):
        return None
    return seen_inputs(observation, layer)


def seen_inputs(observation: Observation, layer: str) -> Tensor | None:
    """Which entries of :func:`layer_input` some row tells, [N, 1, I]; None for all."""
    seen = _seen(observation, *_parameters(layer))
    return None if seen is None else seen.any(1)[:, None]


def _seen(observation: Observation, weight: str, bias: str) -> Tensor | None:
    """Where the entries of a linear layer's weight and of its bias are both told, [N, O, I]; None for everywhere."""
    seen = {name: _told(observation.shared[name], observation.releases()[name]) for name in (weight, bias)}
    found = [of if name == weight else of[..., None] for name, of in seen.items() if of is not None]
    return torch.ones_like(observation.shared[weight], dtype=torch.bool) & reduce(torch.logical_and, found) if found else None


def _told(shared: Tensor, release: Release) -> Tensor | None:
    if any(isinstance(stage, Kept) for stage in release.stages):
        return shared != 0
    form = release.form
    return None if form is None or form.own is None else form.own.seen(shared)


def _parameters(layer: str) -> tuple[str, str]:
    weight, bias = (f"{layer}.{child}" if layer else child for child in ("weight", "bias"))
    return weight, bias


def entered(observation: Observation, layers: Mapping[str, nn.Module], images: Tensor, codes: Sequence[Tensor] = ()
            ) -> dict[str, Tensor]:
    """What enters layers of the model in a forward pass of images [B, C, H, W], by name, in the order in which they run; stochastic
    layers have the given codes, or else the mean of what they sample."""
    with torch.no_grad(), sampling(list(observation.stochastic.values()), codes=codes), watching(layers) as found:
        observation.module(images)
    return found


def _variance(observation: Observation, parameter: str) -> float:
    """Of the noise on the gradient of a parameter."""
    form = observation.releases()[parameter].form
    return 0.0 if form is None or form.noise is None else form.noise.variance


def has_parameters(layer: nn.Module) -> bool:
    """Whether it has some of its own."""
    return next(layer.parameters(recurse=False), None) is not None


def first_linear(observation: Observation) -> tuple[str, str | None]:
    """The first layer that runs, and why it does not tell the pixels; found by a forward pass on a random image."""
    image = _random_image(observation)
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


def relu_obstacle(observation: Observation, layer: str) -> str | None:
    """Why no ReLU follows a linear layer, or None when one does: the model then gives the same without what the layer gives below
    zero, tried on a random image and its negative."""
    image, linear = _random_image(observation), observation.module.get_submodule(layer)
    with torch.no_grad(), sampling(list(observation.stochastic.values())):
        for one in (image, -image):
            given = observation.module(one)
            handle = linear.register_forward_hook(lambda _, arguments, output: output.clamp_min(0))
            try:
                without = observation.module(one)
            finally:
                handle.remove()
            if given.device.type != "meta" and not torch.equal(given, without):
                return "the first layer is not followed by a ReLU"
    return None


def _random_image(observation: Observation) -> Tensor:
    """[1, C, H, W], always the same."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn((1, *observation.image_shape), generator=generator, device="cpu").to(observation.mean)


_KINDS: dict[type, str] = {nn.Conv2d: "convolution", nn.Conv1d: "convolution", nn.Embedding: "embedding"}
