"""Matching steps for any model: the gradient of every victim is formed, by torch.func."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from attacks.base import Observation
from attacks.objectives import cosine_cost, total_variation
from defenses import Defense, client_loss
from defenses.precode import bottlenecks


class GeneralStep:
    """The objective of cosine matching and its image derivative, vectorised over the victims.

    Args:
        observation: the victims.
        labels: [N, B].
        weight_of_variation: of the prior.
    """

    def __init__(self, observation: Observation, labels: Tensor, weight_of_variation: float) -> None:
        self._labels = labels
        self._gradients = observation.gradients
        self._weight = weight_of_variation
        self._loss = _ClientLoss(observation.module, observation.defense)
        self._parameters = {name: p.detach() for name, p in self._loss.named_parameters() if p.requires_grad}
        self._bottlenecks = bottlenecks(observation.module)
        self._step = vmap(grad_and_value(self._objective))

    def __call__(self, images: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Images [N, B, C, H, W] and the bottlenecks' noise [N, B, K]; the derivative and the objective [N]."""
        try:
            return self._step(images, self._labels, self._gradients, noise)
        finally:
            for layer in self._bottlenecks:
                layer.epsilon = None

    def _objective(self, x: Tensor, y: Tensor, observed: dict[str, Tensor], noise: list[Tensor]) -> Tensor:
        for layer, epsilon in zip(self._bottlenecks, noise, strict=True):
            layer.epsilon = epsilon
        candidate = grad(lambda parameters: functional_call(self._loss, parameters, (x, y)))(self._parameters)
        cost = cosine_cost({name.removeprefix("module."): g for name, g in candidate.items()}, observed)
        return cost + self._weight * total_variation(x[None])[0]


class _ClientLoss(nn.Module):
    """The client's mean loss as a module, so that a functional call also covers what the regularizer reads."""

    def __init__(self, module: nn.Module, defense: Defense) -> None:
        super().__init__()
        self.module = module
        self._defense = defense

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return client_loss(self._defense, self.module, x, y).mean()
