"""Observing victims' gradients and measuring what an attack rebuilds from them."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks import Attack, Observation, Progress, Reconstruction
from attacks.seeds import derive
from attacks.upload import upload
from benchmark.config import Evaluation
from benchmark.datasets import Dataset
from benchmark.metrics import compare
from benchmark.precision import autocast
from benchmark.results import ORACLE
from defenses import Private


@dataclass(frozen=True)
class Victims:
    """What the clients keep to themselves: normalised ``images`` [N, B, C, H, W], their ``pixels`` in [0, 1] and ``labels`` [N, B];
    ``numbers`` names the N victims."""

    images: Tensor
    pixels: np.ndarray
    labels: Tensor
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, first: int, count: int) -> Victims:
        """Some victims in a row."""
        some = slice(first, first + count)
        return Victims(self.images[some], self.pixels[some], self.labels[some], self.numbers[some])


def choose_victims(dataset: Dataset, evaluation: Evaluation, seed: int) -> Victims:
    """Draw training images (clients' private data) without replacement; the same for every model and defense of a seed."""
    count = evaluation.victims * evaluation.batch_size
    generator = torch.Generator().manual_seed(derive(seed, dataset.name, "victims"))
    chosen = upload(torch.randperm(len(dataset.train), generator=generator)[:count], dataset.train.labels.device)
    shape = (evaluation.victims, evaluation.batch_size)
    x, y = dataset.train.batch(chosen)
    pixels = dataset.train.pixels(chosen).cpu().numpy()
    return Victims(x.contiguous().unflatten(0, shape), pixels.reshape(*shape, *pixels.shape[1:]), y.unflatten(0, shape),
                   tuple(range(evaluation.victims)))


def observe(private: Private, victims: Victims, dataset: Dataset, evaluation: Evaluation, seed: int, *,
            precision: str = "float32") -> Observation:
    """The gradients that the victims share in the current state of the training, by the code that trains, in its precision.

    The client computes in training mode, but batch-norm layers use their running statistics: a batch of one image has no
    statistics of its own (Geiping et al., 2020, observe in evaluation mode likewise).
    """
    private.module.train()
    rounds = evaluation.rounds
    gradients: dict[str, Tensor] = {}
    averaged: dict[str, Tensor] = {}
    with running_statistics(private.module), autocast(victims.labels.device, precision):
        for place, number in enumerate(victims.numbers):
            x, y = victims.images[place], victims.labels[place]
            for name, g in private.shared_gradient(x, y, seed=derive(seed, number, "client")).items():
                gradients.setdefault(name, g.new_empty(len(victims), *g.shape))[place] = g
                if rounds > 1:
                    averaged.setdefault(name, g.new_empty(len(victims), *g.shape))[place] = g / rounds
            for again in range(1, rounds):
                for name, g in private.shared_gradient(x, y, seed=derive(seed, number, "client", again)).items():
                    averaged[name][place] += g / rounds
    return Observation(
        module=copy.deepcopy(private.module).eval(),
        gradients=gradients,
        batch_size=evaluation.batch_size,
        image_shape=dataset.train.image_shape,
        mean=dataset.train.mean,
        std=dataset.train.std,
        labels=victims.labels if evaluation.labels == "known" else None,
        defense=private.defense,
        victims=victims.numbers,
        rounds=rounds,
        averaged=averaged or None,
    )


def attack_rows(attack: Attack, observation: Observation, victims: Victims, seed: int, progress: Progress | None = None
                ) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Run an attack and compare what it rebuilds with the originals. An attack that chooses among others is followed by each of
    these, and by its oracle bound: of each victim the candidate with the highest mean SSIM, which no attacker can know.

    Returns:
        One row per original image with the columns of ``results.RECONSTRUCTIONS`` from ``attack`` on, where ``victim`` is the
        place in the observation, and by the name in that column the reconstructions [N, B, C, H, W] in the order of the originals
        they are assigned to, in [0, 1].
    """
    started = time.perf_counter()
    found = attack.reconstruct(observation, seed=seed, progress=progress)
    seconds = time.perf_counter() - started
    rows, images = _compared(attack, found, observation, victims, seconds)
    ordered = {attack.label: images}
    candidates = found.candidates
    if candidates is None:
        return rows, ordered
    labels = [member.label for member in candidates.attacks]
    winners, scores = candidates.scores.argmin(0).tolist(), candidates.scores.tolist()
    rows = [{**row, "won_by": labels[winners[row["victim"]]]} for row in rows]
    compared = [_compared(member, of_member, observation, victims, of_time)
                for member, of_member, of_time in zip(candidates.attacks, candidates.found, candidates.seconds, strict=True)]
    bound = f"oracle of {attack.label}"
    best = []
    for victim in range(len(observation)):
        own = [[row for row in of_member if row["victim"] == victim] for of_member, _ in compared]
        best.append(max(range(len(own)), key=lambda k, own=own: sum(row["ssim"] for row in own[k])))  # type: ignore[misc]
        rows += [{**row, "attack": bound, "attack_params": json.dumps(attack.parameters()), "tier": ORACLE,
                  "won_by": labels[best[-1]], "label_correct": None, "seconds": seconds / len(observation),
                  "cost": scores[best[-1]][victim]} for row in own[best[-1]]]
    ordered[bound] = np.stack([compared[place][1][victim] for victim, place in enumerate(best)])
    for label, (of_member, images) in zip(labels, compared, strict=True):
        rows += of_member
        ordered[label] = images
    return rows, ordered


def _compared(attack: Attack, found: Reconstruction, observation: Observation, victims: Victims, seconds: float
              ) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A row per original image, and the reconstructions in the order of the originals."""
    images, costs = found.images.cpu().numpy(), found.cost.cpu().tolist()
    rights = [_labels_right(labels, truth) for labels, truth in zip(found.labels.tolist(), victims.labels.tolist(), strict=True)]
    common = {"attack": attack.label, "attack_params": json.dumps(attack.parameters()), "tier": attack.tier, "won_by": None,
              "seconds": seconds / len(observation)}
    rows, ordered = [], np.empty_like(images)
    for victim, matches in enumerate(map(compare, victims.pixels, images)):
        for i, match in enumerate(matches):
            ordered[victim, i] = images[victim, match.position]
            rows.append({
                **common, "victim": victim, "image": i, "mse": match.mse, "psnr": match.psnr, "ssim": match.ssim,
                "cost": costs[victim], "label_correct": None if observation.labels is not None else rights[victim][i],
            })
    return rows, ordered


def _labels_right(inferred: list[int], truth: list[int]) -> list[bool]:
    """Of each label behind a gradient, whether it is among the inferred ones as often as it comes up; their order means nothing."""
    left = Counter(inferred)
    rights = []
    for label in truth:
        rights.append(left[label] > 0)
        left[label] -= 1
    return rights


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
