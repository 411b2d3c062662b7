"""The models of the benchmark, for any number of channels, image size and classes."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from benchmark.errors import InputError
from defenses.support.registry import unknown

_TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class ModelInfo:
    """One line of ``leakboard list models``."""

    name: str
    summary: str
    paper: str


MODELS = (
    ModelInfo("mlp", "flatten, linear 1024, linear 1024, linear classes; ReLU", "Scheliga et al., WACV 2022"),
    ModelInfo("lenet", "three 5x5 convolutions of 12 channels, strides 2, 2, 1; sigmoid; linear", "Zhu et al., NeurIPS 2019"),
    ModelInfo("torchvision:NAME", "any classifier of torchvision, untrained, such as torchvision:resnet18", "torchvision"),
)


def check_name(name: str) -> None:
    """Raises InputError for a name that no model has."""
    if name in ("mlp", "lenet"):
        return
    if not name.startswith(_TORCHVISION):
        raise InputError(unknown("model", name, [model.name for model in MODELS]))
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    if name.removeprefix(_TORCHVISION) not in known:
        raise InputError(unknown("torchvision model", name.removeprefix(_TORCHVISION), known))


def build(name: str, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A freshly initialised model (PyTorch's default initialisation, from torch's global generator).

    Args:
        name: ``mlp``, ``lenet`` or ``torchvision:NAME``.
        image_shape: (C, H, W).
        classes: number of outputs.

    Raises:
        InputError: the name is unknown, or the model cannot take such images.
    """
    check_name(name)
    if name == "mlp":
        return _mlp(image_shape, classes)
    if name == "lenet":
        return _lenet(image_shape, classes)
    return _torchvision(name.removeprefix(_TORCHVISION), image_shape, classes)


def check(name: str, image_shape: tuple[int, int, int], classes: int) -> None:
    """Raises InputError where the model cannot be built for such images or does not return class scores; computes nothing."""
    c, h, w = image_shape
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        module = build(name, image_shape, classes).eval()
        try:
            output = module(torch.empty(2, c, h, w))
        except Exception as error:  # a foreign model can reject images in any way
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"model {name} does not take images of {c}x{h}x{w}: {reason}") from error
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != (2, classes):
        raise InputError(f"model {name} must return class scores of shape [batch, {classes}] for images of {c}x{h}x{w}")


def _mlp(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    c, h, w = image_shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(c * h * w, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, classes))


def _lenet(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    c, h, w = image_shape
    # A 5x5 convolution with padding 2 and stride s maps a side of n to ceil(n / s); here twice s = 2.
    features = 12 * (-(-h // 4)) * (-(-w // 4))
    return nn.Sequential(
        nn.Conv2d(c, 12, 5, stride=2, padding=2), nn.Sigmoid(),
        nn.Conv2d(12, 12, 5, stride=2, padding=2), nn.Sigmoid(),
        nn.Conv2d(12, 12, 5, stride=1, padding=2), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(features, classes))


def _torchvision(name: str, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    from torchvision.models import get_model

    channels, height, _ = image_shape
    arguments: dict[str, object] = {"weights": None, "num_classes": classes}
    if name.startswith("vit_"):
        arguments["image_size"] = height
    if name in ("googlenet", "inception_v3"):
        arguments.update(aux_logits=False, init_weights=False)
    try:
        module = get_model(name, **arguments)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"model torchvision:{name} cannot be built for images of {channels}x{height}: {error}") from error
    if channels != 3:
        _replace_first_convolution(module, channels)
    return module


def _replace_first_convolution(module: nn.Module, channels: int) -> None:
    """Let an untrained model take another number of channels; its first convolution is made anew."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            parent, _, child = path.rpartition(".")
            settings = {key: copy.copy(getattr(layer, key)) for key in
                        ("out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")}
            setattr(module.get_submodule(parent), child, nn.Conv2d(channels, bias=layer.bias is not None, **settings))
            return
