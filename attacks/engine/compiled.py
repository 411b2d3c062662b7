"""A matching step as one compiled graph."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

log = logging.getLogger("leakboard")

Step = Callable[[Tensor, list[Tensor]], tuple[Tensor, Tensor]]

#: Fewer steps than these are over before a compilation, of 4 to 12 seconds for the attacks measured, pays.
_STEPS_WORTH_COMPILING = 500


def worth_compiling(device: torch.device, steps: int) -> bool:
    """Whether an attack of so many steps is to be compiled. On a GPU, where a graph saves the launches; on a CPU it gained between
    nothing and a quarter. Times are not measured to decide: a compiled step rounds in another way, so that the same command would
    not always give the same tables."""
    return device.type == "cuda" and steps >= _STEPS_WORTH_COMPILING


def compiled_or_plain(step: Step, images: Tensor, noise: list[Tensor]) -> Step:
    """The step compiled for the shapes of some images and noise if that works, or else the step as it is.

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
    except Exception as error:  # whatever a compiler may raise, the attack goes on without it
        lines = str(error).splitlines() or [type(error).__name__]
        log.info("the matching step is not compiled: %s", lines[0])
        return step
    log.info("the matching step was compiled in %.1f s", time.perf_counter() - started)
    return compiled


def _close(a: Tensor, b: Tensor) -> bool:
    # The objective is a difference of numbers around one, so that its rounding does not shrink with it.
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()) + 1e-5 * (a.dim() == 1), equal_nan=True)
