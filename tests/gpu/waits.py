"""Where the host waits for the device, as the profiler sees it and as torch's own mode does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from speed_cases import observe

import attacks
from gpu import agreement, cases, watching
from gpu.agreement import known_to
from gpu.checks import Bench, Check, Row, judged, measured, not_run, skipped
from gpu.client_steps import loader, private_of
from gpu.matching import iterations_of, matcher_of

#: Iterations, or steps of a training, of two runs; what the longer one waits for more often lies in them.
FEW, MANY = 5, 25
#: Defenses that decompose each weight's gradient, which waits once to say whether it converged.
_DECOMPOSES = ("svd",)


def rows(bench: Bench) -> Iterator[Row]:
    """Iterations of every attack and steps of every training by the profiler; then iterations that torch lets fail where they wait."""
    yield from _made_to_fail(bench)
    for cls in (cls for cls in attacks.registry if not cls.of_others):  # others are run by those
        if "iterations" not in cls().parameters():
            continue
        for defense in ("none", "ppp") if not bench.tiny else ("ppp",):
            if bench.left() < 6:
                yield not_run("other attacks")
                break
            yield _of_an_attack(bench, cls, defense)
    for defense in cases.defense_names():
        if bench.left() < 4:
            yield not_run("other trainings")
            return
        yield _of_a_training(bench, defense)
    yield from _clocks(bench)


def _more(bench: Bench, name: str, run: Callable[[int], Any], unavoidable: int = 0) -> Row:
    """Waits that more iterations add, beside those of each that cannot be avoided."""
    run(FEW)
    few, many = (watching.traced(bench, lambda count=count: run(count)) for count in (FEW, MANY))
    added = {kind: many.waits[kind] - few.waits[kind] for kind in many.waits | few.waits if many.waits[kind] != few.waits[kind]}
    copies = many.to_host - few.to_host
    launches = (many.launches - few.launches) / (MANY - FEW)
    most = unavoidable * (MANY - FEW)
    return judged(name, sum(added.values()) <= most and copies <= most,
                  f"{MANY - FEW} more add {added or 'no waits'} and {copies} copies to the host; {launches:.0f} launches each; "
                  f"{sum(few.waits.values())} waits beside them", f"at most {most}" if most else "none", added=added, copies=copies, launches=launches,
                  beside=dict(few.waits))


def _of_an_attack(bench: Bench, cls: type[attacks.Attack], defense: str) -> Row:
    name = f"{cls.name} / {defense}"
    for observed in ("single", "two rounds"):
        of = agreement.case_of(defense, "small lenet", observed)
        assert not isinstance(of, str)
        observation = known_to(cases.moved(of.observation, bench.device, torch.float32), "informed")
        if (obstacle := cases.short(cls, FEW).obstacle(observation)) is None:
            return _more(bench, name, lambda count, known=observation: cases.short(cls, count).reconstruct(known, seed=0))
    return skipped(name, obstacle or "")


def _of_a_training(bench: Bench, defense: str) -> Row:
    try:
        private = private_of(defense, "small lenet", bench.device, torch.float32)
    except ValueError as error:
        return skipped(f"training / {defense}", str(error))
    x, y = next(iter(loader(bench.device, torch.float32, private.in_force.summed)))

    def train(steps: int) -> None:
        for _ in range(steps):
            private.backward(x, y)
            private.optimizer.step()

    weights = sum(p.dim() > 1 for p in private.module.parameters())
    return _more(bench, f"training / {defense}", train, weights if defense in _DECOMPOSES else 0)


def _made_to_fail(bench: Bench) -> Iterator[Row]:
    """Iterations on models of the papers with ``torch.cuda.set_sync_debug_mode('error')``."""
    for defense, model in (("none", "lenet"), ("pruning", "lenet"), ("precode", "lenet"), ("noise(std=0.0001)", "mlp")):
        if bench.tiny and model == "mlp":
            continue
        observation = observe(defense, model, 4, device=bench.device, side=16 if bench.tiny else 32)
        iteration = iterations_of(observation, matcher_of(observation, 4), 4)
        iteration()
        bench.wait()
        error = ""
        if bench.gpu:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the mode warns that it is a prototype
                torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                iteration()
        except RuntimeError as raised:
            error = str(raised).splitlines()[0]
        finally:
            if bench.gpu:
                torch.cuda.set_sync_debug_mode("default")
        yield judged(f"{defense} / {model}, 20 iterations that may not wait", not error, error or "none waited", "none waits")


def _clocks(bench: Bench) -> Iterator[Row]:
    """What a clock misses that is stopped before the device is done."""
    of = agreement.case_of("none", "mlp", "single")
    assert not isinstance(of, str)
    observation = cases.moved(of.observation, bench.device, torch.float32)
    for attack in (attacks.create("analytic"), attacks.create("inverting-gradients(iterations=20)")):
        if attack.obstacle(observation) is not None:
            continue
        attack.reconstruct(observation, seed=0)
        bench.wait()
        begun = bench.clock()
        attack.reconstruct(observation, seed=0)
        returned = bench.clock()
        bench.wait()
        done = bench.clock()
        yield measured(f"{attack.name}, the clock", f"returns after {(returned - begun) * 1e3:.1f} ms, done after {(done - begun) * 1e3:.1f} ms",
                       returned_seconds=returned - begun, done_seconds=done - begun)


CHECK = Check("waits", "Does the host wait for the device within iterations and training steps?", 50, rows)
