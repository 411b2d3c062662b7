"""Observations and iterations for the measurements of speed."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch.nn import functional as F

import defenses
from attacks import Observation
from attacks.engine.replayed import worth_replaying
from attacks.engine.slots import filled
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.search.problem import Problem, Start
from attacks.search.schedule import Schedule
from attacks.search.signed_adam import SignedAdam
from attacks.search.width import choose_width
from benchmark import models


def observe(defense: str, model: str, victims: int, batch_size: int = 1, *, side: int = 32, device: str | torch.device = "cpu"
            ) -> Observation:
    torch.manual_seed(0)
    module = models.build(model, (3, side, side), 10).to(device)
    private = defenses.create(defense).make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=None)
    private.module.eval()
    x = torch.randn(victims, batch_size, 3, side, side).to(device)
    y = torch.randint(10, (victims, batch_size)).to(device)
    gradients: dict[str, torch.Tensor] = {}
    for i in range(victims):
        for name, g in private.shared_gradient(x[i], y[i], seed=i).items():
            gradients.setdefault(name, g.new_empty(victims, *g.shape))[i] = g
    return Observation(module=private.module, shared=gradients, batch_size=batch_size, image_shape=(3, side, side),
                       mean=torch.zeros(3, device=device), std=torch.ones(3, device=device), labels=y, defense=private.in_force)


def plain_iteration(observation: Observation):
    """What published attacks do for one victim."""
    parameters = list(observation.module.parameters())
    observed = [g[0] for g in observation.shared.values()]
    x = torch.randn(1, *observation.image_shape, device=observation.device, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.1)

    def iteration() -> None:
        loss = F.cross_entropy(observation.module(x), observation.labels[0]) + observation.defense.regularizer(observation.module)
        gradient = torch.autograd.grad(loss.mean(), parameters, create_graph=True)
        product = sum((a * b).sum() for a, b in zip(gradient, observed, strict=True))
        norms = sum(g.square().sum() for g in gradient).sqrt() * sum(g.square().sum() for g in observed).sqrt()
        variation = x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()
        (derivative,) = torch.autograd.grad(1 - product / norms + 1e-6 * variation, x)
        x.grad = derivative.sign()
        optimizer.step()
        with torch.no_grad():
            x.clamp_(-2, 2)

    return iteration


def engine_iteration(observation: Observation):
    """One iteration of every victim, in parts of the width that an attack chooses, with the slots that it leaves idle."""
    problem = Problem(observation, observation.labels, Objective(terms=(TotalVariation(1e-6),)), Schedule(3000, 0.1, 1200), 0)
    starts = [Start(victim, 0) for victim in range(len(observation))]
    width = choose_width(problem, starts)
    parts = [starts[i : i + width] for i in range(0, len(starts), width)]
    reloaded = len(parts) > 1
    parts = [part + part[:1] * (filled(len(part), width, observation.batch_size) - len(part)) for part in parts]
    matchers = [problem.matcher(part, reloaded=reloaded) for part in parts]
    bound = torch.full((3, 1, 1), 2.0, device=observation.device)
    optimizers = [SignedAdam(problem.first_images(part), (), [(-bound, bound)]) for part in parts]
    for matcher, optimizer in zip(matchers, optimizers, strict=True):
        if worth_replaying(observation.device, len(optimizer.images), problem.schedule.iterations):
            matcher.replay(optimizer.images)
    sizes = torch.full((width,), 0.1, dtype=torch.float64, device=observation.device)

    def iteration() -> None:
        for matcher, optimizer in zip(matchers, optimizers, strict=True):
            optimizer.step(matcher.step(optimizer.images)[0], (), sizes[: len(optimizer.images)])

    return iteration


def milliseconds_in_processes(loop: str, defense: str, model: str, victims: int, *, processes: int, threads: int, repeats: int) -> float:
    """Milliseconds per victim and iteration of several processes that work at once, each with so many threads on victims of its own.

    Args:
        loop: ``plain`` or ``engine``.
        defense, model: of the observation.
        victims: that one iteration of a process moves.
        processes, threads: of each process.
        repeats: iterations that are timed, after three that are not.
    """
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes), context.Queue()
    arguments = (loop, defense, model, victims, threads, repeats, start, results)
    running = [context.Process(target=_time_a_loop, args=arguments) for _ in range(processes)]
    for process in running:
        process.start()
    # The slowest counts: an attack on several victims is over when all are done.
    slowest = max(results.get(timeout=300) for _ in running)
    for process in running:
        process.join()
    return slowest * 1e3 / (repeats * victims * processes)


def _time_a_loop(loop: str, defense: str, model: str, victims: int, threads: int, repeats: int, start: Barrier, results: Any) -> None:
    torch.set_num_threads(threads)
    iteration = (plain_iteration if loop == "plain" else engine_iteration)(observe(defense, model, victims))
    for _ in range(3):
        iteration()
    start.wait(timeout=300)
    started = time.perf_counter()
    for _ in range(repeats):
        iteration()
    results.put(time.perf_counter() - started)
