"""Objectives as an attacker sets them who reads what the observation tells; a blind one finds nothing of the defense there."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from attacks.base import Observation
from attacks.objective.comparison import layer_of
from attacks.objective.costs import Cosine, Euclidean
from attacks.objective.features import Features
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.layers import (
    codes,
    features,
    last_features,
    layers_before_sampling,
    replay_obstacle,
    told_by_codes,
    told_inputs,
)
from attacks.reading.releases import told

#: Weight of features that are known without noise, relative to the likelihood per entry (LeNet under PPP with noise of 0.01, 32
#: CIFAR-10 victims, 1,000 iterations: SSIM 0.11 without them, 0.37 with 10, 0.52 with 100, 0.70 with 1,000).
_EXACT = 1000.0


def with_knowledge(objective: Objective, observation: Observation) -> Objective:
    """The objective over what the releases tell, under the codes that stochastic layers sampled, as far as they can be read."""
    known = told(observation)
    cost = objective.cost.of_scale(clip=known.clip, free=known.free_scale)
    objective = replace(objective, cost=cost, masks=known.masks, passes=known.passes, judges=known.judges if cost.judges else {})
    if replay_obstacle(observation) is None:
        objective = replace(objective, codes=codes(observation))
    return objective


def posterior(observation: Observation, total_variation: float | None = None) -> Objective:
    """The negative logarithm of the posterior as an objective, in units of 2 sigma^2 n of the least noise, or, where there is none,
    of n, over the n entries that carry noise or whose release has a likelihood of its own.

    Args:
        observation: with such entries.
        total_variation: weight of the prior relative to the likelihood per entry; None for 0.1.
    """
    known = told(observation)
    entries = sum(observation.shared[name][0].numel() for name in {**known.variances, **known.judges})
    # In these units weights of layers do not exceed 1.
    least = min(known.variances.values(), default=0.5)
    weights = {**dict.fromkeys(map(layer_of, known.judges), 1.0),
               **{layer_of(name): least / variance for name, variance in known.variances.items()}}
    unit = 2 * least * entries
    weight = 0.1 if total_variation is None else total_variation
    exact = features(observation) if replay_obstacle(observation) is None else {}
    terms = (*(Features(_EXACT * unit, name, values, told_inputs(observation, name))
               for name, values in exact.items() if name not in weights),
             TotalVariation(weight * unit))
    return with_knowledge(Objective(Euclidean(nats=2 * least), terms, weights, tuple(weights)), observation)


def by_features(observation: Observation, total_variation: float) -> Objective:
    """The gradients layer by layer, and the features that entered a layer, where :func:`layers_and_features` finds some."""
    found = layers_and_features(observation)
    if isinstance(found, str):
        raise ValueError(found)
    layers, known = found
    terms = (*(Features(1.0, name, values, told_inputs(observation, name)) for name, values in known.items()),
             TotalVariation(total_variation))
    return with_knowledge(Objective(Cosine(per_layer=True), terms, layers=layers), observation)


def layers_and_features(observation: Observation) -> tuple[tuple[str, ...] | None, dict[str, Tensor]] | str:
    """The layers to compare, None for all, and features [N, 1, d] by the layer that they entered; or why there are none."""
    if replay_obstacle(observation) is None:
        if told_by_codes(observation):
            return None, features(observation)
        layers = layers_before_sampling(observation)
        return (layers, features(observation)) if layers else "no layer comes before the stochastic one"
    known = last_features(observation)
    return known if isinstance(known, str) else (None, known)
