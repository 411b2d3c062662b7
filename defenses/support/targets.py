"""Labels as probabilities of the classes."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn import functional as F

from defenses.support.last_linear import last_linear

#: Of models that are in use, how many classes they tell apart: finding the last layer copies the model.
_CLASSES: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def class_count(module: nn.Module) -> int:
    """How many classes a model tells apart.

    Raises:
        ValueError: it does not end in a linear layer.
    """
    if module not in _CLASSES:
        _CLASSES[module] = last_linear(module)[1].out_features
    return _CLASSES[module]


def probabilities(targets: Tensor, module: nn.Module, like: Tensor) -> Tensor:
    """Targets of a batch, class indices [B] or probabilities [B, classes], as probabilities in the type of ``like``."""
    return targets if targets.dim() == 2 else F.one_hot(targets, class_count(module)).to(like.dtype)
