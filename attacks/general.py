"""Matching steps for any model: the gradient of every victim is formed, by torch.func."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from attacks.base import Observation
from attacks.objectives import Objective, explicit, squared_norms
from attacks.slots import Slots
from attacks.structured import sampling
from attacks.total_variation import total_variation
from defenses import Defense, client_loss
from defenses.precode import bottlenecks


class GeneralStep:
    """An objective and its image derivative, vectorised over the victims.

    Args:
        observation: the victims.
        labels: [N, B].
        objective: of the matching.
        slots: which of the victims are worked on.
    """

    def __init__(self, observation: Observation, labels: Tensor, objective: Objective, slots: Slots) -> None:
        self.slots = slots
        self._objective = objective
        self._labels = slots.hold(labels)
        self._squared = {name: slots.hold(squares) for name, squares in squared_norms(observation.gradients, objective).items()}
        self._masks = {name: slots.hold(objective.masks[name]) for name in self._squared if name in objective.masks}
        self._gradients = {
            name: slots.hold(g * objective.masks[name] if name in objective.masks else g)
            for name, g in observation.gradients.items() if name in self._squared
        }
        self._loss = _ClientLoss(observation.module, observation.defense)
        self._parameters = {name: p.detach() for name, p in self._loss.named_parameters() if p.requires_grad}
        self._bottlenecks = bottlenecks(observation.module)
        self._step: Callable[..., tuple[Tensor, Tensor]] = vmap(grad_and_value(self._evaluate))

    def __call__(self, images: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Images [S, B, C, H, W] and the bottlenecks' noise [S, B, K]; the derivative and the objective [S]."""
        gradients, masks, squared = (
            {name: held.value for name, held in group.items()} for group in (self._gradients, self._masks, self._squared))
        return self._step(images, self._labels.value, gradients, masks, squared, noise)

    def _evaluate(self, x: Tensor, y: Tensor, observed: dict[str, Tensor], masks: dict[str, Tensor], squared: dict[str, Tensor],
                  noise: list[Tensor]) -> Tensor:
        with sampling(self._bottlenecks, noise):
            candidate = grad(lambda parameters: functional_call(self._loss, parameters, (x, y)))(self._parameters)
        compared = {
            name: explicit(candidate["module." + name][None], g[None], masks[name][None] if name in masks else None,
                           distance=self._objective.cost == "euclidean")
            for name, g in observed.items()
        }
        cost = self._objective(compared, {name: value[None] for name, value in squared.items()})
        return (cost + self._objective.total_variation * total_variation(x[None]))[0]


class _ClientLoss(nn.Module):
    """The client's mean loss as a module, so that a functional call also covers what the regularizer reads."""

    def __init__(self, module: nn.Module, defense: Defense) -> None:
        super().__init__()
        self.module = module
        self._defense = defense

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return client_loss(self._defense, self.module, x, y).mean()
