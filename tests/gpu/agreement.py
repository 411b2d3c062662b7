"""A pairwise cover of defenses, models, attacks, what is observed and knowledge: the device against the CPU in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import attacks
from attacks import Observation
from attacks.engine.matcher import GradientMatcher
from attacks.identification import Identifier
from attacks.score import score
from gpu import cases, cover
from gpu.checks import Bench, Check, Row, judged, not_run
from gpu.draws import SameDraws

ITERATIONS = 4
#: By precision: entries of the derivative, objectives and scores may differ by this much, relative to their root mean square.
#: In float32 the CPU is told apart from float64 by up to a tenth of these (the report shows by how much).
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
#: The share of the entries that may differ by more: signed Adam moves a pixel whose derivative is about zero by rounding alone, and
#: pruning may keep one of two equal magnitudes.
SHARE = 0.02


@dataclass
class Outcome:
    """What a case comes to, on the CPU in float64.

    Attributes:
        steps: derivative and objective of the first evaluation of each matching.
        images, cost, score: of the reconstruction.
        scores: of the candidates; infinite where they have none.
        ranks: of the true candidates.
    """

    steps: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    images: Tensor = field(default_factory=lambda: torch.zeros(0))
    cost: Tensor = field(default_factory=lambda: torch.zeros(0))
    score: Tensor = field(default_factory=lambda: torch.zeros(0))
    scores: Tensor = field(default_factory=lambda: torch.zeros(0))
    ranks: tuple[int, ...] = ()


@contextmanager
def first_steps(into: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Note the first evaluation of every matcher that is made: there all devices see the same images."""
    seen: set[int] = set()
    kept: list[GradientMatcher] = []

    def noted(original: Any) -> Any:
        def step(self: GradientMatcher, *arguments: Any) -> Any:
            found = original(self, *arguments)
            if id(self) not in seen:
                seen.add(id(self))
                kept.append(self)
                into.append((found[0].detach().cpu().double(), found[-1].detach().cpu().double()))
            return found
        return step

    with mock.patch.object(GradientMatcher, "step", noted(GradientMatcher.step)), \
            mock.patch.object(GradientMatcher, "step_with", noted(GradientMatcher.step_with)):
        yield


def outcome(case: cases.Case, attack: attacks.Attack, knowledge: str, device: torch.device, dtype: torch.dtype) -> Outcome:
    """Attack, score and identify, with draws that are the same everywhere."""
    observation = known_to(cases.moved(case.observation, device, dtype), knowledge)
    candidates = cases.moved_candidates(case.candidates, device, dtype)
    found = Outcome()
    with SameDraws():
        with first_steps(found.steps):
            rebuilt = attack.reconstruct(observation, seed=0)
        normalised = (rebuilt.images - observation.mean.view(-1, 1, 1)) / observation.std.view(-1, 1, 1)
        found.score = score(observation, normalised, rebuilt.labels, 0).cpu().double()
        scores = Identifier().scores(observation, candidates, seed=0).cpu().double()
    found.images, found.cost, found.scores = rebuilt.images.cpu().double(), rebuilt.cost.cpu().double(), scores
    own = scores.gather(1, case.true[:, None])
    found.ranks = tuple(((scores <= own).sum(1) - 1).tolist())
    return found


def known_to(observation: Observation, knowledge: str) -> Observation:
    """As a blind or an informed attacker has it."""
    return observation if knowledge == "informed" else observation.blind()


@dataclass(frozen=True)
class Difference:
    """How far two outcomes are apart: shares of entries of the derivatives, the images and the candidates' scores beyond a tolerance,
    the largest relative distance of derivatives, and how many ranks differ."""

    derivative: float
    objective: float
    images: float
    scores: float
    ranks: int
    norm: float

    @property
    def holds(self) -> bool:
        """Whether nothing is further apart than is allowed."""
        return max(self.derivative, self.objective, self.images, self.scores) <= SHARE and self.ranks == 0


def difference(found: Outcome, expected: Outcome, tolerance: float) -> Difference:
    """See :class:`Difference`."""
    pairs = list(zip(found.steps, expected.steps, strict=False))
    if len(found.steps) != len(expected.steps):
        return Difference(math.inf, math.inf, math.inf, math.inf, 0, math.inf)
    derivative = max((cases.apart(a[0], b[0], tolerance) for a, b in pairs), default=0.0)
    # An objective is one minus a cosine, or a distance: its rounding is that of numbers around one.
    objective = max((float(((a[1] - b[1]).abs() > tolerance * (1 + b[1].abs())).double().mean()) for a, b in pairs), default=0.0)
    images = float(((found.images - expected.images).abs() > 1e-2).double().mean())
    scores = cases.apart(found.scores[:, 1:], expected.scores[:, 1:], tolerance)
    ranks = sum(a != b for a, b in zip(found.ranks, expected.ranks, strict=True))
    norm = max((cases.distance(a[0], b[0]) for a, b in pairs), default=0.0)
    return Difference(derivative, objective, images, scores, ranks, norm)


@cache
def case_of(defense: str, model: str, observed: str) -> cases.Case | str:
    """The case, or why there is none."""
    try:
        return cases.made(defense, model, observed)
    except (ValueError, TypeError) as error:
        return str(error)


def applies(case: cover.Case) -> bool:
    """Whether the defense takes the model, and the attack has no obstacle."""
    found = case_of(case["defense"], case["model"], case["observed"])
    if isinstance(found, str):
        return False
    attack = cases.short(attacks.registry.find(case["attack"]), ITERATIONS)
    return attack.obstacle(known_to(found.observation, case["knowledge"])) is None


def factors(*, tiny: bool = False) -> dict[str, list[str]]:
    """Everything that is registered; for a rehearsal with the small models of the tests alone."""
    models = [name for name in cases.model_makers() if not tiny or name.startswith("small")]
    return {"defense": cases.defense_names(), "attack": [cls.name for cls in attacks.registry if not cls.of_others], "model": models, "observed": list(cases.OBSERVED), "knowledge": ["informed", "blind"]}


def rows(bench: Bench) -> Iterator[Row]:
    """A row for each case: float64 and float32 of the device against float64 of the CPU."""
    chosen, impossible = cover.pairwise(factors(tiny=bench.tiny), applies)
    pairs = len({pair for case in chosen for pair in cover.pairs_of(case)})
    yield judged("the cover", bool(chosen), f"{len(chosen)} cases with {pairs} pairs; {len(impossible)} pairs do not apply",
                 "every pair that applies", cases=len(chosen), pairs=pairs, impossible=[f"{a[1]} / {b[1]}" for a, b in impossible])
    cpu = torch.device("cpu")
    chosen = cover.spread(chosen, "defense")  # so that one that ends early has seen them all
    for place, case in enumerate(chosen[:8] if bench.tiny else chosen):
        if bench.left() < 5:
            yield not_run("the rest", f"{len(chosen) - place} of {len(chosen)} cases, the time was up")
            return
        yield _compared(case, bench.device, cpu)


def _compared(case: cover.Case, device: torch.device, cpu: torch.device) -> Row:
    name = " / ".join(case.values())
    of = case_of(case["defense"], case["model"], case["observed"])
    assert isinstance(of, cases.Case)
    attack = cases.short(attacks.registry.find(case["attack"]), ITERATIONS)
    expected = outcome(of, attack, case["knowledge"], cpu, torch.float64)
    rounding = difference(outcome(of, attack, case["knowledge"], cpu, torch.float32), expected, TOLERANCE[torch.float32])
    told, values, holds = [], {"cpu float32": rounding.norm}, True
    for dtype in (torch.float64, torch.float32):
        found = difference(outcome(of, attack, case["knowledge"], device, dtype), expected, TOLERANCE[dtype])
        precision = str(dtype).removeprefix("torch.")
        values[precision] = vars(found)
        # Where rounding alone takes the CPU further apart, nothing can be asked of another device.
        fine = found.holds or (dtype == torch.float32 and not rounding.holds)
        holds &= fine
        told.append(f"{precision} {found.norm:.1e}" + ("" if found.holds else (
            f" (apart: derivative {found.derivative:.0%}, objective {found.objective:.0%}, images {found.images:.0%}, "
            f"scores {found.scores:.0%}, {found.ranks} ranks" + (", as on the CPU" if fine else "") + ")")))
    tolerance = f"at most {SHARE:.0%} of entries beyond {TOLERANCE[torch.float64]:g} and {TOLERANCE[torch.float32]:g}, ranks equal"
    return judged(name, holds, f"derivatives apart by {', '.join(told)}; CPU float32 {rounding.norm:.1e}", tolerance, **values)


CHECK = Check("agreement", "Do attacks and identification find on the device what they find on the CPU?", 110, rows)

