"""The classifiers of torchvision."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from benchmark.errors import InputError
from benchmark.models.base import Model
from defenses.support.registry import unknown


@dataclass(frozen=True)
class Torchvision(Model):
    """A classifier of torchvision, untrained.

    Args:
        architecture: of torchvision's list of models.
    """

    name: ClassVar[str] = "torchvision:NAME"
    summary: ClassVar[str] = "any classifier of torchvision, untrained, such as torchvision:resnet18"
    paper: ClassVar[str] = "torchvision"

    architecture: str

    def __post_init__(self) -> None:
        import torchvision.models

        known = torchvision.models.list_models(module=torchvision.models)
        if self.architecture not in known:
            raise InputError(unknown("torchvision model", self.architecture, known))

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        from torchvision.models import get_model

        channels, height, _ = image_shape
        arguments: dict[str, object] = {"weights": None, "num_classes": classes}
        if self.architecture.startswith("vit_"):
            arguments["image_size"] = height
        if self.architecture in ("googlenet", "inception_v3"):
            arguments.update(aux_logits=False, init_weights=False)
        module = get_model(self.architecture, **arguments)
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
