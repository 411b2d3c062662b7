"""The matching step on its own: structured against general, and its iterations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

import attacks
from attacks import Observation
from attacks.engine.general import GeneralStep
from attacks.engine.matcher import GradientMatcher
from attacks.engine.slots import Slots
from attacks.engine.structured import StructuredStep
from attacks.engine.tracing import Unsuitable
from attacks.objective.objective import Objective
from attacks.search.signed_adam import SignedAdam
from gpu import agreement, cases
from gpu.checks import Bench, Check, Row, judged, not_run, skipped

#: Of derivatives in float32, between two ways to compute them.
TOLERANCE = 1e-3


def repeated(observation: Observation, victims: int) -> Observation:
    """The observation of many victims, of whom several are alike: making a gradient for each would take longer than attacking."""
    return observation.select([i % len(observation) for i in range(victims)]) if victims != len(observation) else observation


def candidates_for(observation: Observation, victims: int) -> Tensor:
    """Images [S, B, C, H, W] to evaluate."""
    generator = torch.Generator().manual_seed(5)
    distinct = min(victims, 64)
    images = torch.randn(distinct, observation.batch_size, *observation.image_shape, generator=generator).to(observation.mean)
    return images.repeat(-(-victims // distinct), 1, 1, 1, 1)[:victims].contiguous()


def matcher_of(observation: Observation, victims: int, *, reloaded: bool = False) -> GradientMatcher:
    """The matcher of the cosine with a weak prior, as Inverting Gradients has it; of the first victims."""
    assert observation.labels is not None
    return GradientMatcher(observation, observation.labels, objective_of(observation), seeds=range(victims),
                           positions=range(victims), reloaded=reloaded)


def objective_of(observation: Observation) -> Objective:
    """What Inverting Gradients minimises: of an informed attacker over what the releases tell."""
    attack = attacks.create("inverting-gradients")
    objective: Objective = attack.objective(observation)  # type: ignore[attr-defined]
    return objective


def iterations_of(observation: Observation, matcher: GradientMatcher, victims: int) -> Callable[[], Any]:
    """One iteration of the attack on all victims: a step, and signed Adam."""
    bound = torch.full((observation.image_shape[0], 1, 1), 2.0, device=observation.device).to(observation.mean)
    optimizer = SignedAdam(candidates_for(observation, victims), (), [(-bound, bound)])
    sizes = torch.full((victims,), 0.1, dtype=torch.float64, device=observation.device)

    def iteration() -> Tensor:
        derivative, objective = matcher.step(optimizer.images)
        optimizer.step(derivative, (), sizes)
        return objective

    return iteration


def rows(bench: Bench) -> Iterator[Row]:
    """Both steps on every defense and model, with 1 and with many slots, in float32; a model that the structured step does not take
    is attacked by the general one alone."""
    many = 8 if bench.tiny else 128
    for model in list(cases.model_makers())[: 2 if bench.tiny else None]:
        for defense in cases.defense_names():
            if bench.left() < 3:
                yield not_run("the rest")
                return
            of = agreement.case_of(defense, model, "single")
            if isinstance(of, str):
                yield skipped(f"{defense} / {model}", of)
                continue
            observation = cases.moved(of.observation, bench.device, torch.float32)
            for victims in (1, many):
                with suppress(Unsuitable):
                    yield _compared(f"{defense} / {model}, {victims} slots", repeated(observation, victims), victims)
                    continue
                yield skipped(f"{defense} / {model}, {victims} slots", "there is no structured step for it")


def _compared(name: str, observation: Observation, victims: int) -> Row:
    assert observation.labels is not None
    matcher = matcher_of(observation, victims)
    images, noise = candidates_for(observation, victims), [draw.clone().normal_() for draw in matcher.samples_like(candidates_for(observation, victims))]
    steps = [kind(observation, observation.labels, objective_of(observation), Slots(range(victims), victims, reloaded=False))
             for kind in (StructuredStep, GeneralStep)]
    (ours, cost), (theirs, expected) = (step(images, noise) for step in steps)
    distance = max(cases.distance(a, b) for a, b in zip(ours, theirs, strict=True))
    objective = float((cost - expected).abs().max())
    return judged(name, distance <= TOLERANCE and objective <= TOLERANCE, f"derivatives apart by {distance:.1e}, objectives by {objective:.1e}",
                  f"at most {TOLERANCE:g}", distance=distance, objective=objective)


CHECK = Check("two-steps", "Do the structured and the general matching step agree on the device?", 30, rows)
