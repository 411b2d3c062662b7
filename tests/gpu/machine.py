"""On what was measured, and what is missing there."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gpu.checks import there

#: Packages by what needs them; torch is all that the rest needs.
NEEDED = {
    "numpy": "training by the benchmark's own loader, the whole command",
    "opacus": "DP-SGD",
    "torchvision": "resnet18, transformations of images",
    "ray": "two cells on one GPU",
    "pydantic": "the whole command", "yaml": "the whole command", "typer": "the whole command", "pandas": "the whole command",
    "pyarrow": "the whole command", "safetensors": "the whole command", "skimage": "the whole command", "scipy": "the whole command",
    "joblib": "the whole command", "psutil": "the whole command", "platformdirs": "the whole command", "rich": "the whole command",
    "PIL": "the whole command", "filelock": "the whole command", "jinja2": "the whole command", "seaborn": "the whole command",
    "itables": "the whole command",
}
#: What ``python -m benchmark.cli run`` imports.
WHOLE_COMMAND = (*(name for name, what in NEEDED.items() if "the whole command" in what), "opacus", "torchvision")
_DISTRIBUTIONS = {"yaml": "pyyaml", "skimage": "scikit-image", "PIL": "pillow"}


def missing() -> dict[str, str]:
    """By package that is not there, what is skipped without it."""
    return {name: what for name, what in NEEDED.items() if not there(name)}


def versions() -> dict[str, str | None]:
    """Of packages, None where they are missing."""
    found: dict[str, str | None] = {"torch": str(torch.__version__)}
    for name in NEEDED:
        try:
            found[name] = version(_DISTRIBUTIONS.get(name, name)) if there(name) else None
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def facts(device: torch.device) -> dict[str, Any]:
    """Hardware and what drives it."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform(), "processor": _processor(),
                             "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
                             "threads": torch.get_num_threads()}
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {**found, "gpu": properties.name, "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count, "memory_bytes": total, "free_bytes": free,
            "gpus": torch.cuda.device_count(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": _driver()}


def _driver() -> str:
    try:
        said = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True,
                              timeout=20, check=True)
        return said.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
