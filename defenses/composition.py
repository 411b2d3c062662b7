"""Several defenses as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Defense, Gradients, Private


@dataclass(frozen=True)
class Composition(Defense):
    """Chain the hooks of several defenses, first to last: ``precode+noise(std=0.001)``.

    At most one member may bring its own private training (DP-SGD does); its gradient then takes the place of the plain one,
    and the members' gradient hooks follow. A member that mixes samples in ``transform_batch`` voids the guarantee of DP-SGD.

    Args:
        members: two or more defenses.
    """

    name: ClassVar[str] = "composition"
    summary: ClassVar[str] = "several defenses, one after the other"

    members: tuple[Defense, ...]

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError("a composition needs at least two defenses")
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.label}: each defense may be named once")
        if len(self._with_own_training()) > 1:
            raise ValueError(f"{self.label}: only one of the defenses may replace the training (such as dp-sgd)")

    def _with_own_training(self) -> list[Defense]:
        return [member for member in self.members if type(member).make_private is not Defense.make_private]

    @property
    def label(self) -> str:
        return "+".join(member.label for member in self.members)

    def parameters(self) -> dict[str, Any]:
        return {member.name: member.parameters() for member in self.members}

    def extend_model(self, module: nn.Module) -> nn.Module:
        for member in self.members:
            module = member.extend_model(module)
        return module

    def regularizer(self, module: nn.Module) -> Tensor | float:
        return sum(member.regularizer(module) for member in self.members)

    def transform_batch(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        for member in self.members:
            x, y = member.transform_batch(x, y, generator)
        return x, y

    def transform_gradients(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        for member in self.members:
            gradients = member.transform_gradients(gradients, generator)
        return gradients

    def make_private(self, *, module: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Any,
                     epochs: int | None = None, generator: torch.Generator | None = None) -> Private:
        for member in self._with_own_training():
            return member.make_private(  # type: ignore[call-arg]
                module=module, optimizer=optimizer, data_loader=data_loader, epochs=epochs, generator=generator, hooks=self)
        return super().make_private(
            module=module, optimizer=optimizer, data_loader=data_loader, epochs=epochs, generator=generator)
