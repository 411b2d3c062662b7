"""The strategy for clients that reply gradients; Flower has strategies for weights only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from defenses.support import checks


class FedSGD(FedAvg):
    """One step of plain SGD in a round, by the mean of the clients' gradients (McMahan et al., AISTATS 2017, section 2). Each
    counts by the ``num-examples`` of its metrics.

    Args:
        step_size: of the server, > 0.
        options: as of Flower's ``FedAvg``.
    """

    def __init__(self, *, step_size: float, **options: Any) -> None:
        super().__init__(**options)
        checks.number("step_size", step_size, above=0)
        self._step_size = step_size
        self._weights = ArrayRecord()

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        self._weights = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None:
            return None, metrics
        moved = {name: self._weights[name].numpy() - self._step_size * g.numpy() for name, g in mean.items()}
        return ArrayRecord({**self._weights, **{name: Array(w) for name, w in moved.items()}}), metrics
