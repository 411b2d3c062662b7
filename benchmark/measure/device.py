"""Choosing the device, and settings that make results repeatable on it."""

from __future__ import annotations

import os

import torch

from benchmark.errors import InputError


def choose(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one. Float32 arithmetic is set to full precision (no TF32), and a
    GPU to deterministic algorithms wherever torch has any.

    Returns:
        The device, a GPU with its number; it is made the current one of this thread.

    Raises:
        InputError: it is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:NUMBER") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported; expected auto, cpu, cuda or cuda:NUMBER")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"device {name!r} was asked for, but torch {torch.__version__} finds no CUDA device; use --device cpu")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise InputError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices")
        # Numbered, as torch's settings of a device ask for it; current, since pinned memory, for one, is the current device's.
        device = torch.device("cuda", device.index or 0)
        _deterministic()
        torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return device


def _deterministic() -> None:
    """Have the same computation on a GPU give the same numbers, as far as torch has deterministic algorithms; it warns of others.
    On a CPU it does so anyway, for one number of threads."""
    # Read when cuBLAS starts: without workspaces of its own a stream may get any, and sums in another order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # It is for finding bugs, and fills every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
