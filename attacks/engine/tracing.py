"""How a model uses its layers in a forward pass, and what their inputs and outputs are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Size, Tensor, nn

from attacks.base import Observation
from attacks.engine.attention import Attends
from attacks.engine.layers import rule_of
from defenses.stochastic import sampling


class Unsuitable(Exception):
    """The gradients of the model cannot be made from its layers; the text says why."""


def with_parameters(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that have parameters of their own, by name."""
    return [(name, m) for name, m in module.named_modules() if next(m.parameters(recurse=False), None) is not None]


def check_layers(observation: Observation, needed: Callable[[str], Any]) -> None:
    """Raise :class:`Unsuitable` where the gradient of a parameter that is needed, by its name, does not follow from its layer."""
    for name, module in with_parameters(observation.module):
        prefix = f"{name}." if name else ""
        if rule_of(module) is None and any(needed(prefix + child) for child, _ in module.named_parameters(recurse=False)):
            raise Unsuitable(f"no rule for the layer {name or 'of the model'} ({type(module).__name__})")
    names = [name for name, _ in observation.module.named_parameters(remove_duplicate=False)]
    if len(names) > len(observation.shared):
        raise Unsuitable("parameters are shared between layers, or frozen")
    defense = observation.defense
    if defense is not None and defense.regularized and defense.regularizer_reads_parameters:
        raise Unsuitable(f"the regularizer of {defense.label} may read parameters")


def uses(observation: Observation, batch: int) -> tuple[dict[nn.Module, tuple[Size, Size]], set[nn.Module], bool]:
    """The shapes of the input and output of each layer that runs, for a batch of images; the layers whose output is written into by
    what follows, as torchvision's activations do; and whether there is attention in between.

    Raises:
        Unsuitable: a layer is used in another way than once an image.
    """
    shapes: dict[nn.Module, tuple[Size, Size]] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        if module in shapes:
            raise Unsuitable("a layer runs more than once in a forward pass")
        if not arguments or arguments[0].shape[:1] != output.shape[:1] or len(output) != batch:
            raise Unsuitable(f"a layer ({type(module).__name__}) does not see the images in its first dimension")
        shapes[module], outputs[module] = (arguments[0].shape, output.shape), output

    images = observation.mean.new_zeros(batch, *observation.image_shape)
    with ExitStack() as restored:
        for _, module in with_parameters(observation.module):
            restored.callback(module.register_forward_hook(note).remove)
        restored.enter_context(sampling(list(observation.stochastic.values())))
        restored.enter_context(torch.no_grad())
        attends = restored.enter_context(Attends())
        observation.module(images)
    return shapes, {layer for layer, output in outputs.items() if output._version > 0}, attends.seen


@contextmanager
def captured(layers: Iterable[nn.Module], written_into: set[nn.Module]) -> Iterator[tuple[dict[nn.Module, Tensor],
                                                                                      dict[nn.Module, Tensor]]]:
    """The inputs and outputs of layers in a forward pass within the context. An output that is written into is kept as it was."""
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def capture(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        inputs[module], outputs[module] = arguments[0], output
        return output.clone() if module in written_into else output

    with ExitStack() as restored:
        for layer in layers:
            restored.callback(layer.register_forward_hook(capture).remove)
        yield inputs, outputs
