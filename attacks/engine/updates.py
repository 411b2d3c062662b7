"""Matching steps for the updates of clients that take several local steps: simulated, or by the gradient at one point between the
weights that were sent and those that came back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from attacks.base import Observation
from attacks.engine.general import COPIES, GeneralStep
from attacks.engine.slots import Slots
from attacks.objective.objective import Objective


def mean_gradient(gradient: Callable[[dict[str, Tensor], slice], dict[str, Tensor]], weights: dict[str, Tensor],
                  batches: Sequence[slice], step_size: float) -> dict[str, Tensor]:
    """The mean of the gradients g_t of local steps w_(t+1) = w_t - step size * g_t, which is what a client shares in units of a
    gradient (:class:`defenses.LocalSteps`); it can be differentiated through all of them.

    Args:
        gradient: from weights and a batch, places of some images, to a gradient.
        weights: that were sent.
        batches: of each step.
        step_size: of the steps.
    """
    mean: dict[str, Tensor] = {}
    for batch in batches:
        own = gradient(weights, batch)
        mean = {name: g / len(batches) + (mean[name] if mean else 0) for name, g in own.items()}
        weights = {name: w - step_size * own[name] for name, w in weights.items()}
    return mean


class UnrolledStep(GeneralStep):
    """The update of a client that takes its local steps on the candidates, differentiated through all of them (Dimitrov et al.,
    TMLR 2022).

    Under stochastic layers an image has one sample in all its steps, where at the client it has one in each.

    Args:
        batches: of each step, as slices of the candidates; None for all of them in each step.
    """

    def __init__(self, observation: Observation, labels: Tensor, objective: Objective, slots: Slots, *,
                 batches: Sequence[slice] | None = None) -> None:
        super().__init__(observation, labels, objective, slots)
        self._step_size = observation.local.step_size
        self._batches = [slice(0, labels.shape[1])] * observation.local.steps if batches is None else list(batches)

    def kept_bytes(self, image: Tensor, samples: list[Tensor]) -> int:
        # Each step keeps its activations, its gradient and the weights that it began with.
        share = sum(batch.stop - batch.start for batch in self._batches) / image.shape[1]
        held = self.slots.bytes_per_slot()
        return int((COPIES * len(self._batches) - 1) * held + COPIES * share * self._saved_bytes(image))

    def _gradient(self, weights: dict[str, Tensor], x: Tensor, y: Tensor, samples: Sequence[Tensor],
                  errors: Sequence[Tensor]) -> dict[str, Tensor]:
        def of_step(weights: dict[str, Tensor], batch: slice) -> dict[str, Tensor]:
            some = ([own[batch] for own in group] for group in (samples, errors))
            return super(UnrolledStep, self)._gradient(weights, x[batch], y[batch], *some)

        return mean_gradient(of_step, weights, self._batches, self._step_size)


class SurrogateStep(GeneralStep):
    """The gradient at w_0 + alpha (w_T - w_0) (Zhu et al., ICML 2023). The first of what else is variable is
    ``resolution * alpha``, [S, 1]; where nothing is, alpha is one half.

    Args:
        resolution: what alpha is multiplied by.
    """

    def __init__(self, observation: Observation, labels: Tensor, objective: Objective, slots: Slots, *, resolution: float = 1.0
                 ) -> None:
        super().__init__(observation, labels, objective, slots)
        self._distance, self._resolution = observation.local.steps * observation.local.step_size, resolution

    def _logits_and_samples(self, others: Sequence[Tensor], samples: list[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
        return super()._logits_and_samples(others[1:], samples)

    def _weights(self, variable: list[Tensor], observed: dict[str, Tensor]) -> dict[str, Tensor]:
        alpha = variable[0][0] / self._resolution if variable else 0.5
        # The shared update is (w_0 - w_T) / distance; of layers that are not compared w_0 is taken.
        moved = {f"module.{name}": alpha * self._distance * update for name, update in observed.items()}
        return {name: w - moved[name] if name in moved else w for name, w in self._parameters.items()}
