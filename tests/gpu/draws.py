"""The same random numbers on every device and in every precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten


class SameDraws(TorchDispatchMode):
    """While it is entered, every random draw is made on the CPU in float64 and carried to where it was asked for.

    The generators of a GPU give other numbers than those of a CPU, and either gives other numbers in float32 than in float64. Draws
    from a generator of a GPU come from one of the CPU with its seed; those from the global generator from that of the CPU, which
    ``torch.manual_seed`` seeds alike.
    """

    def __init__(self) -> None:
        super().__init__()
        # With the generators themselves, so that no other takes the place of one in memory.
        self._twins: dict[int, tuple[torch.Generator, int, torch.Generator]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **kwargs)
        if function is aten.native_dropout.default:
            return self._dropout(*args)
        given, named = tree_map(self._on_the_cpu, (args, {**kwargs, **self._where(kwargs)}))
        target = args[0] if function._schema.is_mutable else None
        drawn = function(*given, **named)
        if target is not None:
            return target.copy_(drawn)
        like = next((value for value in args if isinstance(value, Tensor)), None)
        device = kwargs.get("device") or (like.device if like is not None else torch.device("cpu"))
        dtype = kwargs.get("dtype") or (like.dtype if like is not None else torch.get_default_dtype())
        return tree_map(lambda value: value.to(device, dtype if value.is_floating_point() else None) if isinstance(value, Tensor) else value, drawn)

    def _on_the_cpu(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to("cpu", torch.float64 if value.is_floating_point() else None)
        if isinstance(value, torch.Generator) and value.device.type != "cpu":
            return self._twin(value)
        return value

    def _twin(self, generator: torch.Generator) -> torch.Generator:
        found = self._twins.get(id(generator))
        seed = generator.initial_seed()
        if found is None or found[1] != seed:
            found = self._twins[id(generator)] = generator, seed, torch.Generator().manual_seed(seed)
        return found[2]

    @staticmethod
    def _where(kwargs: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        if kwargs.get("device") is not None:
            changed["device"] = torch.device("cpu")
        if kwargs.get("dtype") is not None and kwargs["dtype"].is_floating_point:
            changed["dtype"] = torch.float64
        if kwargs.get("pin_memory"):
            changed["pin_memory"] = False
        return changed

    @staticmethod
    def _dropout(given: Tensor, share: float, train: bool | None) -> tuple[Tensor, Tensor]:
        """As on a CPU, where dropout is a product with a draw. A GPU has an operation of its own for it."""
        kept = torch.empty(given.shape, dtype=torch.float64).bernoulli_(1 - share).to(given.device, torch.bool)
        return given * kept / (1 - share), kept
