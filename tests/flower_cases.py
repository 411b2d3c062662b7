"""A round of a federation by hand, without Flower's engine."""

from __future__ import annotations

import time

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from model_cases import MODELS, batch
from torch.nn import functional as F

from benchmark.flower.exchange import Gradients
from defenses import NoDefense
from defenses.private import simulated_gradient

STEP_SIZE = 0.1


def build():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS["mlp"]()


def request(model: torch.nn.Module | ArrayRecord, round_: int = 1, node: int = 7, kind: str = "train") -> Message:
    arrays = model if isinstance(model, ArrayRecord) else ArrayRecord(model.state_dict())
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": round_})})
    # Made by hand, since a message of flwr's own asks which run it is in.
    return make_message(Metadata(1, "1", 0, node, "", "", time.time(), 3600.0, kind), content)


def context(node: int = 7, partition: int | None = None) -> Context:
    return Context(1, node, {} if partition is None else {"partition-id": partition}, RecordDict(), {})


def answer(tensors, to: Message, examples: float = 4) -> Message:
    content = RecordDict({"arrays": ArrayRecord(tensors), "metrics": MetricRecord({"num-examples": examples, "loss": 0.5})})
    return Message(content, reply_to=to)


def failure(to: Message) -> Message:
    return Message(Error(code=1, reason="it ran\nout of memory"), reply_to=to)


def gradient(module, seed: int = 0):
    x, y = batch(4, seed)
    return simulated_gradient(NoDefense(), module, x, y, seed=0)


def client(exchange, seed: int = 0):
    """A Flower client without a defense: it replies its gradient, or its weights after as many steps of PyTorch's SGD."""
    def train(message: Message, context: Context) -> Message:
        module = build()
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        if isinstance(exchange, Gradients):
            return answer(gradient(module, seed), message)
        optimizer = torch.optim.SGD(module.parameters(), lr=exchange.step_size)
        for step in range(exchange.local_steps):
            x, y = batch(4, seed + step)
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
        return answer(module.state_dict(), message)

    return train


def told(message: Message):
    return dict(message.content["arrays"].to_torch_state_dict())


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
