"""Models that are one layer after another."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor, nn

from attacks.base import Observation
from defenses.stochastic import sampling


class Link(NamedTuple):
    """A layer without children in a chain, and the shape [C, H, W] or [d] of what enters it."""

    name: str
    module: nn.Module
    shape: Size


def chain_to(observation: Observation, place: str, begin: str | None = None) -> list[Link] | str:
    """The layers that an image passes before it enters the layer ``place``, in the order in which they run, each of which sees what
    the one before gave and nothing else; those from the layer ``begin`` on, where it is given. Or why there is no such chain."""
    links: list[Link] = []
    last: list[Tensor] = [observation.mean.new_zeros(1, *observation.image_shape)]
    reason: list[str] = []
    end = observation.module.get_submodule(place)
    names = {module: name for name, module in observation.module.named_modules() if module is end or not list(module.children())}

    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if begin is not None and not links and names[module] != begin:
            return
        if begin is not None and not links:
            last[0] = arguments[0]
        if not reason and (not arguments or arguments[0] is not last[0]):
            reason.append(f"the model does more than to run its layers one after another, before {names[module] or 'its layer'}")
        if not reason and module is end:
            reason.append("")
        if not reason:
            links.append(Link(names[module], module, arguments[0].shape[1:]))

    def leave(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        last[0] = output

    image = last[0]
    with ExitStack() as restored, torch.no_grad(), sampling(list(observation.stochastic.values())):
        for module in names:
            restored.callback(module.register_forward_pre_hook(enter).remove)
            restored.callback(module.register_forward_hook(leave).remove)
        observation.module(image)
    if not reason:
        return f"the layer {place} does not run"
    return reason[0] or links
