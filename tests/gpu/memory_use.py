"""Memory: the estimate by which victims are attacked at once against what a step takes, and what happens where there is too little."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar
from unittest import mock

import torch
from speed_cases import observe
from torch import Tensor, nn

import attacks
from attacks import Observation
from attacks.engine import memory
from attacks.engine.matcher import GradientMatcher
from benchmark.measure.step_memory import StepMemory
from gpu import watching
from gpu.agreement import SHARE
from gpu.checks import Bench, Check, Row, judged, measured, not_run, skipped, there
from gpu.matching import candidates_for, matcher_of, repeated

#: Attacks take half of the memory that is there, so that a step may take twice what is estimated.
_HALF = 2.0
CASES = [("none", "lenet", 512, 32), ("precode", "lenet", 256, 32), ("noise(std=0.0001)", "mlp", 32, 32), ("pruning", "mlp", 16, 32),
         ("none", "torchvision:resnet18", 16, 32), ("none", "torchvision:resnet18", 4, 224)]
_SEEN = 8
_Held = TypeVar("_Held")


def most_bytes(bench: Bench, observation: Observation | None, prepare: Callable[[], _Held], run: Callable[[_Held], Any]) -> int:
    """The most bytes that tensors hold while something runs, beyond those that were there before it was prepared, an observation
    among them; on a CPU as dispatched operations show them."""
    if bench.gpu:
        bench.wait()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(bench.device)
        held = prepare()
        torch.cuda.reset_peak_memory_stats(bench.device)
        run(held)
        bench.wait()
        return torch.cuda.max_memory_allocated(bench.device) - before
    there_before = nn.Module()
    if observation is not None:
        for place, tensor in enumerate((*observation.shared.values(), *observation.module.parameters())):
            there_before.register_buffer(str(place), tensor.detach())
    with StepMemory(there_before, torch.optim.SGD([torch.zeros(1)])) as counted:
        held = prepare()
        counted.peak = 0
        run(held)
    return counted.peak - sum(tensor.untyped_storage().nbytes() for tensor in there_before.buffers())


def rows(bench: Bench) -> Iterator[Row]:
    """A row for each case: bytes of a step, of its gradients in slots too, against the estimate for as many victims."""
    for defense, model, victims, side in CASES[:2] if bench.tiny else CASES:
        if bench.tiny:
            victims, side = 16, 16
        name = f"{defense} / {model}, {victims} victims, {side} pixels"
        if model.startswith("torchvision") and not there("torchvision"):
            yield skipped(name, "needs torchvision")
            continue
        if bench.left() < 5:
            yield not_run(name)
            continue
        observation = repeated(observe(defense, model, min(_SEEN, victims), side=side, device=bench.device), victims)
        images = candidates_for(observation, victims)
        alone = matcher_of(observation.select([0]), 1, reloaded=True)
        estimate = victims * alone.bytes_per_victim(images[:1])

        def made(observation: Observation = observation, victims: int = victims, images: Tensor = images) -> GradientMatcher:
            matcher = matcher_of(observation, victims, reloaded=True)
            matcher.step(images)  # the first one compares both steps, on two victims
            return matcher

        peak = most_bytes(bench, observation, made, lambda matcher, images=images: matcher.step(images))
        yield judged(name, peak <= _HALF * estimate, f"took {peak / 2**20:.0f} MiB, estimated {estimate / 2**20:.0f}: {peak / estimate:.2f} of it",
                     f"at most {_HALF:g} times the estimate", peak_bytes=peak, estimated_bytes=estimate)
    yield _of_a_training(bench)


def _of_a_training(bench: Bench) -> Row:
    """The benchmark's count of a training step, which leaves out what kernels take for themselves."""
    module = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)).to(bench.device)
    x, y = torch.randn(64, 3, 32, 32, device=bench.device), torch.zeros(64, dtype=torch.long, device=bench.device)
    module(x)
    optimizer = torch.optim.Adam(module.parameters())

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()

    step()
    with StepMemory(module, optimizer) as counted:
        step()
    held = sum(p.numel() * p.element_size() * 4 for p in module.parameters())  # with gradients and two moments
    peak = most_bytes(bench, None, lambda: None, lambda _: step()) + (held if bench.gpu else 0)
    return measured("a training step", f"counted {counted.peak / 2**20:.1f} MiB, allocated {peak / 2**20:.1f}: {peak / counted.peak:.2f} of it",
                    counted_bytes=counted.peak, allocated_bytes=peak)


def halving_rows(bench: Bench) -> Iterator[Row]:
    """An attack that has 85 % of the memory that it would take: the number of victims is halved once, what the first try
    held is free before the second, and the result is the same."""
    victims = 16 if bench.tiny else 2048
    observation = repeated(observe("none", "lenet", _SEEN, side=16 if bench.tiny else 32, device=bench.device), victims)
    attack = attacks.create("inverting-gradients(iterations=3)")
    expected = None

    def run() -> None:
        nonlocal expected
        expected = attack.reconstruct(observation, seed=0)

    run()
    peak = most_bytes(bench, observation, lambda: None, lambda _: run())
    assert expected is not None
    texts: list[str] = []
    held: list[int] = []
    before = torch.cuda.memory_allocated(bench.device) if bench.gpu else 0
    with ExitStack() as restored:
        restored.enter_context(mock.patch.object(memory, "is_out_of_memory", _noting(memory.is_out_of_memory, texts)))
        said = restored.enter_context(watching.messages())
        if bench.gpu:
            restored.enter_context(mock.patch.object(torch.cuda, "empty_cache", _noting_memory(torch.cuda.empty_cache, held, bench)))
            _cap(bench, before + 0.85 * peak)
            restored.callback(torch.cuda.set_per_process_memory_fraction, 1.0, bench.device)
        else:
            restored.enter_context(mock.patch.object(GradientMatcher, "step", _too_large(GradientMatcher.step, victims // 2)))
        logging.getLogger("leakboard").info("the memory is short now")
        found = attack.reconstruct(observation, seed=0)
    halvings = [line for line in said if "out of memory" in line]
    apart = float(((found.images - expected.images).abs() > 1e-2).double().mean())
    yield judged("out of memory", len(halvings) == 1 and apart <= SHARE, f"halved {len(halvings)} times, {apart:.1%} of pixels differ; "
                 f"the error said: {texts[0][:160] if texts else 'nothing'}", f"halved once, at most {SHARE:.0%} of pixels differ",
                 messages=said, errors=texts, apart=apart, peak_bytes=peak)
    if bench.gpu:
        kept = max((amount - before for amount in held), default=0)
        yield judged("memory before the second try", bool(held) and kept <= 0.1 * peak, f"{kept / 2**20:.0f} MiB of the {peak / 2**20:.0f} of the first",
                     "at most a tenth", kept_bytes=kept)
    else:
        yield skipped("memory before the second try", "a GPU's allocator is asked for it")


def _cap(bench: Bench, bytes_: float) -> None:
    """Let this process have so many bytes of the GPU."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction(float(min(1.0, bytes_ / total)), bench.device)


def _noting(original: Callable[[BaseException], bool], texts: list[str]) -> Callable[[BaseException], bool]:
    def asked(error: BaseException) -> bool:
        texts.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
        return original(error)
    return asked


def _noting_memory(original: Callable[[], None], held: list[int], bench: Bench) -> Callable[[], None]:
    def emptied() -> None:
        held.append(torch.cuda.memory_allocated(bench.device))
        original()
    return emptied


def _too_large(original: Any, most: int) -> Any:
    """Stands in for a GPU whose memory holds so many victims."""
    def step(self: GradientMatcher, images: Tensor) -> Any:
        if len(images) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate more than the stand-in has.")
        return original(self, images)
    return step


CHECK = Check("memory", "Does a matching step take what was estimated?", 30, rows)
HALVING_CHECK = Check("out-of-memory", "Does an attack go on with half as many victims where memory is short?", 25, halving_rows)
