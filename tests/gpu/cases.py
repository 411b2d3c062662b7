"""Observations made on the CPU in float64, moved to where they are attacked, and what is compared of them."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

_TESTS = Path(__file__).resolve().parents[1]
for _place in (_TESTS.parent, _TESTS, _TESTS / "perf"):
    if str(_place) not in sys.path:
        sys.path.append(str(_place))

import model_cases  # noqa: E402
from attack_cases import observation_of  # noqa: E402

import attacks  # noqa: E402
import defenses  # noqa: E402
from attacks import Observation, Round  # noqa: E402
from attacks.identification import Candidates  # noqa: E402
from benchmark import models  # noqa: E402
from gpu.checks import there  # noqa: E402

#: A composition beside what is registered.
COMPOSED = "precode+noise(std=0.001)"
#: Images of 2x8x8 and five classes, as the small models of the tests have them.
SHAPE, CLASSES = (2, 8, 8), 5


def defense_names() -> list[str]:
    """All registered defenses that can run here, and a composition."""
    return [cls.name for cls in defenses.registry
            if (there("opacus") or not cls().guarantees) and (there("torchvision") or cls.name != "ats")] + [COMPOSED]


def model_makers() -> dict[str, Callable[[], nn.Module]]:
    """The small models of the tests, and the registered ones (those that are not a group of another library)."""
    registered = [name for name in models.registry.names() if ":" not in name]
    return {**{f"small {name}": make for name, make in model_cases.MODELS.items()},
            **{name: partial(models.build, name, SHAPE, CLASSES) for name in registered}}


#: How many images and rounds are behind what is observed.
OBSERVED: dict[str, dict[str, object]] = {
    "single": {"batch_size": 1}, "single, labels inferred": {"batch_size": 1, "labels_known": False},
    "two rounds": {"batch_size": 1, "rounds": 2}, "batch of 2": {"batch_size": 2},
}


@dataclass(frozen=True)
class Case:
    """What attackers find: an informed observation, candidates of each victim, and which is the true one [N]."""

    observation: Observation
    candidates: Candidates
    true: Tensor


def made(defense: str, model: str, observed: str, *, victims: int = 3, size: int = 6) -> Case:
    """Of random images, on the CPU in float64; in each pool the first candidate is the victim's own image."""
    options = OBSERVED[observed]
    observation, x = observation_of(defense, model_makers()[model], victims=victims, dtype=torch.float64, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(7)

    def images(count: int) -> Tensor:
        return torch.randn(count, *SHAPE, generator=generator).clamp(-2, 2).to(x)

    shown = observation_of("none", model_makers()[model], victims=victims, dtype=torch.float64, batch_size=x.shape[1])[0].labels
    assert shown is not None  # the same labels, whether or not attackers are told
    labels = shown[:, 0]
    pools = torch.cat([torch.arange(victims)[:, None], victims + torch.arange(victims * (size - 1)).view(victims, -1)], 1)
    many = x.shape[1] > 1
    public = (images(40), torch.randint(CLASSES, (40,), generator=generator)) if many else (None, None)
    candidates = Candidates(torch.cat([x[:, 0], images(victims * (size - 1))]),
                            torch.cat([labels, labels.repeat_interleave(size - 1)]), pools, *public)
    return Case(observation, candidates, torch.zeros(victims, dtype=torch.long))


def moved(observation: Observation, device: torch.device | str, dtype: torch.dtype) -> Observation:
    """The same observation on a device and in a precision; nothing is computed anew."""
    made_of: dict[int, nn.Module] = {}

    def module(given: nn.Module) -> nn.Module:
        if id(given) not in made_of:
            made_of[id(given)] = copy.deepcopy(given).to(device, dtype).eval()
        return made_of[id(given)]

    rounds = tuple(Round(one.number, module(one.module), {name: g.to(device, dtype) for name, g in one.shared.items()})
                   for one in observation.rounds)
    return replace(
        observation, module=module(observation.module),
        shared=dict(rounds[0].shared) if rounds else {name: g.to(device, dtype) for name, g in observation.shared.items()},
        mean=observation.mean.to(device, dtype), std=observation.std.to(device, dtype),
        labels=None if observation.labels is None else observation.labels.to(device), rounds=rounds, kept={})


def moved_candidates(candidates: Candidates, device: torch.device | str, dtype: torch.dtype) -> Candidates:
    """As :func:`moved`."""
    def there_(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(device, dtype if value.is_floating_point() else None)

    return Candidates(there_(candidates.images), there_(candidates.labels), there_(candidates.pools),  # type: ignore[arg-type]
                      there_(candidates.public_images), there_(candidates.public_labels))


def short(cls: type[attacks.Attack], iterations: int) -> attacks.Attack:
    """An attack of few iterations and two restarts, where it has them."""
    known = cls().parameters()
    return cls(**{name: value for name, value in (("iterations", iterations), ("restarts", 2)) if name in known})


def errors(found: Tensor, expected: Tensor) -> Tensor:
    """Of each entry the difference relative to the root mean square of what is expected and to the entry itself; entries that are not
    finite in both are alike."""
    a, b = found.detach().cpu().double().flatten(), expected.detach().cpu().double().flatten()
    finite = b.isfinite()
    scale = b[finite].square().mean().sqrt() if finite.any() else b.new_zeros(())
    relative = torch.where(a == b, 0.0, (a - b).abs() / (scale + b.abs()))
    alike = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, math.inf)
    return torch.where(finite, relative.nan_to_num(math.inf, math.inf), alike)


def apart(found: Tensor, expected: Tensor, tolerance: float) -> float:
    """The share of entries whose error is larger than a tolerance."""
    return float((errors(found, expected) > tolerance).double().mean()) if expected.numel() else 0.0


def distance(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| over the entries that are finite in what is expected."""
    a, b = found.detach().cpu().double(), expected.detach().cpu().double()
    finite = b.isfinite()
    return float((a - b)[finite].norm() / b[finite].norm().clamp_min(torch.finfo(torch.float64).tiny))
