"""Captured gradients of a small model, as files, for the tests of what is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import defenses
from defenses.client import ONE_GRADIENT
from defenses.private import simulated_gradient

MEAN, STD, CLASSES = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3], 4

NET = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(4 * 4 * 4, 4))
"""


def net() -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return namespace["build"]()


def write_images(folder: Path, names: list[str], seed: int = 0, shape: tuple[int, ...] = (8, 8, 3)) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    images = [generator.integers(0, 256, shape, dtype=np.uint8) for _ in names]
    for name, pixels in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return images


def normalised(pixels: np.ndarray) -> torch.Tensor:
    return ((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))


def write(folder: Path, module: nn.Module, batches: list[tuple[list[np.ndarray], list[int]]], *, defense: str = "none", rounds: int = 1,
          single: bool = False, local: defenses.LocalSteps = ONE_GRADIENT, **changed: str | None) -> None:
    """``observation.safetensors``, ``weights.safetensors`` and ``net.py``: what clients share of batches (images, labels), with some
    of the metadata changed, or left out (None)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(NET)
    defense_ = defenses.create(defense)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = defense_.extend_model(module)
    tensors: dict[str, torch.Tensor] = {}
    for number in range(rounds):
        shared = [simulated_gradient(defense_, module, torch.stack([normalised(pixels) for pixels in images]), torch.tensor(labels),
                                     seed=100 * number + place, local=local) for place, (images, labels) in enumerate(batches)]
        prefix = f"round{number}/" if number else ""
        tensors |= {prefix + name: shared[0][name] if single else torch.stack([of[name] for of in shared]) for name in shared[0]}
    metadata: dict[str, str | None] = {
        "format": "leakboard-observation/1", "batch_size": str(len(batches[0][1])), "image_shape": "[3, 8, 8]",
        "labels": json.dumps(batches[0][1] if single else [labels for _, labels in batches]), "mean": json.dumps(MEAN),
        "std": json.dumps(STD), "victims": None if single else str(len(batches)), "rounds": str(rounds), **changed}
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "observation.safetensors",
              metadata={key: value for key, value in metadata.items() if value is not None})
    save_file(module.state_dict(), folder / "weights.safetensors")


def rewrite(path: Path, change: Any = None, **metadata: str | None) -> None:
    """Write a safetensors file anew, with its tensors changed in place and some metadata changed or left out (None)."""
    with safe_open(path, framework="pt") as file:
        tensors, texts = {name: file.get_tensor(name) for name in file.keys()}, {**(file.metadata() or {}), **metadata}  # noqa: SIM118
    if change is not None:
        change(tensors)
    save_file(tensors, path, metadata={key: value for key, value in texts.items() if value is not None})


def command(name: str, folder: Path, *more: str) -> list[str]:
    """The arguments of ``identify`` or ``attack`` for the files of a folder."""
    places = ["--candidates", str(folder / "candidates")] if name == "identify" else ["--out", str(folder / "rebuilt")]
    return [name, str(folder / "observation.safetensors"), "--model", f"{folder / 'net.py'}:build", "--weights",
            str(folder / "weights.safetensors"), *places, "--device", "cpu", *more]
