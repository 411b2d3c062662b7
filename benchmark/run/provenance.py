"""Where and how results were made."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def provenance(command: str, device: torch.device) -> dict[str, Any]:
    """Where and how a run is made: time, command, versions, hardware and the git revision of this code, where there is one."""
    packages = ("torch", "torchvision", "opacus", "numpy", "scikit-image", "pandas")
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": command,
        "python": sys.version.split()[0], "packages": {name: version(name) for name in packages},
        "platform": platform.platform(), **hardware(device), "revision": _revision(),
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """The name of the processor that computes, and the number of CPU threads, on which rounding depends."""
    gpu = device.type == "cuda" and torch.cuda.is_available()
    name = torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine()
    return {"hardware": name, "threads": torch.get_num_threads()}


def _revision() -> str | None:
    """The git revision of this code, where it runs from a checkout."""
    file = Path(__file__).resolve()

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(file.parent), *arguments], capture_output=True, text=True, timeout=10)

    try:
        # An installed copy can lie within a checkout of something else.
        if git("ls-files", "--error-unmatch", file.name).returncode != 0:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40").stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None
