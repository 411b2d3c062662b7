"""What a client computes: a step, and an update of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.step import Batch, Gradients, State, Step
from defenses.support import checks
from defenses.support.precision import without_autocast

if TYPE_CHECKING:
    from defenses.base import Defense


@dataclass(frozen=True)
class LocalSteps:
    """How a client comes to what it shares: one gradient (FedSGD), or several steps of plain SGD from the weights that it was sent
    (FedAvg, McMahan et al., AISTATS 2017, algorithm 1).

    The update w_0 - w_T is shared in units of a gradient, as (w_0 - w_T) / (T * step size): the mean of the gradients of its T
    steps. A plain server step of T * step size along the mean over clients is then the mean of their weights.

    Args:
        steps: T, >= 1.
        step_size: of these, > 0; of no account where T is 1.
        batch_size: images in each step, >= 1; None for all that the client has.
    """

    steps: int = 1
    step_size: float = 0.1
    batch_size: int | None = None

    def __post_init__(self) -> None:
        checks.whole("steps", self.steps, at_least=1)
        checks.number("step_size", self.step_size, above=0)
        if self.batch_size is not None:
            checks.whole("batch_size", self.batch_size, at_least=1)

    def __bool__(self) -> bool:
        """Whether what is shared is no gradient."""
        return self.steps > 1

    def images_behind(self, images: int) -> int:
        """How many of a client's images are behind what it shares."""
        return min(images, self.steps * (self.batch_size or images))

    def batches(self, x: Tensor, y: Tensor, generator: torch.Generator) -> list[Batch]:
        """The batch of each step: each image once in every local epoch, in the given order in the first, in random orders later.

        Args:
            x: images [K, C, H, W].
            y: class indices [K], or probabilities of the classes [K, classes].
            generator: of the orders, on the CPU.
        """
        size = min(self.batch_size or len(x), len(x))
        if self.steps == 1:
            return [Batch(x[:size], y[:size])]
        found: list[Batch] = []
        while len(found) < self.steps:
            if found:
                order = torch.randperm(len(x), generator=generator, device="cpu").to(x.device)
                found += [Batch(x[part], y[part]) for part in order.split(size)]
            else:
                found += [Batch(*parts) for parts in zip(x.split(size), y.split(size), strict=True)]
        return found[: self.steps]


#: A client that shares one gradient of all its images.
ONE_GRADIENT = LocalSteps()


def client_step(defense: Defense, module: nn.Module, batch: Batch, batch_size: float, generator: torch.Generator, state: State,
                round_: int, *, at: str = "gradient") -> tuple[Gradients, Tensor]:
    """The client step that trains and that leaks: the shared gradient, and the mean loss before the defense changes it; ``at`` is
    that of :class:`defenses.Step`."""
    step = _begun(defense, module, batch, batch_size, generator, state, round_, at)
    batch = defense.transform_batch(batch, step)
    step = replace(step, batch=batch)
    made = defense.batch_gradient(batch, step)
    gradients, loss = step.gradient_and_loss(batch) if made is None else made
    return released(defense, gradients, step), loss


def client_update(defense: Defense, module: nn.Module, batches: Sequence[Batch], local: LocalSteps, batch_size: float,
                  generator: torch.Generator, state: State, round_: int) -> tuple[Gradients, Tensor]:
    """What leaves a client after a step on each of some batches, see :class:`LocalSteps`, and the mean loss of these.

    Each step is defended as it is where the client shares a gradient, but for what the defense does to the update instead (its
    ``acts``). The weights are as before afterwards; buffers, as the running statistics of batch norm, have moved on. A batch
    without images, as a Poisson sample can be, has no loss.
    """
    if not local:
        return client_step(defense, module, batches[0], batch_size, generator, state, round_)
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    sent = {name: p.detach().clone() for name, p in parameters.items()}
    mean = {name: torch.zeros_like(p) for name, p in parameters.items()}
    losses: list[Tensor] = []
    try:
        for batch in batches:
            gradients, of_step = client_step(defense, module, batch, batch_size, generator, state, round_, at="step")
            losses += [of_step] * bool(len(batch.images))
            with torch.no_grad():
                for name, p in parameters.items():
                    mean[name] += gradients[name] / len(batches)
                    p.sub_(local.step_size * gradients[name])
    finally:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(sent[name])
    whole = Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    step = _begun(defense, module, whole, batch_size, generator, state, round_, "update")
    loss = torch.stack(losses).mean() if losses else next(iter(mean.values())).new_zeros(())
    return released(defense, mean, step), loss


def released(defense: Defense, gradients: Gradients, step: Step) -> Gradients:
    """What leaves the client of a gradient, or what a local step goes along, of every trainable parameter by name."""
    if step.concerns(defense.acts):
        with without_autocast(next(iter(gradients.values())).device):
            gradients = defense.transform_gradients(gradients, step)
    return {name: _in_layout_of(p, gradients[name]) for name, p in step.module.named_parameters() if p.requires_grad}


def client_loss(defense: Defense | None, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample plus the defense's regularizer, shape [B]: the loss that every client minimises. Without a
    defense it is the cross-entropy alone.

    Args:
        defense: or None.
        module: the model.
        x: images [B, C, H, W].
        y: class indices [B], or probabilities of the classes [B, classes].
    """
    losses = F.cross_entropy(module(x), y, reduction="none")
    return losses if defense is None else losses + defense.regularizer(module)


def _begun(defense: Defense, module: nn.Module, batch: Batch, batch_size: float, generator: torch.Generator, state: State,
           round_: int, at: str) -> Step:
    def losses(batch: Batch, replaced: nn.Module | None = None) -> Tensor:
        return client_loss(defense, module if replaced is None else replaced, *batch)

    return Step(module, batch, batch_size, generator, state, round_, losses, at)


def _in_layout_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter. Convolutions of channels-last images yield channels-last gradients, and
    PyTorch's fused optimizers pair entries by their place in memory."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
