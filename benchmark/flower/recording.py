"""A strategy of Flower that writes what the server receives, for audits of a federation as it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from safetensors.torch import save_file
from torch import nn

from benchmark.captured import observation_file
from benchmark.errors import InputError
from benchmark.flower.exchange import Exchange, Tensors, arrays


class Recording(Strategy):
    """Another strategy, unchanged, with a record of what each client replied. Of round N is written, when its replies are in,

    - ``round-N/observation.safetensors``: one victim for each client, in the form of :mod:`benchmark.captured.observation_file`,
      without labels, which a server does not know;
    - ``round-N/weights.safetensors``: the global model that the clients were sent;
    - ``round-N/clients.txt``: the clients' node numbers, one a line, in the order of the victims.

    These are the files of ``leakboard identify`` and ``leakboard attack``. A folder ``round-N`` is whole once it is there.

    Args:
        strategy: what the server does, such as Flower's ``FedAvg``; all clients of a round are sent the same weights.
        folder: without rounds of another federation; it is made.
        model: builds the model whose ``state_dict`` is sent, with what a defense adds to it.
        exchange: what clients reply.
        batch_size: images behind each reply.
        image_shape: (C, H, W).
        mean, std: [C], of the clients' normalisation (pixel - mean) / std of pixels in [0, 1].

    Raises:
        InputError: the folder cannot be made, or holds rounds; in a round, no client replied, or one replied something else.
    """

    def __init__(self, strategy: Strategy, folder: str | Path, model: Callable[[], nn.Module], exchange: Exchange, *,
                 batch_size: int, image_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> None:
        self._strategy, self._folder, self._exchange = strategy, Path(folder), exchange
        self._names = [name for name, p in model().named_parameters() if p.requires_grad]
        self._about: dict[str, Any] = {"batch_size": batch_size, "image_shape": image_shape, "mean": mean, "std": std,
                                       **exchange.metadata}
        self._sent: Tensors = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
        if any(self._folder.glob("round-*")):
            raise InputError(f"{folder} holds the rounds of another federation; record into a new folder")

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        self._sent = dict(arrays.to_torch_state_dict())
        return self._strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        answered = sorted((reply for reply in replies if reply.has_content()), key=lambda reply: reply.metadata.src_node_id)
        if answered:
            self._record(server_round, answered)
        elif replies:
            raise InputError(f"no client replied in round {server_round}: {' '.join(replies[0].error.reason.split())}")
        return self._strategy.aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        return self._strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self._strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self._strategy.summary()

    def _record(self, number: int, replies: Sequence[Message]) -> None:
        told = [self._exchange.gradient(self._sent, arrays(reply)[1], self._names) for reply in replies]
        shared = {name: torch.stack([of[name] for of in told]).float() for name in self._names}
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            whole = Path(folder) / "round"
            whole.mkdir()
            observation_file.write(whole / "observation.safetensors", shared, **self._about)
            save_file({name: tensor.contiguous() for name, tensor in self._sent.items()}, whole / "weights.safetensors")
            (whole / "clients.txt").write_text("".join(f"{reply.metadata.src_node_id}\n" for reply in replies))
            whole.replace(self._folder / f"round-{number}")
