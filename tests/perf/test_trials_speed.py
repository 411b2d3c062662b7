"""What a tuning trial takes: a step of several models as one batched model beside one of each, and the steps of dear defenses beside
what they are made of. One thread, seconds of the processor, in turns; on a GPU, where there is one, seconds with its work done."""

from __future__ import annotations

import statistics
import time
import warnings

import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

import defenses
from benchmark import models
from defenses.support import smallest

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ADAM = {"lr": 1e-3, "fused": True}


class Loader(list):
    dataset = range(12_800)

    def with_poisson_sampling(self):
        return self


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch_of(size, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(size, 32, 32, 3, device=DEVICE, dtype=dtype).permute(0, 3, 1, 2), torch.arange(size, device=DEVICE) % 10


def trained(model, defense, x, y, dtype=torch.float32):
    torch.manual_seed(0)
    module = models.build(model, (3, 32, 32), 10).to(DEVICE, dtype)
    private = defenses.create(defense).make_private(
        module=module, optimizer=torch.optim.Adam(module.parameters(), **ADAM), data_loader=Loader([(x, y)] * (12_800 // len(x))),
        generator=torch.Generator(DEVICE).manual_seed(2))
    private.module.train()
    return private


def clock():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def in_turns(benchmark, ways, rounds=7, steps=3):
    """Prints the median of each way's milliseconds and of the first's ratio to it, round by round; returns the ratios."""
    taken = {name: [] for name in ways}

    def each() -> None:
        for name, way in ways.items():
            started = clock()
            for _ in range(steps):
                way()
            taken[name].append((clock() - started) / steps * 1e3)

    benchmark.pedantic(each, rounds=rounds, warmup_rounds=1)
    first = next(iter(taken.values()))[1:]  # without the warm-up
    ratios = {name: statistics.median(a / b for a, b in zip(first, times[1:], strict=True)) for name, times in taken.items()}
    for name, times in taken.items():
        benchmark.extra_info[name] = statistics.median(times[1:])
        print(f"\n{name}: {statistics.median(times[1:]):.2f} ms, {ratios[name]:.2f} times as fast as the first", end="")
    print()
    return ratios


def batched(model, defense, count, x, y, dtype=torch.float32):
    """A step of several models of one defense that leaves the gradient as it is, as one model; what they sample is the same."""
    made = [trained(model, defense, x, y, dtype) for _ in range(count)]
    parameters, buffers = stack_module_state([private.module for private in made])
    optimizer, module, applied = torch.optim.Adam(parameters.values(), **ADAM), made[0].module, made[0].in_force

    def loss(parameters, buffers):
        return (F.cross_entropy(functional_call(module, (parameters, buffers), (x,)), y, reduction="none")
                + applied.regularizer(module)).mean()

    def step() -> None:
        gradients = vmap(grad(loss), randomness="same")(parameters, buffers)
        for name, parameter in parameters.items():
            parameter.grad = torch.empty_like(parameter).copy_(gradients[name])
        optimizer.step()

    return parameters, step


@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("model", ["lenet", "mlp"])
@pytest.mark.parametrize("defense", ["none", "precode"])
def test_several_trials_as_one_model(benchmark, model, defense, size, count):
    """Nothing is asked for but the same step: on a CPU it does not pay, and a GPU's figures are to be seen first."""
    x, y = batch_of(size, torch.float64)
    one, (parameters, step) = trained(model, defense, x, y, torch.float64), batched(model, defense, 2, x, y, torch.float64)
    torch.manual_seed(3)
    one.backward(x, y)
    one.optimizer.step()
    torch.manual_seed(3)
    step()
    for name, parameter in one.module.named_parameters():
        for of_one in parameters[name]:
            torch.testing.assert_close(of_one, parameter, rtol=1e-9, atol=1e-9)
    x, y = batch_of(size)
    each = [trained(model, defense, x, y) for _ in range(count)]

    def one_by_one() -> None:
        for private in each:
            private.backward(x, y)
            private.optimizer.step()

    in_turns(benchmark, {f"{count} one by one": one_by_one, "as one model": batched(model, defense, count, x, y)[1]}, rounds=5)


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize(("model", "least"), [("lenet", 1.4), ("mlp", 1.1)])
def test_clipping_by_one_backward_pass(benchmark, model, least, size, monkeypatch):
    """Beside Opacus' ghost clipping, and a training step of plain Opacus where its gradients of single images fit."""
    warnings.filterwarnings("ignore", message="Full backward hook")
    x, y = batch_of(size)
    ours, theirs, undefended = (trained(model, defense, x, y) for defense in ("dp-sgd", "dp-sgd", "none"))

    def step(private) -> None:
        private.backward(x, y)
        private.optimizer.step()

    def by_opacus() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("defenses.support.clipped_sum.clipped_sum", lambda *arguments: None)
            step(theirs)

    ways = {"ghost clipping": by_opacus, "ours": lambda: step(ours), "no defense": lambda: step(undefended)}
    if model == "lenet":
        module = GradSampleModule(trained(model, "none", x, y).module)
        optimizer = DPOptimizer(torch.optim.Adam(module.parameters(), **ADAM), noise_multiplier=1.0, max_grad_norm=1.0,
                                expected_batch_size=size)

        def plain() -> None:
            optimizer.zero_grad()
            F.cross_entropy(module(x.contiguous()), y).backward()
            optimizer.step()

        ways["plain Opacus"] = plain
    assert in_turns(benchmark, ways)["ours"] >= least


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a GPU selects at once")
def test_pruning_of_large_tensors(benchmark, monkeypatch):
    x, y = batch_of(64)
    private = trained("mlp", "pruning(p=0.9)", x, y)

    def at_once() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(smallest, "_MANY", 2**60)
            private.backward(x, y)

    assert in_turns(benchmark, {"at once": at_once, "by halves": lambda: private.backward(x, y)})["by halves"] >= 1.6
