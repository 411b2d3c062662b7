"""Mixed precision is of the forward pass and the loss alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Within the context no automatic mixed precision changes types. A backward pass has the types of the forward one as it is, and
    torch's releases differ in what they make of it under autocast; what is done to gradients is done in theirs."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
