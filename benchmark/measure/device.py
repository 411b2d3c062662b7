"""Choosing the device, and settings that make results repeatable on it."""

from __future__ import annotations

import torch

from benchmark.errors import InputError


def choose(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one. Float32 arithmetic is set to full precision (no TF32) and
    cuDNN to deterministic algorithms.

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
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return device
