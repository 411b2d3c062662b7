"""What clients reply in a round, gradients or weights that were trained, and how one is read as the other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from flwr.app import Message
from torch import Tensor

from benchmark.errors import InputError
from defenses.support import checks

#: A model's, by name.
Tensors = dict[str, Tensor]


class Exchange(Protocol):
    """What the server and its clients have agreed on. ``sent`` are the weights that a client got, ``replied`` is what came back."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What an observation says of the client besides; nothing where a gradient is read."""

    def gradient(self, sent: Tensors, replied: Tensors, names: Collection[str]) -> Tensors:
        """What a reply tells of the trainable parameters that are named, in the units of a gradient.

        Raises:
            InputError: the reply is of other names or shapes.
        """

    def reply(self, sent: Tensors, gradient: Tensors) -> Tensors:
        """The reply that tells this gradient."""


@dataclass(frozen=True)
class Gradients:
    """Clients reply the gradient itself (FedSGD; McMahan et al., AISTATS 2017): what is read is what was released, bit for bit."""

    @property
    def metadata(self) -> dict[str, Any]:
        return {}

    def gradient(self, sent: Tensors, replied: Tensors, names: Collection[str]) -> Tensors:
        return _like({name: sent[name] for name in names}, replied)

    def reply(self, sent: Tensors, gradient: Tensors) -> Tensors:
        return gradient


@dataclass(frozen=True)
class Weights:
    """Clients reply their weights after steps of plain SGD (FedAvg; McMahan et al., AISTATS 2017). Read is (w0 - wT) / (step size *
    steps), which after one step is the gradient, up to the rounding of the weights.

    Args:
        step_size: of the clients' SGD, > 0.
        local_steps: of each client in a round, >= 1.
    """

    step_size: float
    local_steps: int = 1

    def __post_init__(self) -> None:
        checks.number("step_size", self.step_size, above=0)
        checks.whole("local_steps", self.local_steps, at_least=1)

    @property
    def metadata(self) -> dict[str, Any]:
        # An update of several steps is no gradient, and must not pass for one.
        return {} if self.local_steps == 1 else {"local_steps": self.local_steps, "local_step_size": self.step_size}

    def gradient(self, sent: Tensors, replied: Tensors, names: Collection[str]) -> Tensors:
        replied = _like(sent, replied)
        return {name: (sent[name] - replied[name]) / (self.step_size * self.local_steps) for name in names}

    def reply(self, sent: Tensors, gradient: Tensors) -> Tensors:
        moved = {name: sent[name] - self.step_size * self.local_steps * g for name, g in gradient.items()}
        return {**sent, **moved}


def arrays(message: Message) -> tuple[str, Tensors]:
    """The key and the tensors of the one array record of a message.

    Raises:
        InputError: there are several, or none.
    """
    records = message.content.array_records
    if len(records) != 1:
        raise InputError(f"a message of a training must hold one array record, got {len(records)}")
    ((key, record),) = records.items()
    return key, dict(record.to_torch_state_dict())


def _like(expected: Tensors, given: Tensors) -> Tensors:
    """What is given, in the order of what is expected.

    Raises:
        InputError: it is of other names or shapes.
    """
    wrong = [name for name in {**expected, **given}
             if name not in given or name not in expected or given[name].shape != expected[name].shape]
    if wrong:
        raise InputError(f"a client's reply is not what was agreed on: {wrong[0]!r} is {_shape(given, wrong[0])}, expected "
                         f"{_shape(expected, wrong[0])}")
    return {name: given[name] for name in expected}


def _shape(tensors: Tensors, name: str) -> str:
    return f"of shape {list(tensors[name].shape)}" if name in tensors else "not there"
