"""Labels as probabilities of the classes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from defenses.support.last_linear import last_linear


def class_count(module: nn.Module) -> int:
    """How many classes a model tells apart.

    Raises:
        ValueError: it does not end in a linear layer.
    """
    return last_linear(module)[1].out_features


def probabilities(targets: Tensor, module: nn.Module, like: Tensor) -> Tensor:
    """Targets of a batch, class indices [B] or probabilities [B, classes], as probabilities in the type of ``like``."""
    return targets if targets.dim() == 2 else F.one_hot(targets, class_count(module)).to(like.dtype)
