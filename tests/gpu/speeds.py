"""Milliseconds per victim and iteration, from one victim to as many as memory holds, against the plain loop on the same device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from speed_cases import observe, plain_iteration

from attacks.engine import memory
from attacks.engine.slots import even
from gpu import watching
from gpu.checks import Bench, Check, Row, judged, measured, not_run, skipped, there
from gpu.matching import candidates_for, iterations_of, matcher_of, repeated

CASES = [("none", "lenet", 32), ("noise(std=0.0001)", "mlp", 32), ("none", "torchvision:resnet18", 32),
         ("none", "torchvision:resnet18", 224), ("precode", "lenet", 32)]
VICTIMS = (1, 8, 32, 128, 512, 2048, 8192, 32768, 131072)
#: Distinct gradients; more victims have these again.
_SEEN = 8
#: Seconds that setting up a matcher may take.
_SET_UP = 6.0


def rows(bench: Bench) -> Iterator[Row]:
    """Of each model the plain loop, then the engine for more and more victims, and its share of what the device reaches."""
    cases = CASES[:2] if bench.tiny else CASES
    for place, (defense, model, side) in enumerate(cases):
        side = 16 if bench.tiny else side
        name = f"{defense} / {model}, {side} pixels"
        if model.startswith("torchvision") and not there("torchvision"):
            yield skipped(name, "needs torchvision")
            continue
        if bench.left() < 5:
            yield not_run(name)
            continue
        end = bench.clock() + bench.left() / (len(cases) - place)
        yield from _case(bench, name, defense, model, side, end)


def _case(bench: Bench, name: str, defense: str, model: str, side: int, end: float) -> Iterator[Row]:
    few = observe(defense, model, _SEEN, side=side, device=bench.device)
    plain = bench.seconds_of_many(plain_iteration(few))
    yield measured(f"{name}: the plain loop", f"{plain * 1e3:.3f} ms per victim and iteration", seconds=plain)
    image = candidates_for(few, 1)
    each = matcher_of(few.select([0]), 1, reloaded=True).bytes_per_victim(image)
    most = even(max(1, memory.budget(bench.device) // each))
    iteration = iterations_of(few, matcher_of(few, _SEEN), _SEEN)
    iteration()  # the first one compares both steps
    work = watching.work_of(iteration)
    set_up, before = 0.0, 1
    for victims in (*(count for count in VICTIMS if count < most and count <= (8 if bench.tiny else VICTIMS[-1])), most):
        if bench.tiny and victims == most:
            return
        if set_up * victims / before > _SET_UP or bench.clock() > end:
            yield not_run(f"{name}: {victims} victims and more", f"memory holds {most}; setting up {before} took {set_up:.1f} s")
            return
        try:
            row, set_up = _engine(bench, f"{name}: {victims} victims" + (", as many as memory holds" if victims == most else ""),
                                  few, victims, plain, work)
        except torch.cuda.OutOfMemoryError as error:
            yield judged(f"{name}: {victims} victims", False, " ".join(str(error).split())[:160], f"memory holds {most}")
            return
        before = victims
        yield row


def _engine(bench: Bench, name: str, few: object, victims: int, plain: float, work: watching.Work) -> tuple[Row, float]:
    observation = repeated(few.select(list(range(min(_SEEN, victims)))), victims)  # type: ignore[attr-defined]
    started = bench.clock()
    matcher = matcher_of(observation, victims)
    iteration = iterations_of(observation, matcher, victims)
    iteration()
    if bench.gpu:
        matcher.record(candidates_for(observation, victims))
        iteration()
    bench.wait()
    set_up = bench.clock() - started
    taken = bench.seconds_of_many(iteration)
    each = taken / victims
    flops, moved = (amount / _SEEN / each for amount in (work.flops, work.bytes))
    values = {"seconds": each, "ratio": plain / each, "flops_per_second": flops, "bytes_per_second": moved, "set_up_seconds": set_up}
    shares = [f"{100 * amount / bench.kept[key]:.0f} % of {what}" for amount, key, what in (
        (flops, "flops_per_second", "FLOP/s"), (moved, "bytes_per_second", "bandwidth")) if key in bench.kept]
    found = f"{each * 1e3:.4f} ms per victim and iteration, {plain / each:.1f} times the plain loop"
    if shares:
        found += f"; {' and '.join(shares)}"
    if bench.gpu and bench.left() > 10:
        seen = watching.traced(bench, iteration)
        values.update(busy=seen.busy / taken, launches=seen.launches)
        found += f"; kernels run {100 * seen.busy / taken:.0f} % of the time, {seen.launches} launches"
        torch.cuda.empty_cache()
    return measured(name, f"{found}; set up in {set_up:.2f} s", **values), set_up


CHECK = Check("speeds", "What does an iteration cost per victim, against the plain loop on the same device?", 90, rows)
