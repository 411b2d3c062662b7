"""How well given images explain gradients at what a client drew beside them, to mix, flip or conceal them or in a stochastic layer:
that is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.matcher import GradientMatcher, sample_noise
from attacks.objective.costs import Cosine
from attacks.objective.objective import Objective
from attacks.reading.mixtures import Mixture
from attacks.search.signed_adam import SignedAdam
from defenses.support.seeds import VictimNoise, derive
from defenses.support.upload import upload

#: Iterations of the fit, and their step size.
_ITERATIONS, _STEP = 100, 0.1
#: Standard deviation of the signs that the fit begins with, before their tanh; and how far of a draw samples begin from their mean.
_UNDECIDED = 0.1
#: Weight of how improbable samples are while they are fitted.
_SAMPLE_PRIOR = 1e-2


def fitted_cost(observation: Observation, mixture: Mixture, objective: Objective, images: Tensor, labels: Tensor, seed: int,
                positions: Sequence[int]) -> Tensor:
    """The objective [S] of images at the coefficients, signs (as numbers between -1 and 1) and concealing images that fit the
    gradients best by the cosine, as far as a short search finds them.

    Args:
        observation: of all victims.
        mixture: what became of their images.
        objective: to be evaluated.
        images: of the victims at the positions [S, B, C, H, W], normalised.
        labels: [S, B].
        seed: of the search, together with the number of each victim.
        positions: of S victims in the observation.
    """
    whole = replace(observation, labels=None, batch_size=mixture.seen)
    unread = torch.zeros(len(observation), mixture.seen, dtype=torch.long, device=images.device)
    seeds = [derive(seed, "fit", observation.victims[place]) for place in positions]
    targets = mixture.probabilities(labels)

    def noise(what: str, shape: tuple[int, ...]) -> Tensor:
        return VictimNoise([derive(one, what) for one in seeds], shape, images).draw()

    def matcher(of: Objective) -> GradientMatcher:
        return GradientMatcher(whole, unread, of, seeds=seeds, positions=positions)

    concealing = mixture.mixing.concealing
    count = mixture.seen - mixture.images if concealing else mixture.seen
    drawn = noise("drawn", (count, *observation.image_shape)) * (1.0 if concealing else _UNDECIDED)
    low, high = images.new_full((), -torch.inf), images.new_full((), torch.inf)
    search = SignedAdam(drawn, [noise("logits", mixture.logit_shape)], [(low, high), (low, high)])
    fit = matcher(replace(objective, cost=Cosine(), terms=()))
    sizes = upload([_STEP] * len(images), images.device, torch.float64)
    for _ in range(_ITERATIONS):
        given = search.images.detach().requires_grad_(), search.others[0].detach().requires_grad_()
        with torch.enable_grad():
            seen = _made(mixture, images, targets, *given)
        by_images, by_targets, _ = fit.step_with(seen[0].detach(), [seen[1].detach()])
        derivative, by_logits = torch.autograd.grad(seen, given, (by_images, by_targets), materialize_grads=True)
        search.step(derivative, [by_logits], sizes)
    made, of_made = _made(mixture, images, targets, search.images, search.others[0])
    return matcher(objective).step_with(made, [of_made])[2]


def cost_at_fitted_samples(observation: Observation, objective: Objective, images: Tensor, labels: Tensor, seed: int,
                           positions: Sequence[int]) -> Tensor:
    """The objective [S] of images under the samples of the stochastic layers that fit the gradients best by the cosines of single
    layers and are probable, as far as a short search finds them. Of 8 victims under CVB (LeNet, CIFAR-10) the original then
    explains the gradient better than all that attacks find, untrained and after five epochs; under samples drawn anew it does not.

    The arguments are those of :func:`fitted_cost`; labels are of all victims, [N, B].
    """
    fit = replace(objective, cost=Cosine(per_layer=True), terms=(), sample_prior=_SAMPLE_PRIOR)
    seeds = [derive(seed, "fit", observation.victims[place]) for place in positions]
    drawn = observation.samples_of([stream.draw() for stream in sample_noise(observation, seeds)])
    layers = observation.stochastic.values()
    begin = [layer.expected + _UNDECIDED * (own - layer.expected) for layer, own in zip(layers, drawn, strict=True)]
    anywhere = images.new_full((), -torch.inf), images.new_full((), torch.inf)
    bounds = [(images.new_tensor(low), images.new_tensor(high)) for low, high in (layer.bounds for layer in layers)]
    search, still = SignedAdam(images.clone(), begin, [anywhere, *bounds]), torch.zeros_like(images)
    matcher = GradientMatcher(observation, labels, fit, seeds=seeds, positions=positions)
    sizes = upload([_STEP] * len(images), images.device, torch.float64)
    for _ in range(_ITERATIONS):
        _, *derivatives, _ = matcher.step_with(images, search.others)
        search.step(still, derivatives, sizes)
    evaluated = GradientMatcher(observation, labels, replace(objective, sample_prior=0.0), seeds=seeds, positions=positions)
    return evaluated.step_with(images, search.others)[-1]


def _made(mixture: Mixture, images: Tensor, targets: Tensor, drawn: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """What the gradient is of, and the logarithms of its targets, from the images and what was drawn."""
    if mixture.mixing.concealing:
        return mixture.of_round(0, torch.cat([images, drawn], 1), logits, targets)
    mixes, of_mixes = replace(mixture, mixing=replace(mixture.mixing, flipped=False)).of_round(0, images, logits, targets)
    return (mixes * drawn.tanh() if mixture.mixing.flipped else mixes), of_mixes
