"""Matching steps for any model: the gradient of every victim is formed, by torch.func."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from attacks.base import Observation
from attacks.engine.slots import Slots
from attacks.objective.objectives import Objective, explicit, squared_norms
from attacks.objective.penalties import batch_norms, feature_distance, statistics_distance, watching
from attacks.objective.total_variation import total_variation
from defenses import Defense, client_loss
from defenses.stochastic import sampling, stochastic_layers


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
        self._squared = {name: slots.hold(squares) for name, squares in squared_norms(observation.shared, objective).items()}
        self._masks = {name: slots.hold(objective.masks[name]) for name in self._squared if name in objective.masks}
        self._gradients = {
            name: slots.hold(g * objective.masks[name] if name in objective.masks else g)
            for name, g in observation.shared.items() if name in self._squared
        }
        self._loss = _ClientLoss(observation.module, observation.defense)
        self._parameters = {name: p.detach() for name, p in self._loss.named_parameters() if p.requires_grad}
        self._stochastic = list(stochastic_layers(observation.module).values())
        self._codes = [slots.hold(code) for code in objective.codes]
        self._features = {name: slots.hold(known) for name, known in objective.features.items()}
        self._anchors = None if objective.anchors is None else slots.hold(objective.anchors)
        self._normalised = batch_norms(observation.module) if objective.statistics else {}
        self._watched = {**{name: observation.module.get_submodule(name) for name in objective.features}, **self._normalised}

    def __call__(self, images: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Images [S, B, C, H, W] and the stochastic layers' noise [S, B, K]; the derivative and the objective [S]."""
        step: Callable[..., tuple[Tensor, Tensor]] = vmap(grad_and_value(self._evaluate))
        return step(images, self._labels.value, *self._held(), noise)

    def with_labels(self, images: Tensor, logits: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The same for labels that are probabilities, the softmax of ``logits`` [S, B, classes]: the derivatives by the images and
        by the logits, and the objective."""

        def evaluate(x: Tensor, given: Tensor, *others: Any) -> Tensor:
            return self._evaluate(x, given.softmax(-1), *others)

        (derivative, by_logits), objective = vmap(grad_and_value(evaluate, argnums=(0, 1)))(images, logits, *self._held(), noise)
        return derivative, by_logits, objective

    def _held(self) -> tuple[Any, ...]:
        named = ({name: held.value for name, held in group.items()}
                 for group in (self._gradients, self._masks, self._squared, self._features))
        return (*named, [code.value for code in self._codes], [] if self._anchors is None else [self._anchors.value])

    def _evaluate(self, x: Tensor, y: Tensor, observed: dict[str, Tensor], masks: dict[str, Tensor], squared: dict[str, Tensor],
                  features: dict[str, Tensor], codes: list[Tensor], anchors: list[Tensor],
                  noise: list[Tensor]) -> Tensor:
        objective = self._objective
        with sampling(self._stochastic, noise, codes):
            candidate = grad(lambda parameters: functional_call(self._loss, parameters, (x, y)))(self._parameters)
            if self._watched:
                with watching(self._watched) as entered:
                    functional_call(self._loss, self._parameters, (x, y))
        own = {name: candidate["module." + name][None] for name in observed}
        own.update({name: through(own[name]) for name, through in objective.passes.items() if name in own})
        compared = {
            name: explicit(own[name], g[None], masks[name][None] if name in masks else None, distance=objective.cost == "euclidean")
            for name, g in observed.items()
        }
        cost = objective(compared, {name: value[None] for name, value in squared.items()})
        for name, known in features.items():
            cost = cost + objective.feature_weight * feature_distance(entered[name], known[None])
        if self._normalised:
            layers, values = list(self._normalised.values()), [entered[name] for name in self._normalised]
            cost = cost + objective.statistics * statistics_distance(layers, values, 1)
        if objective.total_variation:
            cost = cost + objective.total_variation * total_variation(x[None])
        for anchor in anchors:
            cost = cost + objective.anchor_weight * (x - anchor).square().mean()
        return (cost + objective.energy * x.square().mean())[0]


class _ClientLoss(nn.Module):
    """The client's mean loss as a module, so that a functional call also covers what the regularizer reads."""

    def __init__(self, module: nn.Module, defense: Defense | None) -> None:
        super().__init__()
        self.module = module
        self._defense = defense

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return client_loss(self._defense, self.module, x, y).mean()
