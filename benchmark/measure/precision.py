"""The precision in which models are trained."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute matrix products and convolutions in a precision; weights, gradients and the optimizer stay in float32.

    Args:
        device: where.
        precision: ``float32``, or ``bfloat16`` for automatic mixed precision (Micikevicius et al., ICLR 2018).
    """
    return nullcontext() if precision == "float32" else torch.autocast(device.type, dtype=torch.bfloat16)
