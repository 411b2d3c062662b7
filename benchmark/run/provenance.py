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

from benchmark.measure.environment import hardware


def provenance(command: str, device: torch.device) -> dict[str, Any]:
    """Where and how a run is made: time, command, versions, hardware and the git revision of this code, where there is one."""
    packages = ("torch", "torchvision", "opacus", "numpy", "scikit-image", "pandas")
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": command,
        "python": sys.version.split()[0], "packages": {name: version(name) for name in packages},
        "platform": platform.platform(), **hardware(device), "revision": _revision(),
    }


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
