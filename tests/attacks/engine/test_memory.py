"""How much memory there is for a GPU's steps, what says that there is none, and what is gone before less is tried."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from attacks.engine import memory
from benchmark.measure import victim_memory

GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of 80 GiB, of which some are held."""
    state = SimpleNamespace(held=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: state.held)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: None)
    monkeypatch.setattr(memory, "_share", 1.0)
    return state


def test_what_is_held_at_the_time_does_not_count(gpu):
    """Caches, an optimizer's state and graphs differ between an uninterrupted and a resumed run, which are to round alike."""
    before = memory.budget(GPU), victim_memory.allowed(GPU)
    gpu.held = 20 * 2**30 + 12345
    assert (memory.budget(GPU), victim_memory.allowed(GPU)) == before == (30 * 2**30, 20 * 2**30)
    assert sum(before) < 80 * 2**30


def test_a_share_of_a_gpu(gpu):
    memory.allow(0.5, GPU)
    assert memory.budget(GPU) == 15 * 2**30 and victim_memory.allowed(GPU) == 10 * 2**30


@pytest.mark.parametrize("text", [
    "CUDA out of memory. Tried to allocate 2.00 GiB", "CUDA error: out of memory",
    "GET was unable to find an engine to execute this computation",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes", "DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"])
def test_what_says_that_there_is_no_memory(text):
    assert memory.is_out_of_memory(RuntimeError(text)) and not memory.is_out_of_memory(ValueError(text))


def test_other_errors_do_not():
    for text in ("CUDA error: an illegal memory access was encountered", "CUBLAS_STATUS_EXECUTION_FAILED", "no engine"):
        assert not memory.is_out_of_memory(RuntimeError(text))


class Large:
    """Stands for tensors of a step."""


@pytest.mark.parametrize("kept", ["in a cycle", "by somebody", "as the cause of one that somebody keeps"])
def test_what_was_computed_is_gone_before_less_is_tried(kept):
    """The frames of an error hold it, and hold on to the error themselves or are held by who keeps it."""
    made, holders, there = [], [], []

    def compute():
        large = Large()
        made.append(weakref.ref(large))
        error = RuntimeError("CUDA out of memory.")
        if kept == "in a cycle":
            raise error
        holders.append(error)
        del error
        raise holders[-1]

    def attempt(width):
        there.extend(reference() is not None for reference in made)
        if width == 8 and kept == "as the cause of one that somebody keeps":
            try:
                compute()
            except RuntimeError:
                cause = holders.pop()
                holders.append(RuntimeError("out of memory, told again"))
                raise holders[-1] from cause
            finally:
                cause = None
        elif width == 8:
            compute()
        return False

    gc.disable()
    try:
        memory.with_less(attempt, 8, torch.device("cpu"))
    finally:
        gc.enable()
    assert there == [False]


def test_torch_hands_back_what_it_keeps_of_a_gpu_after_the_cycles_are_gone(monkeypatch):
    calls = []
    monkeypatch.setattr(gc, "collect", lambda: calls.append("collected"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    memory.release(GPU)
    assert calls == ["collected", "emptied"]
    memory.release(torch.device("cpu"))
    assert calls == ["collected", "emptied", "collected"]
