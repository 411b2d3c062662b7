"""Matching steps for any model: the gradient of every victim is formed, by torch.func."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from attacks.base import Observation
from attacks.engine.attention import twice_differentiable
from attacks.engine.memory import saved_bytes
from attacks.engine.slots import Slots
from attacks.engine.step import MatchingStep, image_losses
from attacks.objective.comparison import explicit
from attacks.objective.objective import Objective, with_tensors
from defenses import Defense
from defenses.stochastic import samples_of_codes, sampling
from defenses.support.watching import watching

#: Live copies of what the step keeps for a victim: gradients, activations, and their derivatives.
COPIES = 6


class GeneralStep(MatchingStep):
    """An objective and its image derivative, vectorised over the victims."""

    def __init__(self, observation: Observation, labels: Tensor, objective: Objective, slots: Slots) -> None:
        super().__init__(observation, labels, objective, slots)
        masks = objective.masks
        self._masks = {name: slots.hold(masks[name]) for name in self._squared if name in masks}
        self._gradients = {name: slots.hold(g, mask=masks.get(name))
                           for name, g in observation.shared.items() if name in self._squared}
        self._loss = ClientLoss(observation.module, observation.defense)
        self._parameters = {name: p.detach() for name, p in self._loss.named_parameters() if p.requires_grad}

    def kept_bytes(self, image: Tensor, samples: list[Tensor]) -> int:
        return (COPIES - 1) * self.slots.bytes_per_slot() + COPIES * self._saved_bytes(image)

    def _saved_bytes(self, image: Tensor) -> int:
        """What a forward pass keeps for a candidate [1, B, C, H, W]."""
        # Passes through torch.func cannot be looked into.
        x = image.detach().clone().flatten(0, 1).requires_grad_()
        with sampling(self._stochastic), twice_differentiable():
            return saved_bytes(lambda: image_losses(self._defense, self._module, x, self._labels.value[0],
                                                    [errors.value[0] for errors in self._errors]),
                               shared=self._module.parameters())

    def _derivatives(self, images: Tensor, others: list[Tensor], samples: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        def evaluate(x: Tensor, variable: list[Tensor], labels: Tensor, given: list[Tensor], *held: Any) -> Tensor:
            logits, own = self._logits_and_samples(variable, given)
            return self._evaluate(x, labels if logits is None else logits.softmax(-1), own, variable, *held)

        named = ({name: held.value for name, held in group.items()} for group in (self._gradients, self._masks, self._squared))
        held = (*named, [code.value for code in self._codes], [errors.value for errors in self._errors],
                [tensor.value for tensor in self._of_terms])
        step = vmap(grad_and_value(evaluate, argnums=(0, 1)))
        with twice_differentiable():
            (derivative, by_others), objective = step(images, others, self._labels.value, samples, *held)
        return (derivative, *by_others), objective

    def _evaluate(self, x: Tensor, y: Tensor, samples: list[Tensor], variable: list[Tensor], observed: dict[str, Tensor],
                  masks: dict[str, Tensor], squared: dict[str, Tensor], codes: list[Tensor], errors: list[Tensor],
                  of_terms: list[Tensor]) -> Tensor:
        entered: dict[str, Tensor] = {}
        weights = self._weights(variable, observed)
        if codes:
            samples = samples_of_codes(self._stochastic, codes, lambda: functional_call(self._loss, weights, (x, y, *errors)))
        candidate = self._gradient(weights, x, y, samples, errors)
        if self._read:
            with sampling(self._stochastic, samples), watching(self._read) as entered:
                functional_call(self._loss, weights, (x, y, *errors))
        own = {name: candidate["module." + name][None] for name in observed}
        own.update({name: through(own[name]) for name, through in self._objective.passes.items() if name in own})
        compared = {
            name: explicit(own[name], g[None], masks[name][None] if name in masks else None, distance=self._objective.cost.distance)
            for name, g in observed.items()
        }
        for name, judge in self._objective.judges.items():
            if name in compared:
                compared[name] = compared[name]._replace(surprise=judge(own[name], observed[name][None]))
        cost = self._objective(compared, {name: squares[None] for name, squares in squared.items()})
        terms = with_tensors(self._terms, [tensor[None] for tensor in of_terms])
        cost = self._with_distances(cost, terms, entered)
        return self._with_sample_prior(cost, [own[None] for own in samples])[0]

    def _weights(self, variable: list[Tensor], observed: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights at which candidates' gradients are taken, from what else is variable and what was observed of a victim."""
        return self._parameters

    def _gradient(self, weights: dict[str, Tensor], x: Tensor, y: Tensor, samples: Sequence[Tensor],
                  errors: Sequence[Tensor]) -> dict[str, Tensor]:
        """What a client with candidates [B, C, H, W] would share, by the names of :class:`ClientLoss`."""
        with sampling(self._stochastic, samples):
            found: dict[str, Tensor] = grad(lambda own: functional_call(self._loss, own, (x, y, *errors)))(weights)
        return found


class ClientLoss(nn.Module):
    """The client's mean loss, or what stands for it under known errors, as a module, so that a functional call also covers what the
    regularizer reads."""

    def __init__(self, module: nn.Module, defense: Defense | None) -> None:
        super().__init__()
        self.module = module
        self._defense = defense

    def forward(self, x: Tensor, y: Tensor, *errors: Tensor) -> Tensor:
        return image_losses(self._defense, self.module, x, y, errors).mean()
