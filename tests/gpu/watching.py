"""What a computation does on the device: waits of the host, launches, kernels' time, bytes and operations."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gpu.checks import Bench

#: Calls of CUDA's interfaces by which the host waits for the device. A copy to or from pageable memory that blocks is followed by
#: a cudaStreamSynchronize.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cuStreamSynchronize", "cuCtxSynchronize",
         "cuEventSynchronize")
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
_MARK = "leakboard watches"
#: What the names of some versions of a call end with.
_VERSION = re.compile(r"(_v\d+|_ptsz|_ptds)+$")


@dataclass
class Traced:
    """What the profiler saw between the beginning and the end of a computation.

    Attributes:
        waits: calls by which the host waits, by name.
        to_host: copies from the device to the host.
        launches: of kernels.
        graphs: launches of CUDA graphs.
        busy: seconds that kernels ran for.
    """

    waits: Counter[str] = field(default_factory=Counter)
    to_host: int = 0
    launches: int = 0
    graphs: int = 0
    busy: float = 0.0


def traced(bench: Bench, run: Callable[[], Any]) -> Traced:
    """Run something under the profiler. The waits of the profiler itself are left out."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    bench.wait()
    profiler = torch.profiler.profile(activities=activities)
    with _silent():
        profiler.start()
    try:
        with torch.profiler.record_function(_MARK):
            run()
        bench.wait()  # so that all kernels are over before it stops
    finally:
        with _silent():
            profiler.stop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        found = read_trace(json.loads(path.read_text(errors="replace"))["traceEvents"])
    if bench.gpu and not found.launches + found.graphs:
        raise RuntimeError("the profiler saw no launch of a kernel: what it does not see it cannot count")
    return found


def read_trace(events: list[dict[str, Any]]) -> Traced:
    """Of the events of a trace in Chrome's format, what was asked for while the mark was set; kernels may run later."""
    whole = [event for event in events if event.get("ph") == "X" and "ts" in event]
    mark = next(event for event in whole if event.get("name") == _MARK and "gpu" not in str(event.get("cat")))
    begin, end = mark["ts"], mark["ts"] + mark["dur"]
    found = Traced()
    asked: set[Any] = set()
    for event in whole:
        kind, name = str(event.get("cat")), _VERSION.sub("", str(event.get("name")))
        if kind in ("cuda_runtime", "cuda_driver") and begin <= event["ts"] <= end:
            asked.add(event.get("args", {}).get("correlation"))
            if name in WAITS:
                found.waits[name] += 1
            elif name.startswith("cudaGraphLaunch") or name.startswith("cuGraphLaunch"):
                found.graphs += 1
            elif name in LAUNCHES:
                found.launches += 1
    for event in whole:
        kind, name = str(event.get("cat")), str(event.get("name"))
        if event.get("args", {}).get("correlation") not in asked:
            continue
        if kind == "gpu_memcpy" and "DtoH" in name:
            found.to_host += 1
        if kind == "kernel":
            found.busy += event["dur"] / 1e6
    return found


@dataclass
class Work:
    """Operations on floats, and bytes moved, of a computation."""

    flops: int = 0
    bytes: int = 0


class Counting(TorchDispatchMode):
    """Counts, while it is entered, operations on floats (of products of matrices and convolutions, by torch's own formulas) and the
    bytes that operations read and write: of each its tensors, in and out, once; views move nothing. Caches are not accounted for, so
    that more than the memory's bandwidth can be reached; what is recorded is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if (count := flop_registry.get(function._overloadpacket)) is not None:
            self.work.flops += count(*args, **kwargs, out_val=result)
        if not function.is_view:
            given = {(leaf.data_ptr(), leaf.numel()): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            self.work.bytes += sum(tensor.numel() * tensor.element_size() for tensor in (*given.values(), *made))
        return result


def work_of(run: Callable[[], Any]) -> Work:
    """What a computation does, as it is dispatched."""
    with Counting() as counting:
        run()
    return counting.work


@contextmanager
def _silent() -> Iterator[None]:
    """Without what libraries write to the standard error by themselves: the profiler of some versions tells when it starts and stops."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@contextmanager
def messages() -> Iterator[list[str]]:
    """What the product logs within the context."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, handler = logging.getLogger("leakboard"), Keep()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
