"""What clients share and how they train, every defense on every model: the device against the CPU in float64, with the noise replayed;
training in bf16; and what only DP-SGD does."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import defenses
from benchmark.measure.precision import autocast
from gpu import cases
from gpu.agreement import SHARE
from gpu.checks import Bench, Check, Row, judged, not_run, skipped, there
from gpu.draws import SameDraws

STEPS = 3
#: Of the gradients, and of the weights after a few steps, by precision.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
#: What rounding in float32 comes to on the CPU where a defense does not amplify it. One that divides by small entries, or chooses by
#: numbers that are nearly equal, does: both tolerances grow by as much as it does on the CPU.
_ROUNDING = 1e-5
#: Relative distance of a gradient in bf16, which has eight bits, from one in float64, over all parameters together.
BF16 = 0.1
aten = torch.ops.aten
_PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default,
             aten.convolution_backward.default}


def loader(device: torch.device, dtype: torch.dtype, clients: int = 1) -> Any:
    """Batches of six images of each client on the device."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24 * clients, *cases.SHAPE, generator=generator).to(device, dtype)
    y = torch.randint(cases.CLASSES, (24 * clients,), generator=generator).to(device)
    dataset = torch.utils.data.TensorDataset(x, y)
    dataset.mean, dataset.std = (0.5, 0.5), (0.25, 0.25)
    return torch.utils.data.DataLoader(dataset, batch_size=6 * clients)


def private_of(defense: str, model: str, device: torch.device, dtype: torch.dtype) -> defenses.Private:
    """A training under SGD, which begins with the same weights everywhere."""
    torch.manual_seed(0)
    module = cases.model_makers()[model]().to(device, dtype)
    made = defenses.create(defense)
    private = made.make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader(device, dtype, made.summed), epochs=1,
        generator=torch.Generator(device).manual_seed(0))
    private.module.to(dtype).train()
    return private


def client(defense: str, model: str, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A shared gradient, and the weights after some steps."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), SameDraws():
        private = private_of(defense, model, device, dtype)
        x, y = next(iter(loader(device, dtype, private.in_force.summed)))
        shared = {name: g.cpu() for name, g in private.shared_gradient(x, y, seed=3).items()}
        for _ in range(STEPS):
            private.backward(x, y)
            private.optimizer.step()
    return shared, {name: p.detach().cpu() for name, p in private.module.named_parameters()}


def rows(bench: Bench) -> Iterator[Row]:
    """A row for each defense and model."""
    cpu = torch.device("cpu")
    for model in list(cases.model_makers())[: 1 if bench.tiny else None]:
        for defense in cases.defense_names():
            if bench.left() < 3:
                yield not_run("the rest")
                return
            try:
                expected = client(defense, model, cpu, torch.float64)
            except ValueError as error:
                yield skipped(f"{defense} / {model}", str(error))
                continue
            told, values, holds = [], {}, True
            rounding = _apart(client(defense, model, cpu, torch.float32), expected)
            amplified = max(1.0, rounding / _ROUNDING)
            for dtype, tolerance in TOLERANCE.items():
                distance = _apart(client(defense, model, bench.device, dtype), expected)
                holds &= distance <= tolerance * amplified
                values[str(dtype)] = distance
                told.append(f"{str(dtype).removeprefix('torch.')} {distance:.1e}")
            yield judged(f"{defense} / {model}", holds, f"gradients and weights apart by {', '.join(told)}; CPU float32 {rounding:.1e}",
                         f"all but {SHARE:.0%} of entries at most {amplified * 1e-9:.1e} and {amplified * 1e-4:.1e}", cpu_float32=rounding, **values)
    yield from _empty_samples(bench)


def _apart(found: tuple[dict[str, Tensor], ...], expected: tuple[dict[str, Tensor], ...]) -> float:
    """By how much all entries but a share of them are apart at most, relative to their tensor's root mean square and to themselves."""
    pairs = [(a[name], b[name]) for a, b in zip(found, expected, strict=True) for name in b]
    errors = torch.cat([cases.errors(a, b) for a, b in pairs])
    return float(errors.sort().values[math.ceil((1 - SHARE) * len(errors)) - 1])


def _empty_samples(bench: Bench) -> Iterator[Row]:
    """A Poisson sample can be empty: what leaves is then noise alone."""
    for defense in [cls.name for cls in defenses.registry if cls().samples]:
        if not there("opacus"):
            yield skipped(f"{defense}, an empty sample", "needs opacus")
            continue
        private = private_of(defense, "small lenet", bench.device, torch.float32)
        x, y = torch.zeros(0, *cases.SHAPE, device=bench.device), torch.zeros(0, dtype=torch.long, device=bench.device)
        private.backward(x, y)
        gradients = [p.grad for p in private.module.parameters() if p.grad is not None]
        spread = torch.cat([g.flatten() for g in gradients]).std().item()
        holds = 0 < spread < math.inf and {g.device.type for g in gradients} == {bench.device.type}
        yield judged(f"{defense}, an empty sample", holds, f"a gradient of standard deviation {spread:.3f}", "noise, on the device", spread=spread)


class ProductTypes(TorchDispatchMode):
    """Counts the types of what enters products of matrices and convolutions, in the passes of autograd too."""

    def __init__(self) -> None:
        super().__init__()
        self.types: Counter[torch.dtype] = Counter()
        self.halves: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)]
        if function in _PRODUCTS:
            self.types[args[1].dtype] += 1
        if any(tensor.dtype == torch.float16 for tensor in tensors):
            self.halves[str(function)] += 1
        return result


def bf16_rows(bench: Bench) -> Iterator[Row]:
    """A step as the benchmark trains in bf16: forward and backward pass under autocast."""
    cpu = torch.device("cpu")
    for model in ("small lenet", "small mlp", "small batch-norm"):
        for defense in ("none", "precode", *(["dp-sgd(noise_multiplier=0.0)"] if there("opacus") else [])):
            name = f"{defense} / {model}"
            shared, _ = client(defense, model, cpu, torch.float64)
            with torch.random.fork_rng(devices=[bench.device] if bench.gpu else []), SameDraws():
                private = private_of(defense, model, bench.device, torch.float32)
                x, y = next(iter(loader(bench.device, torch.float32)))
                with ProductTypes() as seen, autocast(bench.device, "bfloat16"):
                    found = private.shared_gradient(x, y, seed=3)
                with autocast(bench.device, "bfloat16"):
                    loss = private.backward(x, y)
                private.optimizer.step()
            kinds = {g.dtype for g in found.values()} | {p.dtype for p in private.module.parameters()}
            distance = cases.distance(*(torch.cat([of[n].detach().cpu().double().flatten() for n in shared]) for of in (found, shared)))
            products = {str(kind).removeprefix("torch."): count for kind, count in seen.types.items()}
            holds = (not seen.halves and kinds == {torch.float32} and distance <= BF16 and seen.types[torch.bfloat16] > 0
                     and bool(loss.isfinite()))
            yield judged(name, holds, f"products {products}, fp16 in {dict(seen.halves) or 'nothing'}, apart by {distance:.1e}",
                         f"gradients and weights float32, no fp16, some products in bf16, apart by at most {BF16}", products=products,
                         fp16=dict(seen.halves), distance=distance)
    if bench.gpu:
        yield judged("bf16 in hardware", torch.cuda.is_bf16_supported(), "there" if torch.cuda.is_bf16_supported() else "missing",
                     "the GPU has it")


CHECK = Check("client-steps", "Do clients share and train on the device as on the CPU, under every defense?", 45, rows)
BF16_CHECK = Check("bf16", "In which types are products computed when training in bf16, forward and backward?", 15, bf16_rows)

