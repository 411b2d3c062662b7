"""By what an attacker chooses among reconstructions of different attacks, without the original."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.matcher import GradientMatcher
from attacks.engine.slots import filled
from attacks.objective.comparison import Comparison, layer_of, total
from attacks.objective.costs import Cosine, Cost
from attacks.objective.objective import Objective
from attacks.objective.total_variation import total_variation
from attacks.reading.informed import with_knowledge
from attacks.reading.layers import layers_that_see_the_image, replay_obstacle
from attacks.reading.mixtures import mixture_of
from attacks.reading.releases import told
from attacks.search.fitted import cost_at_fitted_samples, fitted_cost
from defenses.support.seeds import derive
from defenses.support.upload import upload

#: Candidates whose scores are computed at once.
_AT_ONCE = 64
#: A total variation below that of any photograph says nothing more; one minus a cosine of this size is rounding.
_SMOOTH, _ROUNDING = 0.02, 1e-7
#: See :func:`score_and_explained`.
_EXPLAINED = 1e-6
#: Weight of the prior where the gradient carries known noise, and where it does not. Measured on candidates of 300 iterations,
#: LeNet, CIFAR-10, 32 victims, as ASR, with weights of 0.3, 0.5 and 1: noise of 0.001, untrained 0.72, 0.72, 0.66 (the best of all
#: candidates 0.81), trained 0.31 each (0.34); without noise, trained, 0.28, 0.34, 0.38 (0.38). PPP, untrained: 0.28 with the mean
#: over groups and all layers, 0.94 as it is (1.00).
_PRIOR_WITH_CHANCE, _PRIOR = 0.5, 1.0


def score(observation: Observation, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """How unlikely reconstructions are by what the observation tells, and by an image prior: lower is likelier. Equal for equal
    images, whichever attack made them, and comparable between all attacks on a victim; not between observations.

    The gradient of the original would match exactly, but for the noise. How near that of another image should come nothing says,
    nor how smooth an image should be: these deviations are taken to have unknown scales, which leaves their logarithms.

    Without known noise the score is the mean over layers of log(1 - cos), plus log(total variation). All parameters with known
    noise are one group: with n entries and the squared distance

        d = min over s of sum |s g - G|^2 / sigma^2,

    which is about n at the original, with a standard deviation of sqrt(2 n), its misfit is max(d - n, 0) + sqrt(2 n): the part
    that the noise does not explain. The scale s is left free, since attacks by the cosine do not determine it. The score is then
    the logarithm of that misfit, plus log(1 - cos) of each layer without noise, plus half of log(total variation).

    Where a defense is known to have changed each image by one of some choices, the misfit is that of the changed images, under the
    choices that fit best; the prior is on the images themselves. Where a defense is known to mix images, what the client drew for
    that is fitted first (:mod:`attacks.search.fitted`), as are samples of stochastic layers that cannot be read; so much fits then
    that the prior has half of its weight, as under noise.

    Codes of stochastic layers are replayed and hidden entries left out, as far as the observation tells them; under replayed codes
    the layers behind them say nothing of the image, and are left out too.

    Args:
        observation: the victims; a blind one gives the score by which a blind attacker chooses.
        images: [N, B, C, H, W], normalised.
        labels: [N, B].
        seed: of the model's sampling, where codes are not known.

    Returns:
        [N]; infinite where the images or their gradient are not finite.
    """
    return score_and_explained(observation, images, labels, seed)[0]


def score_and_explained(observation: Observation, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The scores, and whether reconstructions explain the gradient of every layer up to rounding, [N]: one minus its cosine is at
    most 1e-6 in the geometric mean over the layers. Under known noise none is said to. A search comes there also far from the
    original, an image that was read does not. The arguments are those of :func:`score`."""
    misfit, prior, noisy = likelihood_and_prior(observation, _as_trained(observation, images, labels, seed), images, labels, seed)
    return misfit + prior, torch.zeros_like(misfit, dtype=torch.bool) if noisy else misfit <= math.log(_EXPLAINED)


def likelihood_and_prior(observation: Observation, trained: Tensor, images: Tensor, labels: Tensor, seed: int
                         ) -> tuple[Tensor, Tensor, bool]:
    """The two parts of the score, [N] each, and whether the gradient carries known noise.

    Args:
        observation: the victims.
        trained: [N, B, C, H, W], normalised, what the gradient would be of.
        images: [N, B', C, H, W], normalised, by which the prior goes.
        labels: [N, B].
        seed: of the model's sampling.
    """
    misfit, noisy = _misfit(observation, trained, labels, seed)
    prior = (_PRIOR_WITH_CHANCE if noisy else _PRIOR) * total_variation(images).clamp_min(_SMOOTH).log()
    return misfit.nan_to_num(nan=torch.inf, posinf=torch.inf), prior.nan_to_num(nan=torch.inf, posinf=torch.inf), noisy


def _as_trained(observation: Observation, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """What became of the images by the choices of a defense: those with which they explain the gradient best. Of several images
    first one choice for all, then one image after another."""
    places: list[slice] = [slice(None)]
    if observation.batch_size > 1:
        places += [slice(place, place + 1) for place in range(observation.batch_size)]
    best, least = images, images.new_full((len(images),), torch.inf)
    for place in places if observation.choices else []:
        begun = best
        for choice in observation.choices:
            own = images[:, place]
            changed = begun.clone()
            changed[:, place] = choice.changed(own.flatten(0, 1)).view(own.shape)
            misfit = _misfit(observation, changed, labels, seed)[0]
            better = misfit < least
            best, least = torch.where(better.view(-1, 1, 1, 1, 1), changed, best), torch.where(better, misfit, least)
    return best


def _misfit(observation: Observation, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, bool]:
    """The logarithms of the misfits [N], and whether the gradient carries known noise."""
    layers, known = layers_that_see_the_image(observation), told(observation)
    noise = {name: variance for name, variance in known.variances.items() if layers is None or layer_of(name) in layers}
    entries = {name: observation.shared[name][0].numel() for name in noise}
    objective = with_knowledge(Objective(_Misfit(noise, entries), layers=layers), observation)
    return _evaluate(observation, objective, images, labels, seed), bool(noise or known.judges or _samples_are_unread(observation))


def _samples_are_unread(observation: Observation) -> bool:
    """Whether the client is known to have sampled what no gradient tells, so that it has to be fitted."""
    return observation.defense is not None and bool(observation.stochastic) and replay_obstacle(observation) is not None


@dataclass(frozen=True)
class _Misfit(Cost):
    """The logarithms of the misfits of all groups; ``noise`` holds variances, and ``entries`` the numbers of entries."""

    judges: ClassVar[bool] = True

    noise: Mapping[str, float] = field(default_factory=dict)
    entries: Mapping[str, int] = field(default_factory=dict)

    def well_conditioned(self) -> Cost:
        return Cosine()

    def __call__(self, compared: Mapping[str, Comparison], observed: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
        judged = [c.surprise for c in compared.values() if c.surprise is not None]
        clean = {name: c for name, c in compared.items() if name not in self.noise and c.surprise is None}
        logs = []
        for layer in dict.fromkeys(map(layer_of, clean)):
            own = {name: comparison for name, comparison in clean.items() if layer_of(name) == layer}
            logs.append(Cosine()(own, observed, weights).clamp_min(_ROUNDING).log())
        excess, variance = [], []  # of twice the surprise
        if self.noise:
            # In units of the least variance, so that squares of small numbers do not vanish.
            least, count = min(self.noise.values()), sum(self.entries.values())
            product, squared, own_squared = (
                total([least / variance * term for variance, term in zip(self.noise.values(), terms, strict=True)])
                for terms in zip(*((compared[n].product, compared[n].squared, observed[n]) for n in self.noise), strict=True))
            distance = own_squared - product.clamp_min(0).square() / squared.clamp_min(torch.finfo(squared.dtype).tiny)
            excess.append(distance / least - count)
            variance.append(torch.full_like(distance, 2 * count))
        if judged:
            excess += [2 * (of.nats - of.expected) for of in judged]
            variance += [4 * of.variance for of in judged]
        if not excess:
            return total(logs) / len(logs)
        # Where the likelihood leaves nothing to chance, half a nat is rounding.
        return total([*logs, (total(excess).clamp_min(0) + total(variance).clamp_min(1).sqrt()).log()])


def _evaluate(observation: Observation, objective: Objective, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    costs, mixture = [], mixture_of(observation)
    for start in range(0, len(observation), _AT_ONCE):
        places = list(range(start, min(start + _AT_ONCE, len(observation))))
        # Slots that are left over compute what nobody reads (attacks.engine.slots).
        slots = places + places[:1] * (filled(len(places), _AT_ONCE, observation.batch_size) - len(places))
        index = upload(slots, images.device)
        if mixture is None and _samples_are_unread(observation):
            costs.append(cost_at_fitted_samples(observation, objective, images[index], labels, seed, slots)[: len(places)])
            continue
        if mixture is not None:
            costs.append(fitted_cost(observation, mixture, objective, images[index], labels[index], seed, slots)[: len(places)])
            continue
        seeds = [derive(seed, "score", observation.victims[place]) for place in slots]
        matcher = GradientMatcher(observation, labels, objective, seeds=seeds, positions=slots)
        costs.append(matcher.step(images[index])[1][: len(places)])
    return torch.cat(costs)
