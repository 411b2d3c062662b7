"""Rebuilding images from a captured gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attacks import Attack, Observation, Progress, create_all
from attacks.score import score
from benchmark.captured.limits import require_fits
from benchmark.errors import InputError, shortened


@dataclass(frozen=True)
class Rebuilt:
    """What was rebuilt of a victim.

    Attributes:
        images: [B, C, H, W], pixels in [0, 1].
        labels: [B], as given or inferred.
        cost: what the attack minimised.
        score: :func:`attacks.score.score`, by which the attack was chosen where there are several; lower is likelier.
        attack: its label.
    """

    images: np.ndarray
    labels: list[int]
    cost: float
    score: float
    attack: str


def applicable(specification: str, observation: Observation) -> list[Attack]:
    """An attack, or those of a portfolio (see :func:`attacks.create_all`) that apply.

    Raises:
        InputError: it does not apply, or none of them, or the images would not fit the memory, or cannot be written as PNG.
        SpecificationError: there is no such attack.
    """
    chosen = create_all(specification)
    if (channels := observation.image_shape[0]) not in (1, 3):
        raise InputError(f"images of {channels} channels are no pictures; 1 or 3 can be written as PNG")
    size = 4 * len(observation) * observation.batch_size * math.prod(observation.image_shape)
    require_fits("the images behind the gradients", size, observation.device)
    obstacles = {attack: obstacle for attack in chosen if (obstacle := attack.obstacle(observation)) is not None}
    able = [attack for attack in chosen if attack not in obstacles]
    if not able:
        attack, obstacle = next(iter(obstacles.items()))
        raise InputError(f"{attack.label} does not apply: {obstacle}")
    return able


def rebuild(observation: Observation, attacks: list[Attack], *, seed: int = 0, progress: Progress | None = None) -> list[Rebuilt]:
    """Of each victim the likeliest reconstruction of some attacks.

    Args:
        observation: of a blind or an informed attacker.
        attacks: which all apply.
        seed: of the attacks.
        progress: told of the iterations done.
    """
    mean, std = observation.mean.view(-1, 1, 1), observation.std.view(-1, 1, 1)
    best: dict[int, Rebuilt] = {}
    for number, attack in enumerate(attacks):
        def tell(done: int, of: int, before: int = number) -> None:
            if progress is not None:
                progress(before * of + done, len(attacks) * of)

        found = attack.reconstruct(observation, seed=seed, progress=tell)
        scores = score(observation, (found.images - mean) / std, found.labels, seed)
        images = torch.nan_to_num(found.images).cpu().numpy()
        for victim, values in enumerate(zip(images, found.labels.tolist(), found.cost.tolist(), scores.tolist(), strict=True)):
            if victim not in best or values[-1] < best[victim].score:
                best[victim] = Rebuilt(*values, attack.label)
    return [best[victim] for victim in range(len(observation))]


def prepare(out: Path) -> None:
    """Make the folder, before an attack takes its time.

    Raises:
        InputError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error


def write(rebuilt: list[Rebuilt], out: Path) -> str:
    """Write the images of each victim as ``victim-V-image-I.png``, and say what they are.

    Raises:
        InputError: a file cannot be written.
    """
    lines = []
    for victim, of_victim in enumerate(rebuilt):
        for place, image in enumerate(of_victim.images):
            pixels = np.rint(255 * image).astype(np.uint8)
            path = out / f"victim-{victim}-image-{place}.png"
            try:
                Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)
            except OSError as error:
                raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        lines.append(f"victim {victim}: {of_victim.attack}, cost {of_victim.cost:.4g}, score {of_victim.score:.4g}, "
                     f"labels {shortened(of_victim.labels)}")
    return "\n".join(lines)
