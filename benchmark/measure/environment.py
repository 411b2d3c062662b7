"""With what results are computed: versions and hardware."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch


def versions() -> dict[str, str]:
    """Versions on which results depend."""
    return {"leakboard": version("leakboard"), "torch": str(torch.__version__), "opacus": version("opacus")}


def hardware(device: torch.device) -> dict[str, Any]:
    """The name of the processor that computes, and the number of CPU threads, on which rounding depends."""
    gpu = device.type == "cuda" and torch.cuda.is_available()
    name = torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine()
    return {"hardware": name, "threads": torch.get_num_threads()}
