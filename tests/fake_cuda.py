"""Runs the steps of every defense, model and attack on fake tensors of a GPU, on a machine without one; prints a line for each.

Fake tensors have a shape, a type and a device, and an operation that mixes devices raises, as on a GPU. PyTorch's autograd engine asks a
GPU for its context, which is not there, so zeros of the right shape stand in for derivatives; with real derivatives the same code is
run on fake tensors of the meta device by the contract tests. DP-SGD is left to these alone: Opacus works in hooks of the engine.

It is a program of its own: torch 2.14 crashes where Python collects the cycles of graphs over fake CUDA tensors, so nothing is
collected here, and the processes end without clearing up. Now and then it crashes all the same; only what did not end is tried again.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
import traceback
from collections.abc import Callable

import numpy as np
import opacus  # noqa: F401 - it loads parts of torch, which do not load any more once torch's classes have stand-ins
import pytest
import torch
from attack_cases import observation_of
from model_cases import MODELS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import attacks
import defenses
from attacks.engine.matcher import GradientMatcher
from benchmark.config import Evaluation
from benchmark.data.datasets import Dataset
from benchmark.data.loaders import BatchLoader, LabelledImages
from benchmark.measure import evaluation, training
from benchmark.measure.victims import Victims
from defenses import LocalSteps
from defenses.client import ONE_GRADIENT

DEVICE = torch.device("cuda:0")
#: Of defenses that read something on the device when a training is planned, a specification that says it.
SAID = {"ats": "ats(mean=(0.0, 0.0), std=(1.0, 1.0))"}
DEFENSES = [SAID.get(cls.name, cls.name) for cls in defenses.registry if cls.__module__.startswith("defenses.") and not cls().guarantees]


def zeros_for(outputs, inputs, *arguments, **others):
    return tuple(torch.zeros_like(tensor) for tensor in ((inputs,) if isinstance(inputs, torch.Tensor) else inputs))


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Put something in the place of what only a GPU can do, and of comparisons of numbers, which fake tensors do not have."""
    fork, generator = torch.random.fork_rng, torch.Generator
    patch.setattr(torch.autograd, "grad", zeros_for)
    patch.setattr("torch._functorch.eager_transforms._autograd_grad", zeros_for)
    patch.setattr(torch.random, "fork_rng", lambda devices=(), **others: fork(devices=[]))
    patch.setattr(torch, "Generator", lambda device="cpu": generator("cpu"))
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    patch.setattr(torch, "equal", lambda a, b: a.shape == b.shape and len(a) == 1)  # the pixels of one image; no two rounds are equal
    patch.setattr(FakeTensor, "tolist", lambda tensor: np.zeros(tuple(tensor.shape)).tolist())
    patch.setattr(GradientMatcher, "_disagreement", lambda *arguments: None)
    patch.setattr("attacks.engine.layers.rule.factors", lambda gradients, rank: None)
    patch.setattr("attacks.search.minimise.choose_width", lambda problem, waiting: 4)


def train_and_observe(defense: str, model: str) -> None:
    """A training of two steps from the benchmark's loader, the test, and an observation."""
    clients = defenses.create(defense).summed
    pixels = torch.zeros(12 * clients, 8, 8, 2, dtype=torch.uint8)
    images = LabelledImages(pixels, torch.zeros(12 * clients, dtype=torch.long), torch.zeros(2), torch.ones(2))
    dataset = Dataset("fake", tuple("abcde"), images, images, "")
    module = MODELS[model]()
    private = defenses.create(defense).make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1, foreach=False), data_loader=BatchLoader(images, 6 * clients), epochs=1,
        generator=torch.Generator("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "float", lambda tensor: 0.0, raising=False)
        patch.setattr(training, "int", lambda tensor: 0, raising=False)
        for precision in ("float32", "bfloat16"):
            training._train_epoch(private, DEVICE, precision, None, None)
        training.test_accuracy(private.module, images, 0)
    assert {p.grad.device for p in private.module.parameters()} == {DEVICE}
    victims = Victims(images, np.arange(6 * clients).reshape(3, 2 * clients), (0, 1, 2))
    for precision in ("float32", "bfloat16"):
        observed = evaluation.observe(private, victims, dataset, Evaluation(victims=3, rounds=2), 0, precision=precision)
        assert {g.device for known in (observed, observed.averaged()) for g in known.shared.values()} == {DEVICE}


def attack(cls: type[attacks.Attack], defense: str, model: str) -> str:
    local = LocalSteps(2, 0.1) if "updates" in cls.needs else ONE_GRADIENT
    observation, _ = observation_of(defense, model, client_generator=torch.Generator("cpu"), victims=5, rounds=1 if local else 2, local=local)
    known = {field.name for field in dataclasses.fields(cls)}
    made = cls(**{name: count for name, count in (("iterations", 1), ("restarts", 1)) if name in known})
    obstacles = {}
    for knowledge, known_of in (("blind", observation.blind()), ("informed", observation)):
        if (obstacle := made.obstacle(known_of)) is not None:
            obstacles[knowledge] = obstacle
            continue
        found = made.reconstruct(known_of, seed=0)
        assert found.images.device == found.cost.device == found.labels.device == DEVICE
    return f"does not apply: {obstacles['informed']}" if len(obstacles) == 2 else ""


def tell(name: str, step: Callable[[], str | None]) -> None:
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device(DEVICE):
            outcome = step() or "ok"
    except Exception as error:
        own = [place for place in traceback.extract_tb(error.__traceback__) if "site-packages" not in place.filename]
        place = own[-1]
        outcome = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:200]} ({place.filename}:{place.lineno})"
    print(f"{name}: {outcome}", flush=True)


def in_children(steps: list[tuple[str, Callable[[], str | None]]]) -> None:
    """Takes the steps in a child, and those that are left in another where torch crashes; the same one three times at most."""
    reading, writing = os.pipe()
    done, crashes = 0, 0
    while done < len(steps):
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            for name, step in steps[done:]:
                tell(name, step)
                os.write(writing, b".")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(writing, b"|")
        finished = len(os.read(reading, len(steps) + 1)) - 1
        done, crashes = done + finished, 1 if finished else crashes + 1
        if done < len(steps) and crashes == 3:
            print(f"{steps[done][0]}: FAILED with exit code {code}")
            return


def main() -> None:
    gc.disable()
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        for defense in DEFENSES:
            for model in MODELS:
                try:
                    defenses.create(defense).extend_model(MODELS[model]())
                except ValueError as reason:
                    print(f"{defense} / {model}: does not apply: {reason}")
                    continue
                steps = {"training": lambda defense=defense, model=model: train_and_observe(defense, model)}
                # A defense that leaves the model as it is meets the layers of one model; the others would take the same lines.
                if model == "lenet" or defense in ("none", "precode"):
                    steps |= {cls.name: lambda cls=cls, defense=defense, model=model: attack(cls, defense, model) for cls in attacks.registry
                              if not cls.of_others}  # which choose by numbers that fake tensors do not have
                in_children([(f"{defense} / {model} / {name}", step) for name, step in steps.items()])


if __name__ == "__main__":
    main()
