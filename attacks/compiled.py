"""A matching step as one compiled graph, used where it turns out faster."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

log = logging.getLogger("leakboard")

Step = Callable[[Tensor, list[Tensor]], tuple[Tensor, Tensor]]

#: Seconds that a compilation takes at most of the attacks measured (LeNet 5, PRECODE on LeNet 4, tracing included).
_SECONDS_TO_COMPILE = 10
#: Share of the eager time that compiling saves at least where it pays at all.
_SAVING = 0.1
_TIMED = 5


def worth_compiling(seconds_per_step: float, steps: int) -> bool:
    """Whether an attack is so long that the expected saving exceeds the time to compile."""
    return seconds_per_step * steps * _SAVING > _SECONDS_TO_COMPILE


def compiled_if_faster(step: Step, images: Tensor, noise: list[Tensor]) -> Step:
    """The step compiled for the shapes of some images and noise if that works and is faster, or else the step as it is.

    Tensors that the step holds are inputs of the graph in their place, so that what is loaded into them later counts. On CUDA the
    graph is replayed as a CUDA graph, which saves the launches.
    """
    started = time.perf_counter()
    try:
        # The passes of autograd are traced with the rest: the graph is one forward computation.
        graph = make_fx(step)(images, noise)
        mode = "reduce-overhead" if images.is_cuda else None
        function = torch.compile(graph, dynamic=False, mode=mode)

        def compiled(images: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                derivative, objective = function(images, noise)
            # The memory of a CUDA graph's results is written anew by its next replay.
            return (derivative.clone(), objective.clone()) if images.is_cuda else (derivative, objective)

        expected, found = step(images, noise), compiled(images, noise)
        if not all(_close(a, b) for a, b in zip(expected, found, strict=True)):
            raise ValueError("its result differs from that of the step as it is")
        made = time.perf_counter() - started
        eager_seconds, compiled_seconds = _times(step, compiled, images, noise)
    except Exception as error:  # whatever a compiler may raise, the attack goes on without it
        lines = str(error).splitlines() or [type(error).__name__]
        log.info("the matching step is not compiled: %s", lines[0])
        return step
    faster = compiled_seconds < eager_seconds
    log.info("the matching step was compiled in %.1f s: %.2f ms instead of %.2f ms; %s",
             made, compiled_seconds * 1e3, eager_seconds * 1e3, "used" if faster else "not used")
    return compiled if faster else step


def _close(a: Tensor, b: Tensor) -> bool:
    # The objective is a difference of numbers around one, so that its rounding does not shrink with it.
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()) + 1e-5 * (a.dim() == 1), equal_nan=True)


def _times(first: Step, second: Step, images: Tensor, noise: list[Tensor]) -> list[float]:
    """The shortest seconds of two steps, run in turns."""
    seconds = [float("inf")] * 2
    for _ in range(_TIMED):
        for i, step in enumerate((first, second)):
            started = time.perf_counter()
            step(images, noise)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            seconds[i] = min(seconds[i], time.perf_counter() - started)
    return seconds
