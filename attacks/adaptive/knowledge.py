"""What an attacker who knows the defense reads from an observation before any optimisation."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from attacks.base import Observation
from attacks.linear_inputs import linear_inputs
from attacks.objectives import Objective, layer_of
from defenses import DPSGD, PPP, Composition, Defense, GradientPruning, NoDefense, NoisyGradients
from defenses.last_linear import last_linear
from defenses.precode import VariationalBottleneck


def members(defense: Defense) -> list[Defense]:
    """The defenses that a composition is made of, or the one that it is."""
    return list(defense.members) if isinstance(defense, Composition) else [defense]


def is_randomised(defense: Defense) -> bool:
    """Whether the client's gradient of the same image may differ from round to round; of a defense of the user's own it may."""
    return any(not isinstance(member, (NoDefense, GradientPruning)) for member in members(defense))


def masks(observation: Observation) -> dict[str, Tensor]:
    """Of the parameters whose gradients are pruned: where entries survived, by name. What was pruned is below the smallest that
    survived, and says no more. Noise that is added after pruning hides what was pruned."""
    pruned: set[str] = set()
    for member in members(observation.defense):
        if isinstance(member, NoisyGradients) and member.std > 0:
            pruned.clear()
        elif isinstance(member, GradientPruning) and member.p > 0:
            pruned |= observation.gradients.keys()
        elif isinstance(member, PPP) and member.perturbation == "pruning":
            pruned |= member.perturbed(observation.gradients)
    return {name: observation.gradients[name] != 0 for name in pruned}


def noise_std(observation: Observation) -> dict[str, float]:
    """The standard deviation of the noise on each parameter's gradient, by name; parameters without noise are left out."""
    variance = dict.fromkeys(observation.gradients, 0.0)
    for member in members(observation.defense):
        noisy: set[str] = set()
        std = 0.0
        if isinstance(member, NoisyGradients):
            noisy, std = set(observation.gradients), member.std
        elif isinstance(member, PPP) and member.perturbation == "noise":
            noisy, std = member.perturbed(observation.gradients), member.strength
        elif isinstance(member, DPSGD) and member.noise_multiplier is not None:
            noisy, std = set(observation.gradients), member.noise_multiplier * member.max_grad_norm / observation.batch_size
        for name in noisy:
            variance[name] += std**2
    return {name: (value / observation.averaged_rounds) ** 0.5 for name, value in variance.items() if value > 0}


def is_clipped(defense: Defense) -> bool:
    """Whether the gradient is known up to its scale only."""
    return any(isinstance(member, DPSGD) for member in members(defense))


def bottleneck_names(observation: Observation) -> list[str]:
    """The variational bottlenecks of the shared model."""
    return [name for name, module in observation.module.named_modules() if isinstance(module, VariationalBottleneck)]


def replay_obstacle(observation: Observation) -> str | None:
    """Why the codes of the bottlenecks cannot be read from the gradient, or None when they can."""
    if not bottleneck_names(observation):
        return "the model has no variational bottleneck"
    if observation.batch_size > 1:
        return f"codes are read from the gradient of one image, not of {observation.batch_size}: the decoder's is a sum over images"
    if observation.averaged_rounds > 1:
        return "codes differ between the rounds that were averaged"
    return None


def codes(observation: Observation) -> tuple[Tensor, ...]:
    """What each bottleneck sampled at the client, [N, 1, K]: the input of its decoder, a linear layer with bias."""
    return tuple(layer_input(observation, f"{name}.decoder") for name in bottleneck_names(observation))


def features(observation: Observation) -> dict[str, Tensor]:
    """What entered each bottleneck at the client, [N, 1, d], by the name of its encoder."""
    return {f"{name}.encoder": layer_input(observation, f"{name}.encoder") for name in bottleneck_names(observation)}


def layers_before_bottlenecks(observation: Observation) -> tuple[str, ...]:
    """The layers whose gradients are taken through the first bottleneck but whose forward pass is before it: all but those that the
    defense put with the last layer."""
    behind = tuple(f"{name.rpartition('.')[0]}." if "." in name else "" for name in bottleneck_names(observation))
    return tuple(dict.fromkeys(layer_of(name) for name in observation.gradients if not name.startswith(behind)))


def last_features(observation: Observation) -> dict[str, Tensor] | str:
    """What entered the last layer at the client, [N, 1, d], by its name; or why that cannot be read."""
    if bottleneck_names(observation):
        return "what enters the last layer is a sample of the bottleneck; see replay-bottleneck"
    if observation.batch_size > 1:
        return f"features are read from the gradient of one image, not of {observation.batch_size}"
    try:
        name, linear = last_linear(observation.module)
    except ValueError as error:
        return str(error)
    if linear.bias is None or linear.in_features < 2:
        return "the last layer has no bias, so that its gradient does not tell the features"
    return {name: layer_input(observation, name)}


def with_knowledge(objective: Objective, observation: Observation) -> Objective:
    """The objective over what pruning left, under the codes that bottlenecks sampled, as far as the defense is one of these."""
    known = replace(objective, masks=masks(observation))
    if replay_obstacle(observation) is None:
        known = replace(known, codes=codes(observation))
    return known


def layer_input(observation: Observation, layer: str) -> Tensor:
    """What entered a linear layer with bias at the client, [N, 1, I], from the gradient of one image."""
    weight, bias = (f"{layer}.{child}" if layer else child for child in ("weight", "bias"))
    std = noise_std(observation).get(weight, 0.0)
    return linear_inputs(observation.gradients[weight], observation.gradients[bias], std=std)[:, None]
