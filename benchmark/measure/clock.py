"""The time that a device takes."""

from __future__ import annotations

import time

import torch


def now(device: torch.device) -> float:
    """Seconds of a clock of this process, once the device has done all that it was asked for: a GPU works on long after the calls
    that ask have returned, and what comes next would be charged for it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
