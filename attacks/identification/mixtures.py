"""Candidates where a defense mixes images, flips signs or adds others: by what of the images can be read or rebuilt."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import Observation, Progress
from attacks.identification.batches import comparable
from attacks.identification.candidates import Candidates
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge
from attacks.reading.labels import known_or_inferred_labels
from attacks.reading.layers import entered, first_linear
from attacks.reading.mixtures import Mixture, first_inputs, mixture_of
from attacks.search.minimise import minimise
from attacks.search.problem import Problem
from attacks.search.schedule import Schedule
from defenses.support.last_linear import last_linear

#: Of the search for images, its iterations and step size, and the weight of its prior.
_ITERATIONS, _STEP, _SMOOTH = 300, 0.1, 1e-5
#: Of so many images behind a gradient a search finds enough; of more the gradients of candidates tell more than images that are
#: hardly found. ``mixup(k=4)``, LeNet, CIFAR-10, 32 victims, top-1 of 100, untrained, trained, rebuilt against whitened: 4 images
#: 0.42, 0.29 against 0.19, 0.17; 8 images 0.18, 0.13 against 0.25, 0.20; 16 images 0.08, 0.07 against 0.16, 0.11, in a fifteenth of
#: the time. ``dcs2``, 8 images beside as many concealing ones, 24 victims, trained, of 200: 0.17 against 0.96, in a tenth of the
#: time (untrained 0.00 by either).
_MOST_REBUILT = 7
#: Rounds of the power iteration by which the span of a gradient's rows is found, which has the rank of the span.
_POWERS = 3


def mixed_method(observation: Observation) -> str:
    """How candidates are compared: by the ``span`` of what entered a linear layer, where signs are known; ``signless``, by absolute
    values of what was read there; ``rebuilt``, by images that a search finds, where these are few; else ``whitened``, as if images
    had not been mixed (:mod:`attacks.identification.whitening`)."""
    mixture = mixture_of(observation)
    assert mixture is not None
    if mixture.mixing.flipped:
        if first_linear(observation)[1] is None:
            return "signless"
    elif _layer_of_span(observation, mixture) is not None:
        return "span"
    return "whitened" if mixture.seen > _MOST_REBUILT and comparable(observation) else "rebuilt"


def by_mixture(observation: Observation, candidates: Candidates, seed: int, tell: Progress) -> Tensor:
    """How unlikely each candidate is to be behind a gradient of mixed images, [N, M]: lower is likelier."""
    mixture = mixture_of(observation)
    assert mixture is not None
    layer = None if mixture.mixing.flipped else _layer_of_span(observation, mixture)
    if layer is not None:
        return _outside_span(observation, layer, mixture.seen, candidates, tell)
    if mixed_method(observation) == "signless":
        found = first_inputs(observation, first_linear(observation)[0], mixture).flatten(2)
    else:
        found = _rebuilt(observation, mixture, seed, tell)
    scores = _unlike(found, candidates, absolute=mixture.mixing.flipped)
    tell(_ITERATIONS, _ITERATIONS)
    return scores


def _layer_of_span(observation: Observation, mixture: Mixture) -> str | None:
    """The linear layer whose gradient tells the span of what entered it: the first, if it sees the pixels, of which mixes are
    combinations; else the last, if it has more outputs than there are images (one more, as errors of all classes have the sum
    zero). None where there is none."""
    name, obstacle = first_linear(observation)
    if obstacle is None:
        return name
    try:
        name, linear = last_linear(observation.module)
    except ValueError:
        return None
    return name if mixture.seen < min(linear.out_features, linear.in_features) else None


def _outside_span(observation: Observation, layer: str, rank: int, candidates: Candidates, tell: Progress) -> Tensor:
    """Of what enters a linear layer, of each candidate, the share that lies outside of the span of the rows of its gradient: these
    are combinations of what entered it at the client. Of images beside concealing ones nothing lies outside; nor of images that
    were mixed, where the layer is the first, and little where what comes before it is nearly linear."""
    weight = observation.shared[f"{layer}.weight" if layer else "weight"]
    own = entered(observation, {layer: observation.module.get_submodule(layer)}, candidates.images)[layer].flatten(1)
    generator = torch.Generator("cpu").manual_seed(0)
    begin = torch.randn((weight.shape[1], rank), generator=generator, device="cpu").to(weight)
    found = []
    for victim, (gradient, pool) in enumerate(zip(weight, candidates.pools, strict=True)):
        basis = torch.linalg.qr(gradient.mT @ begin)[0]
        for _ in range(_POWERS):
            basis = torch.linalg.qr(gradient.mT @ (gradient @ basis))[0]
        values, basis = own[pool].double(), basis.double()
        outside = values - (values @ basis) @ basis.mT
        found.append(outside.square().sum(1) / values.square().sum(1).clamp_min(torch.finfo(torch.float64).tiny))
        tell(victim + 1, len(weight))
    return torch.stack(found)


def _rebuilt(observation: Observation, mixture: Mixture, seed: int, tell: Progress) -> Tensor:
    """What a search finds, [N, images, pixels]; mixes where signs are flipped."""
    objective = with_knowledge(Objective(terms=(TotalVariation(_SMOOTH),)), observation)
    labels, schedule = known_or_inferred_labels(observation), Schedule(_ITERATIONS, _STEP, _ITERATIONS)
    problem = Problem(observation, labels, objective, schedule, seed, mixture=mixture)
    images, _, _ = minimise(problem, progress=lambda done, _: tell(min(done, _ITERATIONS - 1), _ITERATIONS)).best()
    return (images if mixture.of_mixes else images[:, : mixture.images]).flatten(2)


def _unlike(found: Tensor, candidates: Candidates, *, absolute: bool) -> Tensor:
    """One minus the largest correlation of a candidate with one of the images that were found, of absolute values where signs say
    nothing."""
    own = _standardised(candidates.images.flatten(1).double(), absolute)
    seen = _standardised(found.double(), absolute)
    return torch.stack([1 - (own[pool] @ of_victim.mT).amax(1) for of_victim, pool in zip(seen, candidates.pools, strict=True)])


def _standardised(values: Tensor, absolute: bool) -> Tensor:
    """Rows of mean 0 and length 1."""
    values = values.abs() if absolute else values
    values = values - values.mean(-1, keepdim=True)
    return values / values.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
