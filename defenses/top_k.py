"""Top-k sparsification with error feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Defense
from defenses.release import Kept, OwnLikelihood, Release, Unknown
from defenses.step import Facts, Gradients, State, Step
from defenses.support import checks
from defenses.support.smallest import without_smallest


@dataclass(frozen=True)
class TopK(Defense):
    share: float = 0.001

    name: ClassVar[str] = "top-k"
    summary: ClassVar[str] = "the largest entries of gradient and memory are shared, and the rest is remembered"
    paper: ClassVar[str] = "Stich et al., NeurIPS 2018"

    def initial_state(self, module: nn.Module) -> State | None:
        return {"memory": {name: torch.zeros_like(p) for name, p in module.named_parameters() if p.requires_grad}}

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        memory, sent = step.state["memory"], {}
        for name, g in gradients.items():
            due = g + memory[name]
            sent[name] = self._largest(due)
            memory[name] = due - sent[name]
        return sent

    def _hidden(self, entries: int) -> int:
        return entries - max(1, math.ceil(self.share * entries - 1e-9))

    def _largest(self, due):
        hidden = self._hidden(due.numel())
        return without_smallest(due.flatten(), hidden).view_as(due) if hidden else due
