"""The updates of clients of one image each, of many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from attacks.base import Observation
from attacks.engine.attention import twice_differentiable
from attacks.engine.general import ClientLoss
from attacks.engine.memory import saved_bytes
from attacks.engine.rows import FormedRows, Rows
from attacks.engine.updates import mean_gradient
from attacks.objective.comparison import total
from defenses import Clipped
from defenses.stochastic import sampling


class PerUpdate:
    """Simulates the local steps of a client on each of many images, all steps on the one image that it has. As
    :class:`attacks.engine.per_image.PerImage` is for gradients.

    Args:
        observation: has the model, the loss of its defense, and what is known of the steps; what was shared is not looked at.
        clip: what was done to the gradient of each step, if anything.
    """

    def __init__(self, observation: Observation, clip: Clipped | None = None) -> None:
        self._observation, self._clip = observation, clip
        self._stochastic = list(observation.stochastic.values())
        self._loss = ClientLoss(observation.module, observation.defense)
        self._weights = {name: p.detach() for name, p in self._loss.named_parameters() if p.requires_grad}

    def __call__(self, images: Tensor, labels: Tensor, samples: Sequence[Tensor] | None = None) -> dict[str, Rows]:
        """The updates in units of a gradient, by parameter name.

        Args:
            images: [K, C, H, W], normalised.
            labels: [K].
            samples: of each stochastic layer, [K, *shape], the same in all steps; None for their means.
        """
        local = self._observation.local

        def update(x: Tensor, y: Tensor, given: list[Tensor]) -> dict[str, Tensor]:
            def of_step(weights: dict[str, Tensor], _: slice) -> dict[str, Tensor]:
                with sampling(self._stochastic, None if samples is None else given):
                    found: dict[str, Tensor] = grad(lambda own: functional_call(self._loss, own, (x, y)))(weights)
                return found if self._clip is None else _clipped(found, self._clip)

            return mean_gradient(of_step, self._weights, [slice(0, 1)] * local.steps, local.step_size)

        with torch.no_grad(), twice_differentiable():
            found = vmap(update)(images[:, None], labels[:, None], [own[:, None] for own in samples or ()])
        return {name: FormedRows(found[f"module.{name}"].flatten(1)) for name in self._observation.shared}

    def bytes_per_image(self) -> int:
        """What a call takes for each image."""
        image = self._observation.mean.new_zeros(1, *self._observation.image_shape)
        label = torch.zeros(1, dtype=torch.long, device=image.device)
        with sampling(self._stochastic):
            kept = saved_bytes(lambda: self._loss(image, label), shared=self._observation.module.parameters())
        # The mean, the weights and the gradient of a step, and what is made on the way from one to the next.
        return 3 * kept + 5 * sum(g[0].numel() * g.element_size() for g in self._observation.shared.values())


def _clipped(gradient: Mapping[str, Tensor], clip: Clipped) -> dict[str, Tensor]:
    factor = clip.factor(total([gradient[f"module.{name}"].square().sum() for name in clip.names]))
    return {name: factor * g for name, g in gradient.items()}
