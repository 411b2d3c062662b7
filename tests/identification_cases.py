"""Observations with candidates for the tests of identification, and the gradients of these by autograd."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from attack_cases import observation_of

from attacks import Observation
from attacks.identification import Candidates
from defenses import Defense, client_loss


@dataclass(frozen=True)
class Case:
    """An observation as an informed attacker has it, candidates of the class of each victim, and the place [N] of the true one."""

    observation: Observation
    candidates: Candidates
    true: torch.Tensor

    def ranks(self, scores: torch.Tensor) -> torch.Tensor:
        """How many others are scored no worse than the true one, [N]."""
        return (scores <= scores.gather(1, self.true[:, None])).sum(1) - 1


def case_of(defense: str | Defense, model: str = "lenet", *, victims: int = 3, size: int = 6, public: int | None = None,
            labels_known: bool = True, **options) -> Case:
    """Random images. Each victim's pool has ``size`` places, in an order of its own; for more images a gradient there are public
    ones."""
    observation, x = observation_of(defense, model, victims=victims, **options)
    public = (0 if observation.batch_size == 1 else 40) if public is None else public
    generator = torch.Generator().manual_seed(7)

    def images(count: int) -> torch.Tensor:
        return torch.randn(count, 2, 8, 8, generator=generator).clamp(-2, 2).to(x)

    labels = observation.labels[:, 0]
    pools = torch.cat([torch.arange(victims)[:, None], victims + torch.arange(victims * (size - 1)).view(victims, -1)], 1)
    order = torch.stack([torch.randperm(size, generator=generator) for _ in range(victims)])
    candidates = Candidates(
        torch.cat([x[:, 0], images(victims * (size - 1))]), torch.cat([labels, labels.repeat_interleave(size - 1)]), pools.gather(1, order),
        images(public) if public else None, torch.randint(5, (public,), generator=generator) if public else None)
    return Case(observation if labels_known else replace(observation, labels=None), candidates, order.argmin(1))


def gradient_of(observation: Observation, image: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of the client's loss on an image, by autograd, in float64."""
    parameters = {name: p for name, p in observation.module.named_parameters() if p.requires_grad}
    loss = client_loss(observation.defense, observation.module, image[None], label[None]).sum()
    return {name: g.double() for name, g in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True)}
