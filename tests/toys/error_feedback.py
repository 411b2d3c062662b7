"""A defense with state: what pruning leaves out is added to the next gradient (error feedback; Karimireddy et al., ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from defenses import Defense


@dataclass(frozen=True)
class ErrorFeedback(Defense):
    """Keep the largest entries of gradient and error, and what is left as the error of the next step."""

    name: ClassVar[str] = "error-feedback"
    summary: ClassVar[str] = "pruning whose error is fed back"
    paper: ClassVar[str] = "Karimireddy et al., ICML 2019"

    share: float = 0.5

    def initial_state(self, module):
        return {"error": {name: torch.zeros_like(p) for name, p in module.named_parameters() if p.requires_grad}}

    def transform_gradients(self, gradients, step):
        sent = {}
        for name, g in gradients.items():
            due = g + step.state["error"][name]
            kept = due.flatten().abs().topk(max(1, int(self.share * due.numel()))).indices
            sent[name] = torch.zeros_like(due.flatten()).scatter(0, kept, due.flatten()[kept]).view_as(due)
            step.state["error"][name] = due - sent[name]
        return sent
