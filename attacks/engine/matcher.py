"""The gradient-matching engine: how well candidate images explain the observed gradients, for many victims at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.general import GeneralStep
from attacks.engine.recorded import Step, recorded_or_plain
from attacks.engine.replayed import replayed_or_plain
from attacks.engine.slots import Slots
from attacks.engine.step import MatchingStep
from attacks.engine.structured import StructuredStep
from attacks.engine.tracing import Unsuitable
from attacks.engine.updates import UnrolledStep
from attacks.objective.objective import Objective
from defenses.support.seeds import VictimNoise, derive
from defenses.support.upload import upload

log = logging.getLogger("leakboard")

#: Makes a step from the observation, the labels, the objective and the slots.
StepKind = Callable[[Observation, Tensor, Objective, Slots], MatchingStep]

#: Draws of a stochastic layer's noise that are made ahead for each victim.
_NOISE_BLOCK = 64


class GradientMatcher:
    """An objective of gradient matching and its derivative with respect to candidate images.

    The candidate's gradient is that of the client's loss, the regularizer of a known defense included. A stochastic model samples
    afresh in each evaluation, unless codes are replayed, or samples are variables too. Models made of known layers are matched
    without forming the gradients of their large layers; others by the general step, which is told once in the log. Updates of
    several local steps are matched by simulating as many steps on all candidates of a victim, which no order of images changes.

    Args:
        observation: the victims.
        labels: [N, B].
        objective: of the matching.
        seeds: of the model's sampling, one for each slot.
        positions: the victim of each slot, by its position in the observation; by default all, one slot each.
        reloaded: whether :meth:`load` is called, for which the gradients in the slots are copied.
        kind: what makes the step, where it is another.

    Raises:
        ValueError: the objective names layers or masks that the observation does not have.
    """

    def __init__(self, observation: Observation, labels: Tensor, objective: Objective, *, seeds: Sequence[int],
                 positions: Sequence[int] | None = None, reloaded: bool = False, kind: StepKind | None = None) -> None:
        objective.check(observation.shared)
        self._arguments = (observation, labels, objective)
        self._positions, self._reloaded = range(len(observation)) if positions is None else positions, reloaded
        sampled = not objective.codes and objective.sample_prior is None
        self._noise = sample_noise(observation, seeds, block=_NOISE_BLOCK) if sampled else []
        self.step_of_slots: MatchingStep
        self._taken: Step | None = None
        self._checked = True
        if kind is not None or observation.local:
            self.step_of_slots = (UnrolledStep if kind is None else kind)(*self._arguments, self._slots())
            return
        try:
            self.step_of_slots = StructuredStep(*self._arguments, self._slots())
            self._checked = False
        except Unsuitable as reason:
            self.step_of_slots = self._general(str(reason))

    def step(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate normalised images [S, B, C, H, W].

        Returns:
            The derivative of each victim's objective, of the images' shape, and the objective [S].
        """
        samples = self._draw()
        self._check(images, samples)
        derivative, objective = (self.step_of_slots if self._taken is None else self._taken)(images, samples)
        return derivative, objective

    def step_with(self, images: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Evaluate normalised images where more is variable than these: first, or not at all, the labels, which are then
        probabilities, the softmax of logits [S, B, classes]; then, where the objective has a prior for them, the samples of all
        stochastic layers, [S, B, *shape] each.

        Returns:
            The derivatives of each victim's objective by the images and by each of the others, and the objective [S].
        """
        samples = self._draw()
        searched = self._arguments[2].sample_prior is not None
        self._check(images, list(others[len(others) - len(self._arguments[0].stochastic):]) if searched else samples)
        return (self.step_of_slots.with_others if self._taken is None else self._taken)(images, list(others), samples)

    def _draw(self) -> list[Tensor]:
        """The model's samples for the next evaluation, where it samples."""
        return self._arguments[0].samples_of([stream.draw() for stream in self._noise]) if self._noise else []

    def _check(self, images: Tensor, samples: list[Tensor]) -> None:
        """Before the first evaluation, compare both steps."""
        if not self._checked:
            self._checked = True
            reason = self._disagreement(images, samples)
            if reason is not None:
                del self.step_of_slots  # before the other takes its memory
                self.step_of_slots = self._general(reason)

    def record(self, images: Tensor, others: Sequence[Tensor] = ()) -> None:
        """Record the step on the GPU, with what else is variable, for as many slots as there are; :meth:`keep` ends it."""
        samples = self._drawn_like(images)
        if not others:
            self._taken = recorded_or_plain(self.step_of_slots, images, samples)
        else:
            self._taken = recorded_or_plain(self.step_of_slots.with_others, images, list(others), samples)

    @property
    def recorded(self) -> bool:
        """Whether :meth:`record` was called for the slots that there are."""
        return self._taken is not None

    def replay(self, images: Tensor) -> None:
        """Replay the step for as many slots as there are, without a change of any bit; :meth:`keep` ends it."""
        self._taken = replayed_or_plain(self.step_of_slots, images, self._drawn_like(images))

    def load(self, slot: int, position: int, seed: int) -> None:
        """Give a slot to another victim, whose sampling begins; no other slot changes."""
        self.step_of_slots.slots.load(slot, position)
        for i, stream in enumerate(self._noise):
            stream.restart(slot, derive(seed, "bottleneck", i))

    def keep(self, slots: Sequence[int]) -> None:
        """Go on with some of the slots only."""
        self._taken = None
        self.step_of_slots.slots.keep(slots)
        for stream in self._noise:
            stream.keep(slots)

    def bytes_per_victim(self, image: Tensor) -> int:
        """What a step takes for each victim: the gradients held for it, and what autograd keeps for a candidate [1, B, C, H, W]."""
        return self.step_of_slots.slots.bytes_per_slot() + self.step_of_slots.kept_bytes(image, self.samples_like(image))

    def samples_like(self, images: Tensor) -> list[Tensor]:
        """Samples of the stochastic layers for images [S, B, C, H, W] that are drawn from no victim's stream, but made of zeros;
        none where codes are replayed."""
        observation, _, objective = self._arguments
        shapes = [] if objective.codes else observation.sample_shapes
        return observation.samples_of([images.new_zeros(*images.shape[:2], *shape) for shape in shapes]) if shapes else []

    def _drawn_like(self, images: Tensor) -> list[Tensor]:
        """The same where the model samples."""
        return self.samples_like(images) if self._noise else []

    def _slots(self) -> Slots:
        return Slots(self._positions, len(self._arguments[0]), reloaded=self._reloaded)

    def _disagreement(self, images: Tensor, samples: list[Tensor]) -> str | None:
        """Compare both steps on the first two victims: what a forward pass does beside its layers (a weight used by a function,
        images not in the first dimension) cannot be seen from the list of layers."""
        observation, labels, objective = self._arguments
        places = self._positions[:2]
        some = observation.select(places)
        index = upload(list(places), labels.device)
        objective = objective.select(places).well_conditioned()
        given = images[: len(some)], [own[: len(some)] for own in samples]
        steps = (kind(some, labels[index], objective, Slots(range(len(some)), len(some), reloaded=False))
                 for kind in (GeneralStep, StructuredStep))
        (expected, expected_cost), (derivative, cost) = (step(*given) for step in steps)
        # Rounding in float32 stays two orders of magnitude below; a gradient that is not finite has nothing to compare.
        wrong = (cost - expected_cost).abs() > 1e-3 * (1 + expected_cost.abs())
        # At the original itself derivatives are rounding alone.
        told = (torch.maximum(cost, expected_cost) > 1e-5).view(-1, *[1] * (expected.dim() - 1))
        wrong_derivative = ((derivative - expected) * told).norm() > 1e-2 * (expected * told).norm()
        return "the model uses its parameters in other ways than its layers do" if bool(wrong.any() | wrong_derivative) else None

    def _general(self, reason: str) -> GeneralStep:
        if reason not in _told:
            _told.add(reason)
            log.info("gradients are matched by the general step, which is slower: %s", reason)
        return GeneralStep(*self._arguments, self._slots())


def sample_noise(observation: Observation, seeds: Sequence[int], *, block: int = 1) -> list[VictimNoise]:
    """Standard normal noise for what the stochastic layers sample, of one victim a seed."""
    return [VictimNoise([derive(seed, "bottleneck", i) for seed in seeds], (observation.batch_size, *shape), observation.mean,
                        block=block) for i, shape in enumerate(observation.sample_shapes)]


_told: set[str] = set()
