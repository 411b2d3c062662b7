"""A matching step as one compiled graph."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from attacks.engine.memory import is_out_of_memory

log = logging.getLogger("leakboard")

#: Of images, what else is variable, and samples, the derivatives and the objective.
Step = Callable[..., tuple[Tensor, ...]]

#: Fewer steps than these are over before a compilation, of 4 to 12 seconds for the attacks measured, pays.
_STEPS_WORTH_COMPILING = 500
#: Calls by which a compiled step is checked: torch runs the first of a CUDA graph as it is, records the second, replays the third.
_CHECKS = 3


def worth_compiling(device: torch.device, steps: int) -> bool:
    """Whether an attack of so many steps is to be compiled. On a GPU, where a graph saves the launches; on a CPU it gained between
    nothing and a quarter. Times are not measured to decide: a compiled step rounds in another way, so that the same command would
    not always give the same tables."""
    return device.type == "cuda" and steps >= _STEPS_WORTH_COMPILING


def compiled_or_plain(step: Step, *given: Any) -> Step:
    """The step compiled for the shapes of what it is given (tensors, and lists of them) if that works, or else as it is.

    Tensors that the step holds are inputs of the graph in their place, so that what is loaded into them later counts. On CUDA the
    graph is replayed as a CUDA graph, which saves the launches; where that fails later, the step goes on as it is.
    """
    started = time.perf_counter()
    images: Tensor = given[0]
    try:
        # The passes of autograd are traced with the rest: the graph is one forward computation.
        graph = make_fx(lambda *given: step(*given))(*given)
        function = torch.compile(graph, dynamic=False, options=_of_a_gpu() if images.is_cuda else None)

        def compiled(*given: Any) -> tuple[Tensor, ...]:
            with torch.no_grad():
                found: tuple[Tensor, ...] = function(*given)
            # The memory of a CUDA graph's results is written anew by its next replay.
            return tuple(result.clone() for result in found) if images.is_cuda else found

        for number in range(_CHECKS):
            others = tree_map(lambda tensor, number=number: tensor.roll(number, -1) + 0.1 * number, given)
            if not all(_close(a, b) for a, b in zip(step(*others), compiled(*others), strict=True)):
                raise ValueError("its result differs from that of the step as it is")
    except Exception as error:  # whatever a compiler may raise, the attack goes on without it
        log.info("the matching step is not compiled: %s", _line(error))
        return step
    log.info("the matching step was compiled in %.1f s", time.perf_counter() - started)
    return _Guarded(step, compiled)


class _Guarded:
    """A compiled step, until it raises; then the step as it is. Lack of memory is for others to deal with."""

    def __init__(self, step: Step, compiled: Step) -> None:
        self._plain, self._compiled = step, compiled

    def __call__(self, *given: Any) -> tuple[Tensor, ...]:
        try:
            return self._compiled(*given)
        except Exception as error:
            if self._compiled is self._plain or is_out_of_memory(error):
                raise
            log.warning("the compiled matching step fails, and is left: %s", _line(error))
        self._compiled = self._plain
        return self._plain(*given)


def _of_a_gpu() -> dict[str, Any]:
    """Options of a compilation for a GPU: CUDA graphs, and no choice by timing where it changes the rounding, if torch is new
    enough to have such a mode."""
    options: dict[str, Any] = torch._inductor.list_mode_options("reduce-overhead")
    return options | ({"deterministic": True} if "deterministic" in torch._inductor.list_options() else {})


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _close(a: Tensor, b: Tensor) -> bool:
    # The objective is a difference of numbers around one, so that its rounding does not shrink with it.
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()) + 1e-5 * (a.dim() == 1), equal_nan=True)
