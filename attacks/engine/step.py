"""What matching steps have in common: the tensors of the victims in the slots, and the terms beside the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from attacks.base import Observation
from attacks.engine.slots import Slots
from attacks.objective.objective import Objective, squared_norms, tensors, with_tensors
from attacks.objective.term import ImageTerm, LayerTerm, Term
from defenses import Defense, client_loss


def image_losses(defense: Defense | None, module: nn.Module, x: Tensor, labels: Tensor, errors: Sequence[Tensor]) -> Tensor:
    """Of images [B, C, H, W] the client's losses [B]; under known errors [B, *output], of which there is one tensor or none, what
    has the same derivatives."""
    return (module(x) * errors[0]).flatten(1).sum(1) if errors else client_loss(defense, module, x, labels)


class MatchingStep:
    """An objective and its derivatives.

    Args:
        observation: the victims.
        labels: [N, B].
        objective: of the matching.
        slots: which of the victims are worked on.
    """

    def __init__(self, observation: Observation, labels: Tensor, objective: Objective, slots: Slots) -> None:
        self.slots = slots
        self._module, self._defense, self._objective = observation.module, observation.defense, objective
        self._labels = slots.hold(labels)
        self._squared = {name: slots.hold(_squares(observation, name, objective.masks.get(name)))
                         for name in observation.shared if objective.weight(name) > 0}
        self._stochastic = list(observation.stochastic.values())
        self._codes = [slots.hold(code) for code in objective.codes]
        self._errors = [] if objective.errors is None else [slots.hold(objective.errors)]
        self._terms = [term for term in objective.terms if term.weight]
        self._of_terms = [slots.hold(tensor) for tensor in tensors(self._terms)]
        of_layers = [term.layers(observation.module) if isinstance(term, LayerTerm) else {} for term in self._terms]
        self._read = {name: layer for layers in of_layers for name, layer in layers.items()}

    def __call__(self, images: Tensor, samples: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Images [S, B, C, H, W] and the stochastic layers' samples [S, B, *shape]; the derivative and the objective [S]."""
        (derivative,), objective = self._derivatives(images, [], samples)
        return self._with_priors(images, derivative, objective)

    def with_others(self, images: Tensor, others: list[Tensor], samples: list[Tensor]) -> tuple[Tensor, ...]:
        """The same where more is variable: labels that are probabilities, the softmax of logits [S, B, classes], where they are
        there, and then the samples of all layers, where the objective has a prior for them. The derivatives by the images and by
        each of the others, and the objective."""
        (derivative, *by_others), objective = self._derivatives(images, others, samples)
        derivative, objective = self._with_priors(images, derivative, objective)
        return derivative, *by_others, objective

    def kept_bytes(self, image: Tensor, samples: list[Tensor]) -> int:
        """What a step takes for one victim beside what the slots hold, for a candidate [1, B, C, H, W]."""
        raise NotImplementedError

    def _derivatives(self, images: Tensor, others: list[Tensor], samples: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """The derivatives by the images and by the others, and the objective, without terms of images."""
        raise NotImplementedError

    def _logits_and_samples(self, others: Sequence[Tensor], samples: list[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
        """Of what is variable the logits, or None, and the samples, or those that are given."""
        count = len(others) - (len(self._stochastic) if self._objective.sample_prior is not None and others else 0)
        return others[0] if count else None, list(others[count:]) or samples

    def _with_sample_prior(self, objective: Tensor, samples: Sequence[Tensor]) -> Tensor:
        """Add how improbable samples [N, B, *shape] are, where they are variables."""
        if self._objective.sample_prior:
            for layer, own in zip(self._stochastic, samples, strict=True):
                objective = objective + self._objective.sample_prior * layer.improbability(own)
        return objective

    def _with_distances(self, objective: Tensor, terms: tuple[Term, ...], entered: Mapping[str, Tensor]) -> Tensor:
        """Add the terms that read what entered layers."""
        for term in terms:
            if isinstance(term, LayerTerm):
                objective = objective + term.weight * term.distance(self._module, entered, len(objective))
        return objective

    def _with_priors(self, images: Tensor, derivative: Tensor, objective: Tensor) -> tuple[Tensor, Tensor]:
        """Add the terms that read the images."""
        for term in self._terms_held():
            if isinstance(term, ImageTerm):
                objective, derivative = term.add_to(objective, derivative, images)
        return derivative, objective

    def _terms_held(self) -> tuple[Term, ...]:
        return with_tensors(self._terms, [held.value for held in self._of_terms])


def _squares(observation: Observation, name: str, mask: Tensor | None) -> Tensor:
    if mask is None:
        return observation.once(name, "squared norms", lambda gradient: squared_norms(gradient, None))
    return squared_norms(observation.shared[name], mask)
