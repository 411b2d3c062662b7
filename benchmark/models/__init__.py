"""The models of the benchmark, for any number of channels, image size and classes.

A new model is one new file and one line here, or a file of the user's own given with ``--plugin``.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmark.errors import InputError
from benchmark.models.base import Model
from benchmark.models.cnn import CNN
from benchmark.models.lenet import LeNet
from benchmark.models.mlp import MLP
from benchmark.models.torchvision import Torchvision
from defenses.support.registry import Registry, SpecificationError

registry: Registry[Model] = Registry("model", Model, MLP, LeNet, CNN, Torchvision)


def create(specification: str) -> Model:
    """The model of ``name``, ``name(parameter=value, ...)`` or ``torchvision:NAME``.

    Raises:
        InputError: the text cannot be read, or a name or value in it is not acceptable.
    """
    try:
        return registry.create(specification)
    except SpecificationError as error:
        raise InputError(str(error)) from error


def build(specification: str, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A freshly initialised model (from torch's global generator); see :func:`create` and :meth:`Model.build`."""
    return create(specification).build(image_shape, classes)


def check(specification: str, image_shape: tuple[int, int, int], classes: int) -> None:
    """Raises InputError where the model cannot be built for such images or does not return class scores; computes nothing."""
    model, (c, h, w) = create(specification), image_shape
    problem = "cannot be built for"
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            module = model.build(image_shape, classes).eval()
            problem = "does not take"
            output = module(torch.empty(2, c, h, w))
        except Exception as error:  # a foreign model can reject images in any way
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"model {specification} {problem} images of {c}x{h}x{w}: {reason}") from error
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != (2, classes):
        raise InputError(f"model {specification} must return class scores of shape [batch, {classes}] for images of {c}x{h}x{w}")


__all__ = ["CNN", "MLP", "LeNet", "Model", "Torchvision", "build", "check", "create", "registry"]
