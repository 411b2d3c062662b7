"""The compiled matching step: that it is compiled, replayed as a CUDA graph, gives what the plain one gives, and what it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import Any
from unittest import mock

import torch
from speed_cases import observe
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from attacks import Observation
from attacks.engine.matcher import GradientMatcher
from gpu import cases, watching
from gpu.checks import Bench, Check, Row, judged, measured, not_run, skipped, there
from gpu.matching import candidates_for, iterations_of, matcher_of

#: Of derivatives in float32, between the compiled step and the plain one.
TOLERANCE = 1e-3
CALLS = 5
#: Defense, model, victims at once. Those of PRECODE know nothing of it, so that the model samples.
CASES = [("none", "lenet", 16), ("precode", "lenet", 16), ("noise(std=0.0001)", "mlp", 8), ("none", "torchvision:resnet18", 4)]
_WATCHED = 20


@contextmanager
def rehearsed(bench: Bench) -> Iterator[None]:
    """On a CPU graphs are traced as on a GPU, and run by torch's eager backend: compiling takes longer than a rehearsal may."""
    with ExitStack() as restored:
        if not bench.gpu:
            original = torch.compile
            restored.enter_context(mock.patch.object(torch, "compile", lambda graph, **_: original(graph, backend="eager")))
        yield


def rows(bench: Bench) -> Iterator[Row]:
    """For each case whether it is compiled, whether it agrees, and what an iteration costs."""
    with rehearsed(bench):
        for place, (defense, model, victims) in enumerate(CASES[1:2] if bench.tiny else CASES):
            name = f"{defense} / {model}, {victims} victims"
            if model.startswith("torchvision") and not there("torchvision"):
                yield skipped(name, "needs torchvision")
            elif bench.left() < 25 and place:
                yield not_run(name)
            else:
                observation = observe(defense, model, victims + 1, device=bench.device, side=16 if bench.tiny else 32)
                yield from _case(bench, name, observation.blind() if defense == "precode" else observation, victims)
        if bench.left() > 30 and not bench.tiny:
            yield from _without_graphs(bench)
        if bench.left() > 20:
            yield _in_a_thread(bench)


def _case(bench: Bench, name: str, observation: Observation, victims: int) -> Iterator[Row]:
    matcher, plain = (matcher_of(observation, victims, reloaded=True) for _ in range(2))
    images = candidates_for(observation, victims)
    for one in (matcher, plain):
        one.step(images)  # which may choose another step
    with watching.messages() as said:
        seconds = bench.seconds(lambda: matcher.compile(images))
    compiled = is_compiled(matcher)
    distances = [_compared(matcher, plain, images, call, victims) for call in range(CALLS)]
    yield judged(f"{name}: compiled and refilled", compiled and max(distances) <= TOLERANCE,
                 f"{'compiled' if compiled else 'NOT compiled'} in {seconds:.1f} s; derivatives of {CALLS} calls apart by "
                 + ", ".join(f"{distance:.1e}" for distance in distances) + f"; the log says: {'; '.join(said) or 'nothing'}",
                 f"compiled, at most {TOLERANCE:g}", compiled=compiled, compile_seconds=seconds, distances=distances, log=said)
    ours, theirs = (iterations_of(observation, one, victims) for one in (matcher, plain))
    eager, fast = bench.seconds_of_many(theirs), bench.seconds_of_many(ours)
    yield measured(f"{name}: an iteration", f"{eager * 1e3:.3f} ms as it is, {fast * 1e3:.3f} ms compiled, {eager / fast:.1f} times as fast",
                   eager_seconds=eager, compiled_seconds=fast)
    yield _watched(bench, f"{name}: {_WATCHED} iterations under the profiler", theirs, ours, compiled=compiled)


def is_compiled(matcher: GradientMatcher) -> bool:
    """Whether steps are taken by something else than the step as it is."""
    found = matcher._compiled
    return found is not None and found is not matcher.step_of_slots


def _compared(matcher: GradientMatcher, plain: GradientMatcher, images: Tensor, call: int, victims: int) -> float:
    """One call of both with images of its own; before the third a slot is given to the last victim."""
    if call == 2:
        for one in (matcher, plain):
            one.load(0, victims, 99)
    moved = images + 0.1 * call * torch.randn(images.shape, generator=torch.Generator().manual_seed(call)).to(images)
    (ours, cost), (theirs, expected) = (one.step(moved) for one in (matcher, plain))
    return max(cases.distance(ours, theirs), float((cost - expected).abs().max()))


def _watched(bench: Bench, name: str, eager: Callable[[], Any], compiled_: Callable[[], Any], *, compiled: bool) -> Row:
    def many(run: Callable[[], Any]) -> Callable[[], None]:
        def all_of_them() -> None:
            for _ in range(_WATCHED):
                run()
        return all_of_them

    plain, fast = watching.traced(bench, many(eager)), watching.traced(bench, many(compiled_))
    found = (f"waits {sum(plain.waits.values())} and {sum(fast.waits.values())}, copies to the host {plain.to_host} and {fast.to_host}; "
             f"an iteration launches {plain.launches / _WATCHED:.0f} kernels as it is, {fast.launches / _WATCHED:.0f} and "
             f"{fast.graphs / _WATCHED:.1f} graphs compiled")
    waits = sum(plain.waits.values()) + sum(fast.waits.values()) + plain.to_host + fast.to_host
    replayed = not bench.gpu or not compiled or fast.graphs >= _WATCHED
    return judged(name, waits == 0 and replayed, found, "no waits, a graph each", waits=dict(plain.waits), compiled_waits=dict(fast.waits),
                  launches=plain.launches / _WATCHED, compiled_launches=fast.launches / _WATCHED, graphs=fast.graphs / _WATCHED,
                  busy_seconds=plain.busy / _WATCHED, compiled_busy_seconds=fast.busy / _WATCHED)


def _without_graphs(bench: Bench) -> Iterator[Row]:
    """The same graph compiled, and not replayed as a CUDA graph."""
    defense, model, victims = CASES[0]
    observation = observe(defense, model, victims, device=bench.device, side=16 if bench.tiny else 32)
    matcher = matcher_of(observation, victims)
    images = candidates_for(observation, victims)
    expected, cost = matcher.step(images)
    function = torch.compile(make_fx(matcher.step_of_slots)(images, []), dynamic=False)
    with torch.no_grad():
        started = bench.seconds(lambda: function(images, []))
        derivative, objective = function(images, [])
        distance = max(cases.distance(derivative, expected), float((objective - cost).abs().max()))
        seconds = bench.seconds_of_many(lambda: function(images, []))
    eager = bench.seconds_of_many(lambda: matcher.step(images))
    yield judged(f"{defense} / {model}, {victims} victims: compiled without CUDA graphs", distance <= TOLERANCE,
                 f"derivatives apart by {distance:.1e}; a step {seconds * 1e3:.3f} ms, as it is {eager * 1e3:.3f}; compiled in {started:.1f} s",
                 f"at most {TOLERANCE:g}", distance=distance, seconds=seconds, eager_seconds=eager, compile_seconds=started)


def _in_a_thread(bench: Bench) -> Row:
    """Workers of Ray attack in threads."""
    found: list[Any] = []

    def attack() -> None:
        observation = observe("none", "lenet", 4, device=bench.device, side=16 if bench.tiny else 32)
        matcher = matcher_of(observation, 4)
        images = candidates_for(observation, 4)
        matcher.step(images)
        with watching.messages() as said:
            matcher.compile(images)
        found.extend([is_compiled(matcher), said])

    thread = Thread(target=attack)
    thread.start()
    thread.join()
    if not found:
        return judged("in a second thread", False, "the thread ended with an exception", "compiled or not, it goes on")
    return measured("in a second thread", f"{'compiled' if found[0] else 'not compiled'}; the log says: {'; '.join(found[1]) or 'nothing'}",
                    compiled=found[0])


CHECK = Check("compiled-steps", "Are matching steps compiled, right, free of waits, and how much faster?", 100, rows)
