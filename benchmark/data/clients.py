"""The training images divided among clients, and the rounds in which some of these share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.data.loaders import LabelledImages
from benchmark.specification import Client
from defenses import Batch, LocalSteps, Participant, Plan
from defenses.support.seeds import derive
from defenses.support.upload import upload


def partition(labels: np.ndarray, client: Client, seed: int) -> np.ndarray:
    """Indices [clients, images] of the images of each client, of so many images each; what is left over belongs to none.

    Under ``dirichlet(a)`` the classes of a client are drawn from a Dirichlet distribution with concentration ``a`` times the share
    of each class (Hsu, Qi and Brown, 2019), an image at a time from the classes of which there are some left.

    Raises:
        ValueError: there are too few images for a client.
    """
    count = client.clients_of(len(labels))
    numbers = np.random.default_rng(seed)
    if client.concentration is None:
        chosen = numbers.permutation(len(labels))[: count * client.images].reshape(count, client.images)
        return np.sort(chosen, axis=1)
    shares = np.bincount(labels) / len(labels)
    waiting = [list(numbers.permutation(np.flatnonzero(labels == c))) for c in range(len(shares))]
    found = np.empty((count, client.images), dtype=np.int64)
    for own in found:
        classes = numbers.dirichlet(np.maximum(client.concentration * shares, np.finfo(float).tiny))
        for place in range(client.images):
            there = np.array([bool(images) for images in waiting])
            left = np.where(there, classes, 0.0)
            left = left / left.sum() if left.sum() > 0 else there / there.sum()
            own[place] = waiting[numbers.choice(len(left), p=left)].pop()
    return np.sort(found, axis=1)


@dataclass(frozen=True)
class _Drawn:
    """The state of drawing: clients that have not shared since all had, and images that each has not used since it had used all."""

    clients: list[int]
    images: dict[int, list[Tensor]]
    orders: dict[int, torch.Generator]
    participation: torch.Generator


class Rounds:
    """Iterates over the rounds of one epoch: in each, some clients with the batches of their local steps.

    Every client comes once before any comes again, and takes its images in an order of its own, each once before any comes again.
    An epoch has as many rounds as it takes until as many images were used as there are. One client that has all images takes the
    batches that a training without clients has.

    Args:
        dataset: the training images.
        name: of the data set.
        client: how they are divided, and how clients work.
        participants: clients in a round, at most as many as there are.
        seed: of the partition, the orders and who participates.
        poisson: draw each image for each local step independently, as DP-SGD's accounting assumes.

    Raises:
        ValueError: there are fewer clients than participants, or too few images for one.
    """

    def __init__(self, dataset: LabelledImages, name: str, client: Client, participants: int, seed: int, *,
                 poisson: bool = False) -> None:
        self.dataset = dataset
        self.local = LocalSteps(client.local_steps, client.local_step_size, client.batch_size)
        self._client, self._participants, self._seed, self._name, self._poisson = client, participants, seed, name, poisson
        client.check_participants(participants, len(dataset))
        divided = partition(dataset.labels.cpu().numpy(), client, derive(seed, name, "partition"))
        self.held = [torch.from_numpy(own) for own in divided]
        self._drawn = _Drawn([], {}, {}, torch.Generator().manual_seed(derive(seed, name, "participation")))

    def __len__(self) -> int:
        shares = -(-self._client.images // self.local.images_behind(self._client.images))
        return -(-len(self.held) * shares // self._participants)

    def with_poisson_sampling(self) -> Rounds:
        return Rounds(self.dataset, self._name, self._client, self._participants, self._seed, poisson=True)

    def plan(self, epochs: int | None) -> Plan:
        """What defenses are told: the steps and images of one client, and the rounds of all."""
        steps = -(-self._client.images // self._size)
        return Plan(steps, self._client.images, epochs, self._participants, len(self.held), len(self),
                    self.dataset.mean, self.dataset.std)

    def __iter__(self) -> Iterator[list[Participant]]:
        for _ in range(len(self)):
            yield [Participant(number, self._batches(number)) for number in self._who()]

    @property
    def _size(self) -> int:
        return min(self._client.batch_size, self._client.images)

    def _who(self) -> list[int]:
        """Clients of the next round, no one twice."""
        waiting = self._drawn.clients
        chosen: list[int] = []
        while len(chosen) < self._participants:
            if not waiting:
                order = torch.randperm(len(self.held), generator=self._drawn.participation).tolist()
                # Who shares in this round already comes last.
                waiting.extend([number for number in order if number not in chosen] + [n for n in order if n in chosen])
            chosen.append(waiting.pop(0))
        return chosen

    def _batches(self, number: int) -> list[Batch]:
        drawn, held, device = self._drawn, self.held[number], self.dataset.labels.device
        if number not in drawn.orders:
            purpose = (self._name, "order", number) if number else (self._name, "order")
            drawn.orders[number] = torch.Generator().manual_seed(derive(self._seed, *purpose))
        order = drawn.orders[number]
        if self._poisson:
            rate = 1 / -(-len(held) // self._size)
            chosen = [held[torch.rand(len(held), generator=order) < rate] for _ in range(self.local.steps)]
            return [Batch(*self.dataset.batch(upload(some, device))) for some in chosen]
        waiting = drawn.images.setdefault(number, [])
        if not waiting:
            waiting.extend(held[torch.randperm(len(held), generator=order)].split(self.local.images_behind(len(held))))
        return self.local.batches(*self.dataset.batch(upload(waiting.pop(0), device)), order)
