"""How many victims' gradients a device holds at once."""

from __future__ import annotations

import psutil
import torch
from torch import nn

from attacks.engine import memory
from attacks.engine.slots import even
from benchmark.config import Evaluation

#: Of the memory that there is, the share that observed gradients may take, and the images of candidates; attacks need the rest for
#: what they derive from them.
_SHARE = 4


class Chunks:
    """Of a cell's victims, how many are observed and attacked at once: all, unless their gradients would take more than a quarter
    of the memory that is there (:func:`available`). What becomes of a victim does not depend on it, but for rounding (see
    :mod:`attacks.engine.slots`).

    Args:
        module: the model that is observed.
        evaluation: how.
        checkpoints: at how many states of the training.

    Attributes:
        victims: how many at once.
        keep: whether the gradients of all checkpoints fit beside each other.
        rounds_in_memory: whether those of all rounds do.
        note: what to tell the user of it; "" where all are taken at once.
    """

    def __init__(self, module: nn.Module, evaluation: Evaluation, *, checkpoints: int) -> None:
        weights = [p for p in module.parameters() if p.requires_grad]
        each = sum(p.numel() * p.element_size() for p in weights) * (2 if evaluation.rounds > 1 else 1)
        self._device = weights[0].device
        most = allowed(self._device)
        self.victims = evaluation.victims if each * evaluation.victims <= most else max(1, even(most // each))
        self.rounds_in_memory = evaluation.rounds == 1 or each * self.victims * evaluation.rounds <= most
        self.keep = each * evaluation.victims * evaluation.rounds * checkpoints <= most
        self.note = "" if self.victims == evaluation.victims else (
            f"the gradients of {evaluation.victims} victims take {each * evaluation.victims / 2**30:.1f} GiB; "
            f"{self.victims} victims are attacked at once")

    def narrow(self, victims: int) -> None:
        """Go on with fewer at once, where memory was missing."""
        if victims < self.victims:
            self.victims, self.keep = victims, False


def allowed(device: torch.device) -> int:
    """Bytes that observed gradients, or the images of candidates, may take."""
    return available(device) // _SHARE


def available(device: torch.device) -> int:
    """Bytes of a GPU that this process may use, whatever it holds of them; of a CPU's memory those that are free, or would be if
    caches were emptied."""
    if device.type == "cuda":
        return memory.size(device)
    return int(psutil.virtual_memory().available)
