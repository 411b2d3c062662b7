"""Matching steps that never form the gradients of large layers: one forward and two backward passes for all victims."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Size, Tensor, nn

from attacks.base import Observation
from attacks.engine.layers.layer_gradients import Observed, Rule, rule
from attacks.engine.slots import Slots
from attacks.objective.objectives import Comparison, Objective, squared_norms
from attacks.objective.penalties import batch_norms, feature_distance, statistics_distance, watching
from attacks.objective.total_variation import with_derivative
from defenses import client_loss
from defenses.stochastic import no_noise, sampling, stochastic_layers


class Unsuitable(Exception):
    """The model cannot be matched from its layers; the text says why."""


class StructuredStep:
    """An objective and its image derivative, from the inputs and errors of the layers.

    Args:
        observation: the victims.
        labels: [N, B].
        objective: of the matching.
        slots: which of the victims are worked on.

    Raises:
        Unsuitable: there is a layer without a rule, or the model uses its layers in another way than once an image.
    """

    def __init__(self, observation: Observation, labels: Tensor, objective: Objective, slots: Slots) -> None:
        self.slots = slots
        self._module = observation.module
        self._defense = observation.defense
        self._objective = objective
        self._labels = slots.hold(labels)
        self._stochastic = list(stochastic_layers(observation.module).values())
        self._codes = [slots.hold(code) for code in objective.codes]
        self._features = {name: slots.hold(known) for name, known in objective.features.items()}
        self._anchors = None if objective.anchors is None else slots.hold(objective.anchors)
        self._normalised = batch_norms(observation.module) if objective.statistics else {}
        self._watched = {**{name: observation.module.get_submodule(name) for name in objective.features}, **self._normalised}
        self._squared = {name: slots.hold(squares) for name, squares in squared_norms(observation.shared, objective).items()}
        self._layers: list[tuple[str, nn.Module, Rule]] = []
        self._idle = []
        _check(observation, objective)
        shapes, self._written_into = _uses(observation)
        for name, module in _parametrised(observation.module):
            prefix = f"{name}." if name else ""
            own = {child: observation.shared[prefix + child] for child, _ in module.named_parameters(recurse=False)
                   if prefix + child in self._squared}
            if module not in shapes:  # it does not run, so that its gradient is zero
                self._idle += [prefix + child for child in own]
            elif own:
                masks = {child: objective.masks[prefix + child] for child in own if prefix + child in objective.masks}
                found = rule(module)
                assert found is not None
                observed = Observed(own, masks, slots, objective)
                self._layers.append((prefix, module, found(module, observed, *shapes[module])))

    def __call__(self, images: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Images [S, B, C, H, W] and the stochastic layers' noise [S, B, K]; the derivative and the objective [S]."""
        x = images.detach().requires_grad_()
        objective = self._evaluate(x, self._labels.value.flatten(0, 1), noise)
        (derivative,) = torch.autograd.grad(objective.sum(), x)
        return self._with_priors(images, derivative, objective.detach())

    def with_labels(self, images: Tensor, logits: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The same for labels that are probabilities, the softmax of ``logits`` [S, B, classes]: the derivatives by the images and
        by the logits, and the objective."""
        x, given = images.detach().requires_grad_(), logits.detach().requires_grad_()
        objective = self._evaluate(x, given.flatten(0, 1).softmax(-1), noise)
        derivative, by_logits = torch.autograd.grad(objective.sum(), (x, given))
        derivative, objective = self._with_priors(images, derivative, objective.detach())
        return derivative, by_logits, objective

    def _evaluate(self, x: Tensor, labels: Tensor, noise: list[Tensor]) -> Tensor:
        inputs: dict[nn.Module, Tensor] = {}
        outputs: dict[nn.Module, Tensor] = {}

        def capture(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            inputs[module], outputs[module] = arguments[0], output
            return output.clone() if module in self._written_into else output

        codes = [code.value.flatten(0, 1) for code in self._codes]
        with ExitStack() as restored:
            for _, layer, layer_rule in self._layers:
                restored.callback(layer.register_forward_hook(capture).remove)
                if layer_rule.forward is not None:
                    restored.enter_context(_forward(layer, layer_rule.forward))
            restored.enter_context(sampling(self._stochastic, [epsilon.flatten(0, 1) for epsilon in noise], codes))
            entered = restored.enter_context(watching(self._watched))
            losses = client_loss(self._defense, self._module, x.flatten(0, 1), labels)
        loss = losses.sum() / x.shape[1]  # of each victim the mean over its images
        errors = torch.autograd.grad(loss, [outputs[layer] for _, layer, _ in self._layers], create_graph=True)
        compared = {}
        for (prefix, layer, layer_rule), error in zip(self._layers, errors, strict=True):
            for child, comparison in layer_rule(inputs[layer], error).items():
                compared[prefix + child] = comparison
        observed = {name: held.value for name, held in self._squared.items()}
        for name in self._idle:
            nothing = torch.zeros_like(observed[name])
            compared[name] = Comparison(nothing, nothing)
        objective = self._objective(compared, observed)
        for name, known in self._features.items():
            objective = objective + self._objective.feature_weight * feature_distance(entered[name], known.value)
        if self._normalised:
            layers, values = list(self._normalised.values()), [entered[name] for name in self._normalised]
            objective = objective + self._objective.statistics * statistics_distance(layers, values, len(x))
        return objective

    def _with_priors(self, images: Tensor, derivative: Tensor, objective: Tensor) -> tuple[Tensor, Tensor]:
        """Add what the objective says of the images alone."""
        variation, energy = self._objective.total_variation, self._objective.energy
        if variation:
            value, by_image = with_derivative(images)
            objective, derivative = objective.add(value, alpha=variation), derivative.add(by_image, alpha=variation)
        if energy:
            objective = objective + energy * images.square().flatten(1).mean(1)
            derivative = derivative.add(images, alpha=2 * energy / images[0].numel())
        if self._anchors is not None:
            away, weight = images - self._anchors.value, self._objective.anchor_weight
            objective = objective + weight * away.square().flatten(1).mean(1)
            derivative = derivative.add(away, alpha=2 * weight / images[0].numel())
        return derivative, objective


@contextmanager
def _forward(layer: nn.Module, replacement: Any) -> Iterator[None]:
    layer.forward = replacement
    try:
        yield
    finally:
        del layer.forward


def _check(observation: Observation, objective: Objective) -> None:
    for name, module in _parametrised(observation.module):
        prefix = f"{name}." if name else ""
        if rule(module) is None and any(objective.weight(prefix + child) for child, _ in module.named_parameters(recurse=False)):
            raise Unsuitable(f"no rule for the layer {name or 'of the model'} ({type(module).__name__})")
    names = [name for name, _ in observation.module.named_parameters(remove_duplicate=False)]
    if len(names) > len(observation.shared):
        raise Unsuitable("parameters are shared between layers, or frozen")
    defense = observation.defense
    if defense is not None and defense.regularized and defense.regularizer_reads_parameters:
        raise Unsuitable(f"the regularizer of {defense.label} may read parameters")
    if any(objective.weight(name) for name in objective.passes):
        raise Unsuitable("the gradient of a candidate goes through stages of the defense")


def _uses(observation: Observation) -> tuple[dict[nn.Module, tuple[Size, Size]], set[nn.Module]]:
    """The shapes of the input and output of each layer that runs, for the B images of one victim; and the layers whose output is
    written into by what follows, as torchvision's activations do."""
    shapes: dict[nn.Module, tuple[Size, Size]] = {}
    outputs: dict[nn.Module, Tensor] = {}
    batch = observation.batch_size

    def note(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        if module in shapes:
            raise Unsuitable("a layer runs more than once in a forward pass")
        if not arguments or arguments[0].shape[:1] != output.shape[:1] or len(output) != batch:
            raise Unsuitable(f"a layer ({type(module).__name__}) does not see the images in its first dimension")
        shapes[module], outputs[module] = (arguments[0].shape, output.shape), output

    images = observation.mean.new_zeros(batch, *observation.image_shape)
    stochastic = list(stochastic_layers(observation.module).values())
    with ExitStack() as restored:
        for _, module in _parametrised(observation.module):
            restored.callback(module.register_forward_hook(note).remove)
        restored.enter_context(sampling(stochastic, no_noise(stochastic, images)))
        restored.enter_context(torch.no_grad())
        observation.module(images)
    return shapes, {layer for layer, output in outputs.items() if output._version > 0}


def _parametrised(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, m) for name, m in module.named_modules() if next(m.parameters(recurse=False), None) is not None]

