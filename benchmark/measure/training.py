"""Training a model under a defense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmark import models
from benchmark.config import Training
from benchmark.data.clients import Rounds
from benchmark.data.datasets import Dataset
from benchmark.data.loaders import BatchLoader, LabelledImages
from benchmark.measure import clock
from benchmark.measure.precision import autocast
from benchmark.measure.sent_bytes import sent_bytes
from benchmark.measure.step_memory import StepMemory
from defenses import Defense, Private
from defenses.support.seeds import derive

#: The fused update is one call for all parameters; the plain one costs a tenth of a LeNet's step.
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "sgd": partial(torch.optim.SGD, momentum=0.9, fused=True),
}
_TEST_BATCH = 1024
#: Steps whose memory is measured: the first has no optimizer state yet, and Poisson samples differ in size.
_METERED = 5


@dataclass(frozen=True)
class Epoch:
    """The state after an epoch; epoch 0 is the untrained model.

    ``train_loss`` is the mean over the batches (None for epoch 0), ``test_accuracy`` a share in [0, 1], ``epsilon`` what was
    spent so far and ``delta`` where it holds (None without a guarantee), ``seconds`` the time of training without the test. Of
    the first epoch, and None in others: ``step_memory``, the most bytes that tensors held in one of the first steps, and
    ``sent_bytes``, those of the gradient that the last of these shared (:func:`benchmark.measure.sent_bytes.sent_bytes`).
    ``rounds`` are the steps of the server so far.
    """

    epoch: int
    train_loss: float | None
    test_accuracy: float
    epsilon: float | None
    delta: float | None
    seconds: float
    step_memory: int | None = None
    sent_bytes: int | None = None
    rounds: int = 0


def make_private(defense: Defense, dataset: Dataset, model: str, training: Training, seed: int) -> Private:
    """A fresh model and its optimizer under the defense.

    Initial weights and the order of the batches follow from (seed, dataset, model) alone, so that defenses are compared from the
    same start; the weights that a defense adds are drawn after them. The defense's own noise has its own stream.
    """
    device = dataset.train.labels.device
    with torch.random.fork_rng(devices=_cuda(device)):
        torch.manual_seed(derive(seed, dataset.name, model, "initial weights"))
        module = models.build(model, dataset.train.image_shape, len(dataset.classes)).to(device)
        optimizer = _OPTIMIZERS[training.optimizer](module.parameters(), lr=training.learning_rate)
        order = torch.Generator().manual_seed(derive(seed, dataset.name, "order"))
        noise = torch.Generator(device).manual_seed(derive(seed, dataset.name, model, defense.label, "defense"))
        if training.client is None:
            return defense.make_private(module=module, optimizer=optimizer, epochs=training.epochs, generator=noise,
                                        data_loader=BatchLoader(dataset.train, training.batch_size, order))
        participants = max(training.client.participants, defense.summed)
        rounds = Rounds(dataset.train, dataset.name, training.client, participants, seed)
        return defense.make_private(
            module=module, optimizer=optimizer, data_loader=rounds, epochs=training.epochs, generator=noise, local=rounds.local)


def train(private: Private, dataset: Dataset, epochs: int, seed: int, *, precision: str = "float32",
          on_step: Callable[[int, int], None] | None = None) -> Iterator[Epoch]:
    """Train, yielding the state after each epoch, the untrained one first.

    Randomness inside the forward pass (dropout, PRECODE) follows from ``seed``; torch's global random state is left alone.

    Args:
        private: the protected training.
        dataset: for the test accuracy.
        epochs: how many.
        seed: of the forward passes.
        precision: of the clients' steps and the test, see :func:`benchmark.measure.precision.autocast`.
        on_step: told the steps done and in all of the current epoch, after each step.
    """
    device = dataset.train.labels.device
    for epoch in range(epochs + 1):
        loss, seconds, first = None, 0.0, _FirstSteps(private) if epoch == 1 else None
        if epoch > 0:
            with torch.random.fork_rng(devices=_cuda(device)):
                torch.manual_seed(derive(seed, "forward", epoch))
                started = clock.now(device)
                loss = _train_epoch(private, device, precision, on_step, first)
                seconds = clock.now(device) - started - (first.counting if first is not None else 0.0)
        with autocast(device, precision):
            accuracy = test_accuracy(private.module, dataset.test, derive(seed, "test", epoch))
        measured = (None, None) if first is None else (first.memory.peak, first.sent)
        yield Epoch(epoch, loss, accuracy, private.privacy_spent(), private.delta, seconds,
                    step_memory=measured[0], sent_bytes=measured[1], rounds=private.round)


class _FirstSteps:
    """What is measured in the first steps of a training, and the seconds that counting bytes took."""

    def __init__(self, private: Private) -> None:
        self.memory = StepMemory(private.module, private.optimizer)
        self.sent: int | None = None
        self.counting = 0.0
        self._module = private.module

    def count(self) -> None:
        """The bytes of the gradient that was shared last."""
        device = next(self._module.parameters()).device
        started = clock.now(device)
        self.sent = sent_bytes({name: p.grad for name, p in self._module.named_parameters() if p.grad is not None})
        self.counting = clock.now(device) - started


def _train_epoch(private: Private, device: torch.device, precision: str, on_step: Callable[[int, int], None] | None,
                 first: _FirstSteps | None) -> float:
    private.module.train()
    # Summed on the device: reading the loss in every step would make a GPU wait.
    total, count = torch.zeros((), device=device), len(private.data_loader)
    for step, given in enumerate(private.data_loader, start=1):
        metered = first if first is not None and step <= _METERED else None
        with metered.memory if metered is not None else nullcontext():
            with autocast(device, precision):
                loss = private.backward_round(given) if isinstance(private.data_loader, Rounds) else private.backward(*given)
            private.optimizer.step()
        if metered is not None and step == min(_METERED, count):
            metered.count()
        total += loss.nan_to_num() if _empty(given) else loss  # a Poisson sample can be empty and has no loss then
        if on_step is not None:
            on_step(step, count)
    return float(total) / count


def _empty(given: Any) -> bool:
    """Whether no client had an image in this step."""
    if isinstance(given, list):
        return not any(len(batch.images) for participant in given for batch in participant.batches)
    return len(given[0]) == 0


def test_accuracy(module: nn.Module, images: LabelledImages, seed: int) -> float:
    """Share of correctly classified images, with the module in evaluation mode (PRECODE keeps sampling, from ``seed``)."""
    device = images.labels.device
    was_training = module.training
    module.eval()
    correct = torch.zeros((), dtype=torch.long, device=device)
    with torch.random.fork_rng(devices=_cuda(device)), torch.no_grad():
        torch.manual_seed(seed)
        for x, y in BatchLoader(images, _TEST_BATCH):
            correct += (module(x).argmax(1) == y).sum()
    module.train(was_training)
    return int(correct) / len(images)


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
