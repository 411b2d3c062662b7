"""How unlikely the gradient of one image is that of a candidate, by the releases of the defense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeGuard

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.rows import FormedRows, Rows, squared_norms
from attacks.identification.pools import of_victims
from defenses.density import log_density
from defenses.release import Form, Release
from defenses.stages import Bounds, Clipped, Intervals, Kept, Noise, OwnLikelihood, Scaled, Stage
from defenses.support.upload import upload

#: What rounding changes of a gradient, relative to it: without noise, a candidate is compared under noise of this size.
ROUNDING = 1e-3
#: Entries of a parameter that are compared where there is no product for it; of larger ones so many, chosen at random, are.
MOST_ENTRIES = 2**16


@dataclass(frozen=True)
class Compared:
    """How a parameter is compared.

    Attributes:
        through: the stages that a candidate's gradient goes through before it is compared.
        noise: that follows; None without.
        observed: the shared gradients [N, *shape], or what they were before the last known scaling.
        weights: [N], of the squared distance: 1 / (2 variance).
        energies: [N], |G|^2 of what is observed.
        kept: [N, *shape], where entries were hidden without noise, which were not; None where none were.
        hidden: [N], the energy that can be hidden at most where the others are.
        bounds: [N, E] of what the noise was added to, where not all of it is known, or it is not Gaussian; without noise, of the
            entries. None where the distance tells all.
        places: [E], of the entries that are looked at; None for all.
        own: the stage that says how unlikely what is observed is, where one does.
    """

    through: tuple[Stage, ...]
    noise: Noise | None
    observed: Tensor
    weights: Tensor
    energies: Tensor
    kept: Tensor | None = None
    hidden: Tensor | None = None
    bounds: Bounds | None = None
    places: Tensor | None = None
    own: OwnLikelihood | None = None


class ImageLikelihood:
    """Compares candidates' gradients with the observed ones of one image each.

    Under Gaussian noise that is -log p up to a constant: the squared distance in units of twice the variance. What is not noisy is
    taken to have noise of the size of rounding, so that it decides where there is any, and noise decides elsewhere. Entries that
    were hidden count by the energy that a candidate has there beyond what could be hidden, or, under noise, by the probability that
    they were; intervals by the entries outside. A parameter without a closed form is left out.

    Args:
        observation: of an informed attacker, or of one whom there is nothing to know for.
        layers: whose parameters are compared; None for all.

    Attributes:
        exact: whether no approximation is made beyond rounding.
    """

    def __init__(self, observation: Observation, layers: Sequence[str] | None = None) -> None:
        self._releases = {name: release for name, release in observation.releases().items()
                          if layers is None or name.rpartition(".")[0] in layers}
        self._known = {name: form for name, release in self._releases.items() if (form := release.form) is not None}
        self._compared = {name: _how(observation.shared[name], form) for name, form in self._known.items()}
        clips = {stage for how in self._compared.values() for stage in how.through if _together(stage)}
        #: The norm is over all parameters, and before it nothing but scaling: a candidate's gradient can be clipped as it was.
        self._clip = next(iter(clips), None)
        known = len(clips) <= 1 and all(self._clips(how, observation.batch_size) for how in self._compared.values())
        self._free_scale = bool(clips) and not known
        self.exact = not self._free_scale and len(self._known) == len(self._releases) and all(
            how.places is None and (how.bounds is None or how.noise is not None) and (how.own is None or how.own.exact)
            for how in self._compared.values()
        ) and all(_of_one_kind(release) and not _by_something_else(release) for release in self._releases.values())
        if not self._known:
            raise ValueError("nothing is known of the gradient of any parameter")

    def __call__(self, rows: Mapping[str, Rows], victims: Tensor) -> Tensor:
        """Scores [V, K] of K candidates' gradients for victims, by their places [V]: lower is likelier."""
        own = self._passed({name: rows[name] for name in self._compared})
        count = len(next(iter(own.values())))
        nothing = torch.zeros((len(victims), count), dtype=torch.float64, device=victims.device)
        product = squared = observed = beside = nothing
        for name, how in self._compared.items():
            if how.own is not None:
                beside = beside + _surprises(how.own, own[name].entries(None), how.observed, victims)
                continue
            if how.bounds is not None:
                beside = beside + _outside(own[name].entries(None), how, victims)
                continue
            given, weight = of_victims(how.observed, victims), of_victims(how.weights, victims)[:, None]
            energy = own[name].squared().double().expand(len(victims), count)
            if how.kept is not None:
                assert how.hidden is not None
                kept = own[name].masked_squared(of_victims(how.kept, victims)).double()
                beside = beside + weight * (energy - kept - of_victims(how.hidden, victims)[:, None]).clamp_min(0)
                energy = kept
            product = product + weight * own[name].products(given).double()
            squared = squared + weight * energy
            observed = observed + weight * of_victims(how.energies, victims)[:, None]
        if self._free_scale:
            return observed - product.clamp_min(0).square() / squared.clamp_min(torch.finfo(squared.dtype).tiny) + beside
        return (squared - 2 * product + observed) + beside

    def _clips(self, how: Compared, images: int) -> bool:
        places = [place for place, stage in enumerate(how.through) if _together(stage)]
        if self._clip is None:
            return True
        return len(places) == 1 and self._clip.images == images and set(self._clip.names) == set(self._compared) and all(
            isinstance(stage, Scaled) for stage in how.through[: places[0]])

    def _passed(self, rows: dict[str, Rows]) -> dict[str, Rows]:
        """What the candidates' gradients become before the noise, at the entries that are looked at."""
        left = {name: list(how.through) for name, how in self._compared.items()}
        if self._clip is not None and not self._free_scale:
            for name, stages in left.items():
                while isinstance(stage := stages.pop(0), Scaled):
                    rows[name] = rows[name].scaled(stage.factor)
            factor = self._clip.factor(reduce(torch.add, (of.squared().double() for of in rows.values())))
            rows = {name: of.scaled(factor.to(of.tensors[0].dtype)) for name, of in rows.items()}
        for name, how in self._compared.items():
            shape = how.observed.shape[1:] if how.places is None else how.places.shape
            if how.places is not None:
                rows[name] = FormedRows(rows[name].entries(how.places))
            for stage in left[name]:
                if isinstance(stage, Scaled):
                    rows[name] = rows[name].scaled(stage.factor)
                elif not isinstance(stage, Clipped):
                    rows[name] = FormedRows(stage.passed(rows[name].entries(None).unflatten(1, shape)).flatten(1))
                elif stage.alone:  # the factor of others is not known here
                    rows[name] = rows[name].scaled(stage.factor(rows[name].squared().double()).to(rows[name].tensors[0].dtype))
        return rows


def _together(stage: Stage) -> TypeGuard[Clipped]:
    """Whether several parameters were clipped together."""
    return isinstance(stage, Clipped) and not stage.alone


def _of_one_kind(release: Release) -> bool:
    """Whether the sum of the noises is of the distribution that it is taken for."""
    noises = [stage for stage in release.stages if isinstance(stage, Noise)]
    return len(noises) < 2 or all(noise.distribution == "gaussian" for noise in noises)


def _by_something_else(release: Release) -> bool:
    """Whether which entries were kept follows from something else than the gradient, which is not compared."""
    return any(isinstance(stage, Kept) and stage.mask is not None and stage.threshold is None for stage in release.stages)


def _how(shared: Tensor, form: Form) -> Compared:
    through, last, factor = list(form.before), list(form.after), 1.0
    kept: Kept | None = None
    if form.noise is None:
        # What is said of the outcome, the candidate need not go through.
        while through and isinstance(through[-1], (Scaled, Kept, Intervals)) and not last:
            if isinstance(through[-1], Scaled):
                factor *= through.pop().factor  # type: ignore[attr-defined]
            elif isinstance(through[-1], Kept) and through[-1].mask is not None:
                hiding = through.pop()
                assert isinstance(hiding, Kept)
                kept = hiding
                break
            elif isinstance(through[-1], Intervals) and through[-1].function is None:
                last.append(through.pop())
            else:
                break
    elif all(isinstance(stage, Scaled) for stage in last):
        factor, last = math.prod(stage.factor for stage in last if isinstance(stage, Scaled)), []
    observed = shared if factor == 1 else shared / factor
    if form.own is not None:
        observed = shared / math.prod(stage.factor for stage in last if isinstance(stage, Scaled))
        nothing = observed.new_zeros(len(observed), dtype=torch.float64)
        return Compared(form.before, None, observed, nothing, nothing, own=form.own)
    elementwise = bool(last) or (form.noise is not None and form.noise.distribution != "gaussian")
    formed = elementwise or any(not isinstance(stage, (Scaled, Clipped)) for stage in through)
    size = shared[0].numel()
    parts = all(stage.elementwise or _together(stage) for stage in through)
    places = _some(size, shared.device) if formed and parts and size > MOST_ENTRIES else None
    if places is not None:  # of which as large a share is kept
        through = [replace(stage, count=round(stage.count * len(places) / size)) if isinstance(stage, Kept) else stage
                   for stage in through]
    bounds = None
    if elementwise:
        found = Release(tuple(last)).bounds(observed)
        bounds = Bounds(*(_at(end.flatten(1), places) for end in found))
    observed = _at(observed, places)
    energies = squared_norms(observed)
    if form.noise is not None:
        weights = torch.full_like(energies, 0.5 / form.noise.variance)
    else:
        # Where nothing was shared, a candidate that would have shared something is out.
        weights = 0.5 / (ROUNDING**2 * energies / observed[0].numel()).clamp_min(torch.finfo(torch.float32).tiny)
    mask = hidden = None
    if kept is not None and kept.mask is not None:
        mask = _at(kept.mask, places)
        counts = torch.stack([own.numel() - own.count_nonzero() for own in mask])
        hidden = torch.full_like(energies, math.inf) if kept.threshold is None else counts * kept.threshold.double().square()
    return Compared(tuple(through), form.noise, observed, weights, energies, mask, hidden, bounds, places)


def _outside(own: Tensor, how: Compared, victims: Tensor) -> Tensor:
    """What entries that are not all known say against candidates, [V, K], one victim after another."""
    assert how.bounds is not None
    found = []
    for victim in victims.tolist():
        bounds = Bounds(*(end[victim][None] for end in how.bounds))
        if how.noise is not None:
            found.append(-log_density(how.noise, own, bounds).double().sum(1))
        else:
            allowed = ROUNDING * own.square().mean(1, keepdim=True).sqrt()
            violated = (own < bounds.low - allowed) | (own > bounds.high + allowed)
            found.append(violated.sum(1) / (2 * ROUNDING**2))
    return torch.stack(found)


def _surprises(stage: OwnLikelihood, own: Tensor, observed: Tensor, victims: Tensor) -> Tensor:
    """Of candidates' gradients [K, n] by the stage, [V, K], one victim after another."""
    own = own.unflatten(1, observed.shape[1:])
    return torch.stack([stage.surprise(own, observed[victim][None]).double() for victim in victims.tolist()])


def _at(values: Tensor, places: Tensor | None) -> Tensor:
    return values if places is None else values.flatten(1).index_select(1, places)


def _some(size: int, device: torch.device) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    return upload(torch.randperm(size, generator=generator, device="cpu")[:MOST_ENTRIES], device)
