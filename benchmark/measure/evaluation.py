"""Observing victims' gradients and measuring what an attack rebuilds from them."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks import Attack, Observation, Progress, Reconstruction, Round
from attacks.score import score
from benchmark.config import Evaluation
from benchmark.data.datasets import Dataset
from benchmark.measure import clock
from benchmark.measure.metrics import compare
from benchmark.measure.perceptual import Perceptual
from benchmark.measure.precision import autocast
from benchmark.measure.victims import Victims
from defenses import Private
from defenses.support.seeds import derive


def observe(private: Private, victims: Victims, dataset: Dataset, evaluation: Evaluation, seed: int, *,
            precision: str = "float32", in_memory: bool = True) -> Observation:
    """The gradients that the victims share in the current state of the training, by the code that trains, in its precision, as an
    informed attacker observes them.

    The client computes in training mode, but batch-norm layers use their running statistics: a batch of one image has no
    statistics of its own (Geiping et al., 2020, observe in evaluation mode likewise). Every victim begins with what the client of
    the training keeps at that time.

    Args:
        private: the protected training.
        victims: whose gradients are observed.
        dataset: where they are from.
        evaluation: how.
        seed: of the clients' randomness, together with the number of each victim and round.
        precision: of the clients' step.
        in_memory: whether rounds after the first are kept in memory, or in files that are gone with the observation.
    """
    private.module.train()
    module = copy.deepcopy(private.module).eval()
    rounds = []
    with running_statistics(private.module), autocast(victims.labels.device, precision):
        for number in range(evaluation.rounds):
            shared: dict[str, Tensor] = {}
            for place, victim in enumerate(victims.numbers):
                key = (victim, "client", number) if number else (victim, "client")
                own = private.shared_gradient(victims.images(place), victims.labels[place], seed=derive(seed, *key))
                for name, g in own.items():
                    if name not in shared:
                        shape = (len(victims), *g.shape)
                        shared[name] = g.new_empty(shape) if in_memory or not number else mapped(shape, g.dtype)
                    shared[name][place] = g
            rounds.append(Round(private.round, module, shared))
    return Observation(
        module=module,
        shared=dict(rounds[0].shared),
        batch_size=victims.batch_size,
        image_shape=dataset.train.image_shape,
        mean=dataset.train.mean,
        std=dataset.train.std,
        labels=victims.labels if evaluation.labels == "known" else None,
        defense=private.in_force,
        victims=victims.numbers,
        rounds=tuple(rounds),
        local=private.local,
    )


def mapped(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An empty tensor on the CPU that lies in a file without a name, which is read and written as its parts are used."""
    with tempfile.NamedTemporaryFile(prefix="leakboard-") as file:
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype).view(shape)


def attackers(observation: Observation, knowledge: Sequence[str], *, differ: bool) -> dict[str, Observation]:
    """What attackers observe, by what they know of the defense; ``both`` where blind and informed ones are asked for, and do not
    ``differ``.

    Args:
        observation: as an informed attacker has it.
        knowledge: what attackers know, ``blind`` and ``informed``.
        differ: whether the two compute something else.
    """
    if len(set(knowledge)) == 2 and not differ:
        return {"both": observation}
    return {kind: observation if kind == "informed" else observation.blind() for kind in knowledge}


@dataclass(frozen=True)
class Rebuilt:
    """What an attack, run blind and informed, rebuilt.

    Attributes:
        rows: one per original image and knowledge, with the columns of ``tables.RECONSTRUCTIONS`` from ``attack`` on.
        images: by knowledge the reconstructions [N, B, C, H, W] in the order of the originals they are assigned to, in [0, 1].
        obstacles: by knowledge why the attack does not apply.
    """

    rows: list[dict[str, Any]]
    images: dict[str, np.ndarray]
    obstacles: dict[str, str]


def rebuild(attack: Attack, observation: Observation, victims: Victims, seed: int, knowledge: Sequence[str] = ("blind", "informed"),
            progress: Progress | None = None, perceptual: Perceptual | None = None) -> Rebuilt:
    """Run an attack and compare what it rebuilds with the originals.

    Args:
        attack: which.
        observation: as an informed attacker has it.
        victims: the originals.
        seed: of the attack; the same for a blind and an informed attacker.
        knowledge: what attackers know, see :func:`attackers`.
        progress: told of the iterations done.
        perceptual: by which they are compared too.
    """
    kinds = attackers(observation, knowledge, differ=attack.informed_by(observation))
    rebuilt = Rebuilt([], {}, {})
    done = 0

    def tell(step: int, total: int) -> None:
        if progress is not None:
            progress(done * total + step, len(kinds) * total)

    for kind, known in kinds.items():
        obstacle = attack.obstacle(known)
        if obstacle is not None:
            rebuilt.obstacles.update(dict.fromkeys(knowledge if kind == "both" else [kind], obstacle))
            continue
        started = clock.now(observation.device)
        found = attack.reconstruct(known, seed=seed, progress=tell)
        seconds = clock.now(observation.device) - started
        scores = {"score": _scores(observation, found, seed),
                  "blind_score": None if kind == "informed" else _scores(observation.blind(), found, seed)}
        rows, rebuilt.images[kind] = _compared(found, observation, victims, perceptual)
        rebuilt.rows.extend({
            "attack": attack.label, "attack_params": json.dumps(attack.parameters()), "knowledge": kind,
            **row, "victim": victims.numbers[row["victim"]],
            **{name: None if values is None else values[row["victim"]] for name, values in scores.items()},
            "seconds": seconds / len(observation)} for row in rows)
        done += 1
    return rebuilt


def _scores(observation: Observation, found: Reconstruction, seed: int) -> list[float]:
    mean, std = observation.mean.view(-1, 1, 1), observation.std.view(-1, 1, 1)
    scores: list[float] = score(observation, (found.images - mean) / std, found.labels, seed).tolist()
    return scores


def _compared(found: Reconstruction, observation: Observation, victims: Victims, perceptual: Perceptual | None
              ) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A row per original image, and the reconstructions in the order of the originals."""
    images, costs = found.images.cpu().numpy(), found.cost.cpu().tolist()
    rights = [labels_right(labels, truth) for labels, truth in zip(found.labels.tolist(), victims.labels.tolist(), strict=True)]
    rows, ordered = [], np.empty_like(images)
    originals = victims.pixels.astype(np.float32) / np.float32(255)
    for victim, matches in enumerate(map(compare, originals, images)):
        for i, match in enumerate(matches):
            ordered[victim, i] = images[victim, match.position]
            rows.append({
                "victim": victim, "image": i, "mse": match.mse, "psnr": match.psnr, "ssim": match.ssim,
                "cost": costs[victim], "label_correct": None if observation.labels is not None else rights[victim][i],
                **({} if perceptual is None else {"lpips": perceptual.distance(originals[victim, i], ordered[victim, i])}),
            })
    return rows, ordered


def labels_right(inferred: list[int], truth: list[int]) -> list[bool]:
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
