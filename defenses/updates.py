"""Defenses on the update of a client, where nothing of its batches is at hand: the training is over, and only weights are seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from defenses.base import Defense
from defenses.client import released
from defenses.step import Gradients, State, Step

#: The hooks that act while the client trains.
_IN_TRAINING = ("extend_model", "regularizer", "sample_batches", "transform_batch", "batch_gradient", "account")


def shared_update(defense: Defense, module: nn.Module, update: Gradients, *, generator: torch.Generator, state: State | None = None,
                  round_: int = 0) -> Gradients:
    """What leaves a client of its update: the defense's gradient hook, on the path of every shared gradient, on what the weights
    lost in a round for each unit of step size. After one plain step that is the gradient of the batch.

    Args:
        defense: with hooks for gradients alone, which read no batch; where it sums over clients, this one applies its share.
        module: the shared model at the beginning of the round, which is left as it was.
        update: (w0 - wT) / (step size * steps) of every trainable parameter by name.
        generator: source of the client's randomness, on the device of the module.
        state: what the client keeps, changed in place for the next round; None for what it begins with.
        round_: rounds of this client before.

    Returns:
        Parameter name to what is shared, in the units of ``update``.

    Raises:
        ValueError: the defense acts while the client trains, or reads the batch behind a gradient.
    """
    hooks = [hook for hook in _IN_TRAINING
             if any(getattr(type(part), hook) is not getattr(Defense, hook) for part in defense.parts)]
    if hooks:
        raise _refusal(defense, f"acts while a client trains ({', '.join(hooks)})")
    if defense.summed > 1:
        defense = defense.shared_among(defense.summed, 1)
    kept = (defense.initial_state(module) or {}) if state is None else state
    return released(defense, update, _UpdateStep(defense, module, generator, kept, round_))


class _UpdateStep(Step):
    """A step of which there is no batch. It has to be missing, not empty: a hook that reads it would act on what is not there."""

    def __init__(self, defense: Defense, module: nn.Module, generator: torch.Generator, state: State, round_: int) -> None:
        # The class is frozen, as every step is.
        self.__dict__.update(_defense=defense, module=module, generator=generator, state=state, round=round_)

    def __getattr__(self, name: str) -> Any:
        if name in ("batch", "batch_size", "losses"):
            raise _refusal(self._defense, "reads the batch behind a gradient")
        raise AttributeError(name)

    def of_member(self, name: str) -> _UpdateStep:
        return _UpdateStep(self._defense, self.module, self.generator, self.state[name], self.round)


def _refusal(defense: Defense, what: str) -> ValueError:
    return ValueError(f"{defense.label} {what} and cannot act on an update alone; train with its make_private in the client's own "
                      "loop")
