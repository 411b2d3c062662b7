"""The recorded matching step: that it is recorded, replayed as a CUDA graph, gives what the plain one gives, and what it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import Any
from unittest import mock

import graph_stand_in
import torch
from speed_cases import observe
from torch import Tensor

from attacks import Observation
from attacks.engine import recorded
from attacks.engine.matcher import GradientMatcher
from gpu import cases, watching
from gpu.checks import Bench, Check, Row, judged, measured, not_run, skipped, there
from gpu.matching import candidates_for, iterations_of, matcher_of

#: Of derivatives in float32, between the recorded step and the plain one, whose kernels are the same.
TOLERANCE = 1e-6
CALLS = 5
#: Defense, model, victims at once. Those of PRECODE know nothing of it, so that the model samples.
CASES = [("none", "lenet", 16), ("precode", "lenet", 16), ("noise(std=0.0001)", "mlp", 8), ("pruning", "mlp", 8),
         ("none", "torchvision:resnet18", 4), ("none", "lenet", 1), ("none", "lenet", 128)]
_WATCHED = 20


@contextmanager
def rehearsed(bench: Bench) -> Iterator[None]:
    """On a CPU there are no graphs."""
    with ExitStack() as restored:
        if not bench.gpu:
            restored.enter_context(mock.patch.object(recorded, "record", graph_stand_in.record))
        yield


def rows(bench: Bench) -> Iterator[Row]:
    """For each case whether it is recorded, whether it agrees, and what an iteration costs."""
    with rehearsed(bench):
        for place, (defense, model, victims) in enumerate(CASES[1:2] if bench.tiny else CASES):
            name = f"{defense} / {model}, {victims} victims"
            if model.startswith("torchvision") and not there("torchvision"):
                yield skipped(name, "needs torchvision")
            elif bench.left() < 5 and place:
                yield not_run(name)
            else:
                observation = observe(defense, model, victims + 1, device=bench.device, side=16 if bench.tiny else 32)
                yield from _case(bench, name, observation.blind() if defense == "precode" else observation, victims)
        yield _in_a_thread(bench)


def _case(bench: Bench, name: str, observation: Observation, victims: int) -> Iterator[Row]:
    matcher, plain = (matcher_of(observation, victims, reloaded=True) for _ in range(2))
    images = candidates_for(observation, victims)
    for one in (matcher, plain):
        one.step(images)  # which may choose another step
    with watching.messages() as said:
        seconds = bench.seconds(lambda: matcher.record(images))
    replayed = is_recorded(matcher)
    distances = [_compared(matcher, plain, images, call, victims) for call in range(CALLS)]
    yield judged(f"{name}: recorded and refilled", replayed and max(distances) <= TOLERANCE,
                 f"{'recorded' if replayed else 'NOT recorded'} in {seconds:.2f} s; derivatives of {CALLS} calls apart by "
                 + ", ".join(f"{distance:.1e}" for distance in distances) + f"; the log says: {'; '.join(said) or 'nothing'}",
                 f"recorded, at most {TOLERANCE:g}", recorded=replayed, record_seconds=seconds, distances=distances, log=said)
    ours, theirs = (iterations_of(observation, one, victims) for one in (matcher, plain))
    eager, fast = bench.seconds_of_many(theirs), bench.seconds_of_many(ours)
    yield measured(f"{name}: an iteration", f"{eager * 1e3:.3f} ms as it is, {fast * 1e3:.3f} ms recorded, {eager / fast:.1f} times as fast",
                   eager_seconds=eager, recorded_seconds=fast)
    yield _watched(bench, f"{name}: {_WATCHED} iterations under the profiler", theirs, ours, expect=replayed)


def is_recorded(matcher: GradientMatcher) -> bool:
    """Whether steps are taken by something else than the step as it is."""
    found = matcher._taken
    return found is not None and found is not matcher.step_of_slots


def _compared(matcher: GradientMatcher, plain: GradientMatcher, images: Tensor, call: int, victims: int) -> float:
    """One call of both with images of its own; before the third a slot is given to the last victim."""
    if call == 2:
        for one in (matcher, plain):
            one.load(0, victims, 99)
    moved = images + 0.1 * call * torch.randn(images.shape, generator=torch.Generator().manual_seed(call)).to(images)
    (ours, cost), (theirs, expected) = (one.step(moved) for one in (matcher, plain))
    return max(cases.distance(ours, theirs), float((cost - expected).abs().max()))


def _watched(bench: Bench, name: str, eager: Callable[[], Any], replayed: Callable[[], Any], *, expect: bool) -> Row:
    def many(run: Callable[[], Any]) -> Callable[[], None]:
        def all_of_them() -> None:
            for _ in range(_WATCHED):
                run()
        return all_of_them

    plain, fast = watching.traced(bench, many(eager)), watching.traced(bench, many(replayed))
    found = (f"waits {sum(plain.waits.values())} and {sum(fast.waits.values())}, copies to the host {plain.to_host} and {fast.to_host}; "
             f"an iteration launches {plain.launches / _WATCHED:.0f} kernels as it is, {fast.launches / _WATCHED:.0f} and "
             f"{fast.graphs / _WATCHED:.1f} graphs recorded; kernels run {plain.busy / _WATCHED * 1e3:.2f} and "
             f"{fast.busy / _WATCHED * 1e3:.2f} ms")
    waits = sum(plain.waits.values()) + sum(fast.waits.values()) + plain.to_host + fast.to_host
    holds = not bench.gpu or not expect or fast.graphs >= _WATCHED
    return judged(name, waits == 0 and holds, found, "no waits, a graph each", waits=dict(plain.waits), recorded_waits=dict(fast.waits),
                  launches=plain.launches / _WATCHED, recorded_launches=fast.launches / _WATCHED, graphs=fast.graphs / _WATCHED,
                  busy_seconds=plain.busy / _WATCHED, recorded_busy_seconds=fast.busy / _WATCHED)


def _in_a_thread(bench: Bench) -> Row:
    """Workers of Ray attack in threads."""
    found: list[Any] = []

    def attack() -> None:
        observation = observe("none", "lenet", 4, device=bench.device, side=16 if bench.tiny else 32)
        matcher = matcher_of(observation, 4)
        images = candidates_for(observation, 4)
        matcher.step(images)
        with watching.messages() as said:
            matcher.record(images)
        found.extend([is_recorded(matcher), said])

    thread = Thread(target=attack)
    thread.start()
    thread.join()
    if not found:
        return judged("in a second thread", False, "the thread ended with an exception", "recorded or not, it goes on")
    return judged("in a second thread", found[0], f"{'recorded' if found[0] else 'not recorded'}; the log says: {'; '.join(found[1]) or 'nothing'}",
                  "recorded", recorded=found[0])


CHECK = Check("recorded-steps", "Are matching steps recorded, right, free of waits, and how much faster?", 60, rows)
