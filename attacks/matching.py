"""The gradient-matching engine: how well candidate images explain the observed gradients, for many victims at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from attacks.base import Observation
from attacks.seeds import VictimNoise, derive
from defenses import Defense, client_loss
from defenses.precode import bottlenecks

#: Draws of bottleneck noise that are made ahead for each victim.
_NOISE_BLOCK = 64
#: Live copies of one victim's gradient in a matching step: the observed and the candidate's one, their products, and the
#: intermediates of differentiating the candidate's gradient once more.
_GRADIENT_COPIES = 6


class GradientMatcher:
    """The objective of gradient matching and its derivative with respect to candidate images.

    The objective of a victim is 1 - cosine similarity between the candidate's and the observed gradient, taken over all
    parameters together, plus ``total_variation`` times the total variation of the normalised images (Geiping et al., 2020,
    eq. 4). The candidate's gradient is that of the client's loss, the defense's regularizer included. A stochastic model
    samples its noise afresh in each evaluation.

    Args:
        observation: the victims.
        labels: [N, B].
        total_variation: weight of the prior, >= 0.
        seed: of the model's sampling, together with the victim's number.
    """

    def __init__(self, observation: Observation, labels: Tensor, *, total_variation: float, seed: int) -> None:
        self._labels = labels
        self._gradients = observation.gradients
        self._total_variation = total_variation
        self._loss = _ClientLoss(observation.module, observation.defense)
        self._parameters = {
            name: p.detach() for name, p in self._loss.named_parameters(prefix="", recurse=True) if p.requires_grad
        }
        self._bottlenecks = bottlenecks(observation.module)
        self._noise = [
            VictimNoise([derive(seed, victim, "bottleneck", i) for victim in observation.victims],
                        (observation.batch_size, layer.size), observation.mean, block=_NOISE_BLOCK)
            for i, layer in enumerate(self._bottlenecks)
        ]
        self._step = vmap(grad_and_value(self._objective))

    def step(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate normalised images [N, B, C, H, W].

        Returns:
            The derivative of each victim's objective, of the images' shape, and the objective [N].
        """
        noise = [stream.draw() for stream in self._noise]
        try:
            derivative, objective = self._step(images, self._labels, self._gradients, noise)
        finally:
            for layer in self._bottlenecks:
                layer.epsilon = None
        return derivative, objective

    def _objective(self, x: Tensor, y: Tensor, observed: dict[str, Tensor], noise: list[Tensor]) -> Tensor:
        for layer, epsilon in zip(self._bottlenecks, noise, strict=True):
            layer.epsilon = epsilon
        candidate = grad(lambda parameters: functional_call(self._loss, parameters, (x, y)))(self._parameters)
        cost = cosine_cost({name.removeprefix("module."): g for name, g in candidate.items()}, observed)
        return cost + self._total_variation * total_variation(x)


class _ClientLoss(nn.Module):
    """The client's mean loss as a module, so that a functional call also covers what the regularizer reads."""

    def __init__(self, module: nn.Module, defense: Defense) -> None:
        super().__init__()
        self.module = module
        self._defense = defense

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return client_loss(self._defense, self.module, x, y).mean()


def cosine_cost(candidate: dict[str, Tensor], observed: dict[str, Tensor]) -> Tensor:
    """1 - <a, b> / (|a| |b|) over all parameters together; 1 where either gradient is zero."""
    product = sum((candidate[name] * observed[name]).sum() for name in observed)
    return 1 - product / (_norm(list(candidate.values())) * _norm(list(observed.values())))


def _norm(tensors: list[Tensor]) -> Tensor:
    # Bounded away from zero, where the root has no derivative; each norm has its own root, as their product can underflow.
    squared = torch.stack([t.square().sum() for t in tensors]).sum()
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours in both directions, of images [..., H, W] (Rudin et al., 1992, anisotropic)."""
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., :, 1:] - x[..., :, :-1]).abs().mean()


def chunks(observation: Observation, budget: int) -> list[Sequence[int]]:
    """Split the victims so that a matching step of each part needs about ``budget`` bytes for gradients, at least one each."""
    per_victim = _GRADIENT_COPIES * sum(g[0].numel() * g.element_size() for g in observation.gradients.values())
    size = max(1, budget // per_victim)
    return [range(start, min(start + size, len(observation))) for start in range(0, len(observation), size)]


def memory_budget(device: torch.device) -> int:
    """Bytes that a matching step may take: half of the device's free memory, 4 GiB on a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return 4 * 2**30
