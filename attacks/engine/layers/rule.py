"""What each kind of layer contributes to the comparison of two gradients, from its input and its back-propagated error.

For S victims of B images each, a layer's input ``a`` and the error ``delta`` of its output are batched over all S * B images.
The gradient of the loss with respect to the layer's weight is a sum of products of the two, so for a large layer it need not be
formed: its inner product with an observed gradient G is delta^T G a, and its squared norm follows from Gram matrices of size P x P
over the P images and positions (the idea behind ghost clipping, Li et al., ICLR 2022, here for matching), or, where only entries
that a mask leaves count, from products with the mask. Small ones form theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Size, Tensor, nn

from attacks.base import Observation
from attacks.engine.kernels.products import Matrices
from attacks.engine.rows import Rows
from attacks.engine.slots import Held, Slots, as_it_is
from attacks.engine.stored import Dense, Factored, factors
from attacks.objective.comparison import Comparison, explicit


class Observed:
    """What is known of one layer, by its name: its gradients [N, ...] and masks by name ("weight", "bias"), and where to keep them;
    ``distance`` says whether |g - G|^2 is wanted of gradients that are formed."""

    def __init__(self, observation: Observation, prefix: str, names: Sequence[str], masks: Mapping[str, Tensor], slots: Slots, *,
                 distance: bool) -> None:
        self.gradients = {name: observation.shared[prefix + name] for name in names}
        self.masks = {name: masks[prefix + name] for name in names if prefix + name in masks}
        self.slots, self.distance = slots, distance
        self._observation, self._prefix = observation, prefix

    def explicit(self, name: str, arrange: Callable[[Tensor], Tensor] | None = None) -> tuple[Held, Held | None]:
        """The gradients of a parameter, zero where masked, and the masks, held for the slots."""
        gradient, mask = self.gradients[name], self.masks.get(name)
        arrange = as_it_is if arrange is None else arrange
        held = self.slots.hold(gradient, arrange, mask=mask)
        return held, None if mask is None else self.slots.hold(mask, lambda some: arrange(some.to(gradient.dtype)))

    def matrices(self, positions: int, flat: Callable[[Tensor], Tensor] = as_it_is) -> tuple[Matrices, Matrices | None]:
        """The gradients of a weight that sees P positions, made [N, O, I] by ``flat``, and the mask, both stored for products."""
        if "weight" in self.masks:  # what a mask leaves of a matrix of low rank has a high one: no factors are looked for
            mask = flat(self.masks["weight"].bool())
            return Dense(flat(self.gradients["weight"]), self.slots, mask=mask), Dense(mask, self.slots)
        found = self._observation.once(f"{self._prefix}weight", ("factors", positions), lambda g: factors(flat(g), positions))
        return Dense(flat(self.gradients["weight"]), self.slots) if found is None else Factored(found, self.slots), None


class Rule:
    """Compares the gradients of one layer.

    Args:
        layer: the layer.
        observed: what was observed of it.
        a, delta: shapes of its input and output for the B images of one victim.
    """

    #: Replaces the layer's forward pass.
    forward: Callable[[Tensor], Tensor] | None = None

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        raise NotImplementedError

    @staticmethod
    def suits(layer: nn.Module) -> bool:
        """Whether the rule holds for a layer of its kinds, with these settings."""
        return True

    @staticmethod
    def rows(layer: nn.Module, a: Tensor, delta: Tensor) -> dict[str, Rows]:
        """The gradient of each parameter by name, of each image by itself, from input and error batched over images."""
        raise NotImplementedError

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        """From input and error, batched over victims and images, to the comparison of each parameter by name."""
        raise NotImplementedError


_RULES: dict[type[nn.Module], type[Rule]] = {}
_R = TypeVar("_R", bound=type[Rule])


def rule(*kinds: type[nn.Module]) -> Callable[[_R], _R]:
    """Register a rule for kinds of layers."""
    def register(cls: _R) -> _R:
        _RULES.update(dict.fromkeys(kinds, cls))
        return cls

    return register


def rule_of(layer: nn.Module) -> type[Rule] | None:
    """How to compare the gradient of a layer, or None where there is no rule. Subclasses may compute anything: exact types only."""
    found = _RULES.get(type(layer))
    return found if found is not None and found.suits(layer) else None


class Formed:
    """Compares a gradient that was formed."""

    def __init__(self, observed: Observed, name: str) -> None:
        (self._gradient, self._mask), self._distance = observed.explicit(name), observed.distance

    def __call__(self, gradient: Tensor) -> Comparison:
        mask = None if self._mask is None else self._mask.value
        return explicit(gradient, self._gradient.value, mask, distance=self._distance)


def formed(observed: Observed, *names: str) -> dict[str, Formed]:
    """Those of the parameters that were observed, to be compared formed."""
    return {name: Formed(observed, name) for name in names if name in observed.gradients}
