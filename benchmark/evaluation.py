"""Observing victims' gradients and measuring what an attack rebuilds from them."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks import Attack, Observation, Progress
from attacks.seeds import derive
from benchmark.config import Evaluation
from benchmark.datasets import Dataset
from benchmark.metrics import compare
from defenses import Private


@dataclass(frozen=True)
class Victims:
    """What the clients keep to themselves: ``pixels`` [N, B, C, H, W] in [0, 1] and ``labels`` [N, B]."""

    images: Tensor
    pixels: np.ndarray
    labels: Tensor


def choose_victims(dataset: Dataset, evaluation: Evaluation, seed: int) -> Victims:
    """Draw training images (clients' private data) without replacement; the same for every model and defense of a seed."""
    count = evaluation.victims * evaluation.batch_size
    generator = torch.Generator().manual_seed(derive(seed, dataset.name, "victims"))
    chosen = torch.randperm(len(dataset.train), generator=generator)[:count].to(dataset.train.labels.device)
    shape = (evaluation.victims, evaluation.batch_size)
    x, y = dataset.train.batch(chosen)
    pixels = dataset.train.pixels(chosen).cpu().numpy()
    return Victims(x.contiguous().unflatten(0, shape), pixels.reshape(*shape, *pixels.shape[1:]), y.unflatten(0, shape))


def observe(private: Private, victims: Victims, dataset: Dataset, evaluation: Evaluation, seed: int) -> Observation:
    """The gradients that the victims share in the current state of the training, by the code that trains.

    The client computes in training mode, but batch-norm layers use their running statistics: a batch of one image has no
    statistics of its own (Geiping et al., 2020, observe in evaluation mode likewise).
    """
    private.module.train()
    with running_statistics(private.module):
        shared = [
            private.shared_gradient(x, y, seed=derive(seed, victim, "client"))
            for victim, (x, y) in enumerate(zip(victims.images, victims.labels, strict=True))
        ]
    return Observation(
        module=copy.deepcopy(private.module).eval(),
        gradients={name: torch.stack([g[name] for g in shared]) for name in shared[0]},
        batch_size=evaluation.batch_size,
        image_shape=dataset.train.image_shape,
        mean=dataset.train.mean,
        std=dataset.train.std,
        labels=victims.labels if evaluation.labels == "known" else None,
        defense=private.defense,
    )


def attack_rows(attack: Attack, observation: Observation, victims: Victims, seed: int, progress: Progress | None = None
                ) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Run an attack and compare what it rebuilds with the originals.

    Returns:
        One row per original image with the columns of ``results.RECONSTRUCTIONS`` from ``attack`` on, and the reconstructions
        [N, B, C, H, W] in the order of the originals they are assigned to, in [0, 1].
    """
    started = time.perf_counter()
    found = attack.reconstruct(observation, seed=seed, progress=progress)
    images, labels, costs = found.images.cpu().numpy(), found.labels.cpu(), found.cost.cpu()
    seconds = (time.perf_counter() - started) / len(observation)
    truth = victims.labels.cpu()
    rows, ordered = [], np.empty_like(images)
    for victim in range(len(observation)):
        for i, match in enumerate(compare(victims.pixels[victim], images[victim])):
            ordered[victim, i] = images[victim, match.position]
            correct = None if observation.labels is not None else bool(labels[victim, match.position] == truth[victim, i])
            rows.append({
                "attack": attack.label, "attack_params": json.dumps(attack.parameters()), "tier": attack.tier,
                "victim": victim, "image": i, "mse": match.mse, "psnr": match.psnr, "ssim": match.ssim,
                "label_correct": correct, "cost": float(costs[victim]), "seconds": seconds,
            })
    return rows, ordered


@contextmanager
def running_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch-norm layers use their running statistics, and put them back into their mode on leaving."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training]
    try:
        for layer in layers:
            layer.eval()
        yield
    finally:
        for layer in layers:
            layer.train()
