"""What several clients share in a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from defenses.client import LocalSteps, client_update
from defenses.step import Batch, Gradients, State

if TYPE_CHECKING:
    from defenses.base import Defense


class Participant(NamedTuple):
    """A client that shares in a round."""

    client: int  #: its number
    batches: Sequence[Batch]  #: of its local steps


def mean_of_round(defense: Defense, module: nn.Module, participants: Sequence[Participant], local: LocalSteps,
                  batch_size: float | None, generator: torch.Generator, state_of: Callable[[int], State], round_: int
                  ) -> tuple[Gradients, Tensor]:
    """The mean of what the clients of a round share, and of their losses; those that have no image have none.

    Args:
        defense: in force. Where it sums over clients, each applies its share of it.
        module: the model.
        participants: the clients, one after another.
        local: how they come to what they share.
        batch_size: images that a client's gradient is an average over; None for those that it has.
        generator: of their randomness.
        state_of: what a client keeps, by its number.
        round_: steps of training before.
    """
    one = defense.shared_among(defense.summed, local.steps) if defense.summed > 1 else defense
    found: Gradients = {}
    losses: list[Tensor] = []
    for client, batches in participants:
        size = len(batches[0].images) if batch_size is None else batch_size
        own, loss = client_update(one, module, batches, local, size, generator, state_of(client), round_)
        found = {name: found[name] + g for name, g in own.items()} if found else own
        if any(len(batch.images) for batch in batches) or len(participants) == 1:
            losses.append(loss)
    if len(participants) == 1:
        return found, losses[0]
    nothing = next(iter(found.values())).new_zeros(())
    return ({name: g / len(participants) for name, g in found.items()},
            torch.stack(losses).mean() if losses else nothing)


def images_of_each(images: int, clients: int) -> int:
    """How many of so many images each client has, all the same number.

    Raises:
        ValueError: they cannot be divided so.
    """
    if images % clients or not images:
        raise ValueError(f"a sum over {clients} clients is of as many images of each, so of a multiple of {clients}, got {images}")
    return images // clients


def divided(x: Tensor, y: Tensor, defense: Defense, local: LocalSteps, orders: torch.Generator) -> list[Participant]:
    """The clients that a defense sums over, numbered from 0, each with its part of some images in their order; where the defense
    draws its batches, which are of any size, they are divided as evenly as it goes.

    Raises:
        ValueError: see :func:`images_of_each`.
    """
    if not defense.samples:
        images_of_each(len(x), defense.summed)
    parts = zip(x.tensor_split(defense.summed), y.tensor_split(defense.summed), strict=True)
    return [Participant(client, local.batches(*own, orders)) for client, own in enumerate(parts)]


def require_clients(defense: Defense, clients: float, what: str = "there are") -> None:
    """Raise ValueError where a defense sums over more clients than there are, or than ``what`` says."""
    if clients < defense.summed:
        raise ValueError(f"{defense.label} sums over {defense.summed} clients, and {what} {clients:g}")
