"""A matching step as a CUDA graph: what it launches is recorded once, and replayed at once afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from attacks.engine.memory import is_out_of_memory

log = logging.getLogger("leakboard")

#: Of images, what else is variable, and samples, the derivatives and the objective.
Step = Callable[..., tuple[Tensor, ...]]

#: Recording takes as long as some 15 to 30 steps, of which each launches hundreds of kernels.
_STEPS_WORTH_RECORDING = 60
#: Calls before a recording, by which libraries choose kernels and take their workspaces, and calls by which it is checked.
_WARM_UP, _CHECKS = 2, 2


def worth_recording(device: torch.device, steps: int) -> bool:
    """Whether so many steps are to be recorded, which is a matter of a GPU; nothing but the time depends on it."""
    return device.type == "cuda" and steps >= _STEPS_WORTH_RECORDING


def recorded_or_plain(step: Step, *given: Any) -> Step:
    """The step recorded for the shapes of what it is given (tensors, and lists of them) if that works, or else as it is.

    The same kernels run, so that the results are the same. Tensors that the step holds are read where they are, so that what is
    loaded into them later counts. Where a replay fails later, the step goes on as it is. (A compiled graph was tried in its place:
    on an H100 its kernels took 0.90 ms where those of the step take 0.94, and 5 to 22 s to compile.)
    """
    started = time.perf_counter()
    try:
        replay = record(step, *given)
        for number in range(1, 1 + _CHECKS):
            others = tree_map(lambda tensor, number=number: tensor.roll(number, -1) + 0.1 * number, given)
            if not all(_close(a, b) for a, b in zip(step(*others), replay(*others), strict=True)):
                raise ValueError("its result differs from that of the step as it is")
    except Exception as error:  # whatever a recording may raise, the attack goes on without it
        log.info("the matching step is not recorded: %s", _line(error))
        return step
    log.info("the matching step was recorded in %.2f s", time.perf_counter() - started)
    return _Guarded(step, replay)


def record(step: Step, *given: Any) -> Step:
    """Record what a step launches on the GPU, for inputs of such shapes."""
    own = tree_map(torch.clone, given)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is called on the default stream cannot be recorded
        for _ in range(_WARM_UP):
            step(*own)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads, as those of other attacks, may go on to ask for memory.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = step(*own)

    def replay(*given: Any) -> tuple[Tensor, ...]:
        for place, value in zip(tree_leaves(own), tree_leaves(given), strict=True):
            place.copy_(value)
        graph.replay()
        return tuple(result.clone() for result in found)  # their memory is written anew by the next replay

    return replay


class _Guarded:
    """A recorded step, until it raises; then the step as it is. Lack of memory is for others to deal with."""

    def __init__(self, step: Step, recorded: Step) -> None:
        self._plain, self._recorded = step, recorded

    def __call__(self, *given: Any) -> tuple[Tensor, ...]:
        try:
            return self._recorded(*given)
        except Exception as error:
            if self._recorded is self._plain or is_out_of_memory(error):
                raise
            log.warning("the recorded matching step fails, and is left: %s", _line(error))
        self._recorded = self._plain
        return self._plain(*given)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _close(a: Tensor, b: Tensor) -> bool:
    # The objective is a difference of numbers around one, so that its rounding does not shrink with it; atomics round anew.
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()) + 1e-5 * (a.dim() == 1), equal_nan=True)
