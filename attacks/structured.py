"""Matching steps that never form the gradients of large layers: one forward and two backward passes for all victims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import Observation
from attacks.layer_gradients import Rule, linear, rule
from attacks.objectives import cosine_from, total_variation
from defenses import PRECODE, Composition, Defense, client_loss
from defenses.precode import bottlenecks


@dataclass(frozen=True)
class _Layer:
    module: nn.Module
    rule: Rule
    observed: dict[str, Tensor]  # "weight" and "bias" to [N, ...]


class StructuredStep:
    """The objective of cosine matching and its image derivative, from the inputs and errors of the layers.

    Args:
        observation: the victims; see :meth:`obstacle` for those it can do.
        labels: [N, B].
        weight_of_variation: of the prior.
    """

    def __init__(self, observation: Observation, labels: Tensor, weight_of_variation: float) -> None:
        self._module = observation.module
        self._defense = observation.defense
        self._labels = labels.flatten()
        self._weight = weight_of_variation
        self._bottlenecks = bottlenecks(observation.module)
        self._layers = []
        for name, module in _parametrised(observation.module):
            found = rule(module)
            assert found is not None
            prefix = f"{name}." if name else ""
            own = {child: observation.gradients[prefix + child] for child, _ in module.named_parameters(recurse=False)}
            self._layers.append(_Layer(module, found, own))
        self._squared = torch.stack([g.flatten(1).square().sum(1) for g in observation.gradients.values()]).sum(0)

    @staticmethod
    def obstacle(observation: Observation) -> str | None:
        """Why the observation needs the general step, or None."""
        for name, module in _parametrised(observation.module):
            if rule(module) is None:
                return f"no rule for the layer {name or 'of the model'} ({type(module).__name__})"
        names = [name for name, _ in observation.module.named_parameters(remove_duplicate=False)]
        if len(names) > len(observation.gradients):
            return "parameters are shared between layers, or frozen"
        if not _regularizer_is_per_sample(observation.defense):
            return f"the regularizer of {observation.defense.label} may read parameters"
        return None

    def __call__(self, images: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Images [N, B, C, H, W] and the bottlenecks' noise [N, B, K]; the derivative and the objective [N].

        Raises:
            SharedLayer: a layer runs more than once in a forward pass.
        """
        victims, batch = images.shape[:2]
        x = images.detach().requires_grad_()
        inputs: dict[nn.Module, Tensor] = {}
        outputs: dict[nn.Module, Tensor] = {}

        def capture(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            if module in inputs:
                raise SharedLayer
            inputs[module], outputs[module] = arguments[0], output
            return output.clone()  # what follows may write into it in place, as torchvision's activations do

        handles = [layer.module.register_forward_hook(capture) for layer in self._layers]
        try:
            for module, epsilon in zip(self._bottlenecks, noise, strict=True):
                module.epsilon = epsilon.flatten(0, 1)
            losses = client_loss(self._defense, self._module, x.flatten(0, 1), self._labels)
        finally:
            for handle in handles:
                handle.remove()
            for module in self._bottlenecks:
                module.epsilon = None
        used = [layer for layer in self._layers if layer.module in outputs]
        errors = torch.autograd.grad(losses.sum() / batch, [outputs[layer.module] for layer in used], create_graph=True)
        compared = [
            comparison for layer, error in zip(used, errors, strict=True)
            for comparison in layer.rule(layer.module, inputs[layer.module], error, layer.observed, victims)
        ]
        product = torch.stack([c.product for c in compared]).sum(0)
        squared = torch.stack([c.squared_norm for c in compared]).sum(0)
        objective = cosine_from(product, squared, self._squared) + self._weight * total_variation(x)
        (derivative,) = torch.autograd.grad(objective.sum(), x)
        return derivative, objective.detach()


class SharedLayer(Exception):
    """A layer ran more than once in a forward pass, so its input and error are not those of one call."""


def unformed(module: nn.Module) -> set[str]:
    """Names of the parameters whose gradients a structured step never forms: the weights of linear layers."""
    return {f"{name}.weight".removeprefix(".") for name, layer in _parametrised(module) if rule(layer) is linear}


def _parametrised(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, m) for name, m in module.named_modules() if next(m.parameters(recurse=False), None) is not None]


def _regularizer_is_per_sample(defense: Defense) -> bool:
    if isinstance(defense, Composition):
        return all(_regularizer_is_per_sample(member) for member in defense.members)
    return type(defense).regularizer in (Defense.regularizer, PRECODE.regularizer)
