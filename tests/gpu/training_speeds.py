"""A step of training: ours against the plain loop, and DP-SGD against plain Opacus, on the same device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import defenses
from benchmark import models
from gpu.checks import Bench, Check, Row, measured, not_run, skipped, there

CASES = [("lenet", 64, 32), ("lenet", 1024, 32), ("mlp", 256, 32), ("torchvision:resnet18", 64, 32)]
#: Images that a training has.
_IMAGES = 4096


def rows(bench: Bench) -> Iterator[Row]:
    """A step of each, in turns."""
    for model, batch, side in CASES[:1] if bench.tiny else CASES:
        batch, side = (8, 16) if bench.tiny else (batch, side)
        name = f"{model}, batches of {batch}"
        if model.startswith("torchvision") and not there("torchvision"):
            yield skipped(name, "needs torchvision")
            continue
        if bench.left() < 6:
            yield not_run(name)
            continue
        ways = {"plain": _plain(bench, model, batch, side)}
        ways |= {defense: _ours(bench, defense, model, batch, side) for defense in ("none", "noise", "pruning", "precode")}
        if there("opacus"):
            ways |= {"dp-sgd": _ours(bench, "dp-sgd", model, batch, side), "plain Opacus": _opacus(bench, model, batch, side)}
        else:
            yield skipped(f"{name}: dp-sgd", "needs opacus")
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(2 if bench.tiny else 3):
            for way, step in ways.items():
                taken[way].append(bench.seconds_of_many(step, at_least=0.1))
        fastest = {way: min(seconds) for way, seconds in taken.items()}
        for way, seconds in fastest.items():
            base = "plain Opacus" if way == "dp-sgd" else "plain"
            beside = "" if way == base or way == "plain Opacus" else f", {seconds / fastest[base]:.2f} times {base}"
            yield measured(f"{name}: {way}", f"{seconds * 1e3:.3f} ms a step{beside}", seconds=seconds, of_plain=seconds / fastest[base])


def _batch(bench: Bench, batch: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, side, side, device=bench.device), torch.randint(10, (batch,), device=bench.device)


def _made(bench: Bench, model: str, side: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    module = models.build(model, (3, side, side), 10).to(bench.device)
    return module, torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)


def _plain(bench: Bench, model: str, batch: int, side: int) -> Callable[[], Any]:
    (module, optimizer), (x, y) = _made(bench, model, side), _batch(bench, batch, side)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()

    return step


def _loader(batch: int) -> Any:
    """Tells how many images there are; batches do not come from it, as loading them is not what is measured."""
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(_IMAGES, 1)), batch_size=batch)


def _ours(bench: Bench, defense: str, model: str, batch: int, side: int) -> Callable[[], Any]:
    (module, optimizer), (x, y) = _made(bench, model, side), _batch(bench, batch, side)
    private = defenses.create(defense).make_private(
        module=module, optimizer=optimizer, data_loader=_loader(batch), epochs=1, generator=torch.Generator(bench.device).manual_seed(0))
    private.module.train()

    def step() -> None:
        private.backward(x, y)
        private.optimizer.step()

    return step


def _opacus(bench: Bench, model: str, batch: int, side: int) -> Callable[[], Any]:
    """Per-sample gradients and hooks, as Opacus' ``make_private`` hands them back by default."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.validators import ModuleValidator

    made, _ = _made(bench, model, side)
    module = ModuleValidator.fix(made)
    for layer in module.modules():
        if getattr(layer, "inplace", False) is True:
            layer.inplace = False
    x, y = _batch(bench, batch, side)
    wrapped = GradSampleModule(module, loss_reduction="mean")
    optimizer = DPOptimizer(torch.optim.Adam(module.parameters(), lr=1e-3), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=batch)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizer.step()

    return step


CHECK = Check("training-speeds", "What does a step of training cost, against the plain loop and plain Opacus?", 45, rows)
