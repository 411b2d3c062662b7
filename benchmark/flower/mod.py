"""A mod of Flower's ``ClientApp`` that protects what a client replies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable
from torch import nn

import defenses
from benchmark.errors import InputError
from benchmark.flower.exchange import Exchange, Tensors, arrays
from defenses.private import filled, flat
from defenses.support.seeds import derive

_STATE, _ROUND = "leakboard", ":round"  # of the record in a client's context; no parameter's name has a colon


class DefenseMod:
    """Puts a defense before what leaves a client: ``ClientApp(mods=[DefenseMod("noise", build, Weights(step_size=0.1))])``.

    A mod sees what a client replies when its training is over, so only the gradient hook of a defense can act, on the update as
    :func:`defenses.shared_update` has it. What the defense keeps from round to round lies in the client's context. Metrics leave as
    the client reports them; evaluations and queries are left alone.

    Args:
        defense: of the registry, such as ``top-k(share=0.01)+noise(std=0.001)``.
        model: builds the model whose ``state_dict`` is sent.
        exchange: what clients reply.
        seed: makes rounds repeat, for experiments: who knows it knows the noise. Without it randomness is the operating system's.

    Raises:
        SpecificationError: there is no such defense.
        ValueError: it cannot act on an update; then train with its ``make_private`` in the client's own loop.
    """

    def __init__(self, defense: str, model: Callable[[], nn.Module], exchange: Exchange, *, seed: int | None = None) -> None:
        self._defense = defenses.create(defense)
        self._model, self._exchange, self._seed = model, exchange, seed
        # Tried here, since what a client raises in a round is one line among many of a server's log.
        module = model()
        like = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
        defenses.shared_update(self._defense, module, like, generator=torch.Generator().manual_seed(0))

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Flower's mod: run the client, and protect its reply."""
        if message.metadata.message_type.split(".")[0] != MessageType.TRAIN:
            return call_next(message, context)
        _, sent = arrays(message)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        module = self._model()
        module.load_state_dict(sent)
        key, replied = arrays(reply)
        update = self._exchange.gradient(sent, replied, [name for name, p in module.named_parameters() if p.requires_grad])
        for name in replied:
            if name not in update and not torch.equal(replied[name], sent[name]):
                raise InputError(f"the client changed {name!r}, which is no trainable parameter: it tells of the images, as "
                                 "running statistics do, and no defense covers it; reply it as it was sent")
        reply.content[key] = ArrayRecord(self._exchange.reply(sent, self._shared(module, update, context)))
        return reply

    def _shared(self, module: nn.Module, update: Tensors, context: Context) -> Tensors:
        """What is released of an update; the client's state goes on."""
        state = self._defense.initial_state(module) or {}
        round_ = 0
        if _STATE in context.state:
            kept = context.state.array_records[_STATE].to_torch_state_dict()
            round_ = int(kept.pop(_ROUND))
            state = filled(state, kept)
        generator = torch.Generator()
        if self._seed is None:
            generator.seed()
        else:  # the number of a node is drawn anew by each simulation, that of its partition is not
            generator.manual_seed(derive("flower", self._seed, context.node_config.get("partition-id", context.node_id), round_))
        shared = defenses.shared_update(self._defense, module, update, generator=generator, state=state, round_=round_)
        context.state[_STATE] = ArrayRecord({**dict(flat(state)), _ROUND: torch.tensor(round_ + 1)})
        return shared
