"""The gradient-matching engine: how well candidate images explain the observed gradients, for many victims at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.general import GeneralStep
from attacks.seeds import VictimNoise, derive
from attacks.structured import SharedLayer, StructuredStep, unformed
from defenses.precode import bottlenecks

log = logging.getLogger("leakboard")

#: Draws of bottleneck noise that are made ahead for each victim.
_NOISE_BLOCK = 64
#: Live copies of one victim's gradient where it is formed: the observed and the candidate's one, their products, and the
#: intermediates of differentiating the candidate's gradient once more.
_COPIES_WHERE_FORMED = 6


class GradientMatcher:
    """The objective of gradient matching and its derivative with respect to candidate images.

    The objective of a victim is 1 - cosine similarity between the candidate's and the observed gradient, taken over all
    parameters together, plus ``total_variation`` times the total variation of the normalised images (Geiping et al., 2020,
    eq. 4). The candidate's gradient is that of the client's loss, the defense's regularizer included. A stochastic model
    samples its noise afresh in each evaluation.

    Models made of known layers are matched without forming the gradients of their linear layers; others by the general step,
    which is told once in the log.

    Args:
        observation: the victims.
        labels: [N, B].
        total_variation: weight of the prior, >= 0.
        seed: of the model's sampling, together with the victim's number.
    """

    def __init__(self, observation: Observation, labels: Tensor, *, total_variation: float, seed: int) -> None:
        self._arguments = (observation, labels, total_variation)
        self._noise = [
            VictimNoise([derive(seed, victim, "bottleneck", i) for victim in observation.victims],
                        (observation.batch_size, layer.size), observation.mean, block=_NOISE_BLOCK)
            for i, layer in enumerate(bottlenecks(observation.module))
        ]
        obstacle = StructuredStep.obstacle(observation)
        self._step: StructuredStep | GeneralStep
        self._step = StructuredStep(*self._arguments) if obstacle is None else self._general(obstacle)
        self._checked = obstacle is not None

    def step(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate normalised images [N, B, C, H, W].

        Returns:
            The derivative of each victim's objective, of the images' shape, and the objective [N].
        """
        noise = [stream.draw() for stream in self._noise]
        if not self._checked:
            self._checked = True
            reason = self._disagreement(images, noise)
            if reason is not None:
                self._step = self._general(reason)
        return self._step(images, noise)

    def _disagreement(self, images: Tensor, noise: list[Tensor]) -> str | None:
        """Compare both steps on the first two victims: what a forward pass does beside its layers (a weight used by a function,
        images not in the first dimension) cannot be seen from the list of layers."""
        observation, labels, weight = self._arguments
        some = observation.select(range(min(2, len(observation))))
        given = images[: len(some)], [n[: len(some)] for n in noise]
        general = GeneralStep(some, labels[: len(some)], weight)(*given)
        try:
            structured = StructuredStep(some, labels[: len(some)], weight)(*given)
        except SharedLayer:
            return "a layer runs more than once in a forward pass"
        derivative, objective = (a - b for a, b in zip(general, structured, strict=True))
        # Rounding in float32 stays two orders of magnitude below; a gradient that is not finite has nothing to compare.
        wrong = (objective.abs() > 1e-3).any() | (derivative.norm() > 1e-2 * general[0].norm())
        return "the model uses its parameters in other ways than its layers do" if bool(wrong) else None

    def _general(self, reason: str) -> GeneralStep:
        if reason not in _told:
            _told.add(reason)
            log.info("gradients are matched by the general step, which is slower: %s", reason)
        return GeneralStep(*self._arguments)


_told: set[str] = set()


def chunks(observation: Observation, budget: int) -> list[Sequence[int]]:
    """Split the victims so that a matching step of each part needs about ``budget`` bytes for gradients, at least one each."""
    size = max(1, budget // bytes_per_victim(observation))
    return [range(start, min(start + size, len(observation))) for start in range(0, len(observation), size)]


def bytes_per_victim(observation: Observation) -> int:
    """What a matching step needs for the gradients of one victim: a single copy of those that are never formed."""
    never_formed = unformed(observation.module) if StructuredStep.obstacle(observation) is None else set()
    return sum(
        g[0].numel() * g.element_size() * (1 if name in never_formed else _COPIES_WHERE_FORMED)
        for name, g in observation.gradients.items())


def memory_budget(device: torch.device) -> int:
    """Bytes that a matching step may take: half of the free memory of a GPU. On a CPU 1 GiB: more victims at once gain nothing
    there, and cost where formed gradients leave the cache (each of 16 victims on a resnet18 takes longer than each of 4)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return 2**30
