"""What a client has at hand in one step, and what of it is public."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from defenses.support.precision import without_autocast

Gradients = dict[str, Tensor]

#: What a defense keeps at the client between steps: tensors by name, or such dictionaries by name.
State = dict[str, Any]


class Batch(NamedTuple):
    """Images with their targets."""

    images: Tensor  #: [B, C, H, W], normalised as the model expects
    targets: Tensor  #: [B] class indices, or [B, classes] probabilities of the classes


@dataclass(frozen=True)
class Step:
    """One step of a client, as the hooks of a defense see it.

    Attributes:
        module: the model; not to be changed.
        batch: in ``transform_batch`` what the client drew, afterwards what the gradient is of.
        batch_size: images that the gradient is an average over: the expected size of a batch in training, where batches may be
            sampled, and the number of images where a gradient is observed.
        generator: source of the defense's randomness, on the device of the module.
        state: what the defense keeps at the client, begun by ``initial_state``. A hook writes what the next step is to find; where
            a gradient is only observed it is a copy that is thrown away.
        round: steps of the training before this one.
        losses: the client's loss of each sample of a batch [B], regularizer included; a module put in the place of the model
            (one that records per-sample gradients, say) may be given.
        at: ``gradient`` where the client shares the gradient of this step; where it takes several steps before it shares, ``step``
            in each of these, and ``update`` at their end, with all their batches as ``batch``.
    """

    module: nn.Module
    batch: Batch
    batch_size: float
    generator: torch.Generator
    state: State
    round: int
    losses: Callable[..., Tensor]
    at: str = "gradient"

    def concerns(self, acts: str) -> bool:
        """Whether a defense that ``acts`` so changes gradients here."""
        return self.at == "gradient" or acts in (self.at, "both")

    def gradient(self, batch: Batch) -> Gradients:
        """The gradient of the mean loss on other images, of every trainable parameter by name, as an undefended client has it."""
        return self.gradient_and_loss(batch)[0]

    def gradient_and_loss(self, batch: Batch) -> tuple[Gradients, Tensor]:
        """As :meth:`gradient`, and the mean loss, detached."""
        parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        loss = self.losses(batch).mean()
        with without_autocast(loss.device):
            tensors = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        return dict(zip(parameters, tensors, strict=True)), loss.detach()

    def of_member(self, name: str) -> Step:
        """The step with the state of one member of a composition."""
        return replace(self, state=self.state[name])


class Plan(NamedTuple):
    """What is known of a training before it begins; None where the loader does not tell. Of many clients, steps and images are
    those of one."""

    steps_per_epoch: int | None = None
    images: int | None = None
    epochs: int | None = None
    participants: float | None = None  #: clients of ``clients`` that share in a round
    clients: int | None = None
    rounds_per_epoch: int | None = None
    mean: Tensor | Sequence[float] | None = None  #: [C], the public normalisation (pixel - mean) / std of pixels in [0, 1]
    std: Tensor | Sequence[float] | None = None

    summed: int = 1  #: clients, of whose shares a server sees the sum alone; 1 where it sees each

    @property
    def rounds(self) -> int | None:
        """Of one epoch; where there are no clients told of, each step is one."""
        return self.steps_per_epoch if self.rounds_per_epoch is None else self.rounds_per_epoch

    @property
    def participation(self) -> float:
        """Share of the clients that is expected in a round; all, where none are told of."""
        return 1.0 if not self.clients or self.participants is None else self.participants / self.clients

    @property
    def sample_rate(self) -> float | None:
        """Share of the images that a batch is expected to hold."""
        return None if not self.steps_per_epoch else 1 / self.steps_per_epoch

    @property
    def batch_size(self) -> float | None:
        """Expected images in a batch."""
        return None if not self.steps_per_epoch or self.images is None else self.images / self.steps_per_epoch


class Facts(NamedTuple):
    """What everybody knows of a shared gradient: nothing of the batch, the client's state or its randomness."""

    batch_size: int  #: images behind the gradient
    round: int  #: steps of training before it
    module: nn.Module  #: the shared model in the state of that round
    image_shape: tuple[int, ...]  #: of one image
    local_steps: int = 1  #: whose mean gradient was shared
    step_images: int | None = None  #: images in each of these; None: all
