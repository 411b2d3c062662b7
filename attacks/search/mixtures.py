"""Matching gradients that are not of the client's images themselves, but of what a defense is known to have made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.matcher import GradientMatcher
from attacks.engine.slots import Slots
from attacks.objective.objective import Objective, tensors, with_tensors
from attacks.objective.term import ImageTerm
from attacks.reading.mixtures import Mixture


class Seen(NamedTuple):
    """The gradients of one round, and what is minimised for them."""

    observation: Observation
    objective: Objective


class MixtureMatcher:
    """As :class:`attacks.engine.matcher.GradientMatcher`, for candidates that are mixed, flipped or concealed as the client's
    images were. The logits, which are variables beside the images, say how.

    Priors on images hold for the client's images, not for what is made of them.

    Args:
        mixture: what is made of images and labels.
        labels: [N, B] of the client's images, or probabilities [N, B, classes].
        rounds: in each of which the same images were mixed anew; the objective is the mean over them.
        seeds, positions, reloaded: as there.
    """

    def __init__(self, mixture: Mixture, labels: Tensor, rounds: Sequence[Seen], *, seeds: Sequence[int], positions: Sequence[int],
                 reloaded: bool) -> None:
        self._mixture = mixture
        self._slots = Slots(positions, len(labels), reloaded=reloaded)
        self._labels = self._slots.hold(mixture.probabilities(labels))
        self._terms = [term for term in rounds[0].objective.terms if isinstance(term, ImageTerm) and term.weight]
        self._of_terms = [self._slots.hold(tensor) for tensor in tensors(self._terms)]
        self._rounds = []
        for observation, objective in rounds:
            count = mixture.seen
            observation = replace(observation, labels=None, batch_size=count)
            others = tuple(term for term in objective.terms if not isinstance(term, ImageTerm))
            nothing = torch.zeros(len(observation), count, dtype=torch.long, device=observation.device)  # labels that are not read
            self._rounds.append(GradientMatcher(observation, nothing, replace(objective, terms=others), seeds=seeds,
                                                positions=positions, reloaded=reloaded))

    def step_with(self, images: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate variables, images [S, V, C, H, W], and, alone beside them, logits [S, ...].

        Returns:
            The derivatives of each victim's objective by both, and the objective [S].
        """
        (logits,) = others
        given = images.detach().requires_grad_(), logits.detach().requires_grad_()
        with torch.enable_grad():
            seen = [self._mixture.of_round(number, *given, self._labels.value) for number in range(len(self._rounds))]
        objective, outputs, derivatives = images.new_zeros(len(images)), [], []
        for matcher, (mixed, targets) in zip(self._rounds, seen, strict=True):
            by_mixed, by_targets, cost = matcher.step_with(mixed.detach(), [targets.detach()])
            objective = objective + cost / len(self._rounds)
            for output, derivative in ((mixed, by_mixed), (targets, by_targets)):
                if output.requires_grad:
                    outputs.append(output)
                    derivatives.append(derivative / len(self._rounds))
        by_images, by_logits = torch.autograd.grad(outputs, given, derivatives, materialize_grads=True)
        own = self._mixture.natural(images)
        if own is not None:
            by_own = self._mixture.natural(by_images)
            assert by_own is not None
            for term in with_tensors(self._terms, [held.value for held in self._of_terms]):
                if isinstance(term, ImageTerm):
                    objective, changed = term.add_to(objective, by_own, own)
                    by_own.copy_(changed)
        return by_images, by_logits, objective

    def record(self, images: Tensor, others: Sequence[Tensor]) -> None:
        """Record the step of each round; :meth:`keep` ends it."""
        for number, matcher in enumerate(self._rounds):
            mixed, targets = self._mixture.of_round(number, images, others[0], self._labels.value)
            matcher.record(mixed.detach(), [targets.detach()])

    @property
    def recorded(self) -> bool:
        """Whether :meth:`record` was called for the slots that there are."""
        return self._rounds[0].recorded

    def load(self, slot: int, position: int, seed: int) -> None:
        """Give a slot to another victim; no other slot changes."""
        self._slots.load(slot, position)
        for matcher in self._rounds:
            matcher.load(slot, position, seed)

    def keep(self, slots: Sequence[int]) -> None:
        """Go on with some of the slots only."""
        self._slots.keep(slots)
        for matcher in self._rounds:
            matcher.keep(slots)

    def bytes_per_victim(self, image: Tensor) -> int:
        """What a step takes for each victim."""
        seen = image[:, :1].expand(1, self._mixture.seen, *image.shape[2:])
        return self._slots.bytes_per_slot() + sum(matcher.bytes_per_victim(seen) for matcher in self._rounds)

    def step_of_slots(self, images: Tensor, samples: list[Tensor]) -> tuple[Tensor, Tensor]:
        """One step under logits of zero, to be timed."""
        logits = images.new_zeros(len(images), *self._mixture.logit_shape)
        by_images, _, objective = self.step_with(images, [logits])
        return by_images, objective

    def samples_like(self, images: Tensor) -> list[Tensor]:
        """Nothing: the matchers of the rounds draw their own."""
        return []
