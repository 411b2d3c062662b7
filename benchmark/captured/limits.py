"""How much files from outside may take of the memory."""

from __future__ import annotations

import torch

from benchmark.errors import InputError
from benchmark.measure.victim_memory import allowed


def require_fits(what: str, size: int, device: torch.device) -> None:
    """Raise InputError where something of so many bytes would take more than a quarter of the memory that is free; the text begins
    with ``what``, in the plural."""
    if size > (most := allowed(device)):
        raise InputError(f"{what} take {size / 2**30:.1f} GiB, of {most / 2**30:.1f} GiB that they may take here")
