"""What an informed attacker takes for variables where a client's images were mixed, flipped or concealed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.base import Observation
from attacks.objective.total_variation import total_variation
from attacks.reading.layers import layer_input
from attacks.reading.separation import separated_inputs
from defenses.mixing import Mixing
from defenses.support.last_linear import last_linear
from defenses.support.targets import class_count
from defenses.support.watching import watching

#: Probabilities below this have no derivative by their logarithm.
_LEAST = 1e-12
#: Singular values of coefficients below this share of the largest are taken for zero.
_RANK = 1e-3
#: Of the search for images behind absolute values of mixes.
_STEPS, _STEP, _SMOOTH = 300, 0.05, 0.01


@dataclass(frozen=True)
class Mixture:
    """What becomes of variables before their gradient is taken.

    Mixes are made of the client's images, which are the variables, with the softmax of logits as coefficients, and labels with
    them: the same images in every round, under coefficients of their own. Flipped mixes are variables themselves, since their
    signs can have been any, in each round others. Concealing images are variables beside the client's, under labels that are the
    softmax of logits.

    Args:
        mixing: what the defense says.
        images: B of the client.
        classes: of the model.
        rounds: how many are matched together.
        apart: whether mixes are variables also where their signs are known.
    """

    mixing: Mixing
    images: int
    classes: int
    rounds: int = 1
    apart: bool = False

    @property
    def of_mixes(self) -> bool:
        """Whether the variables are the mixes, and not the images."""
        return self.apart or self.mixing.flipped

    @property
    def seen(self) -> int:
        """Images behind the gradient of a round."""
        return self.images * (1 + self.mixing.concealing)

    @property
    def variables(self) -> int:
        """Images that are variables."""
        return self.seen * (self.rounds if self.of_mixes else 1)

    @property
    def logit_shape(self) -> tuple[int, ...]:
        """Of the logits of one victim: coefficients [rounds * B, B], or labels [concealing images, classes]."""
        if self.mixing.concealing:
            return self.images * self.mixing.concealing, self.classes
        return self.rounds * self.images, self.images

    def bounds(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The box of the variables, from that of images."""
        if self.mixing.flipped:
            most = torch.maximum(low.abs(), high.abs())
            return -most, most
        if self.mixing.concealing:
            own = torch.arange(self.seen, device=low.device).view(-1, 1, 1, 1) < self.images
            return torch.where(own, low, -torch.inf), torch.where(own, high, torch.inf)
        return low, high

    def probabilities(self, labels: Tensor) -> Tensor:
        """Labels [N, B] as probabilities."""
        return labels if labels.dim() == 3 else F.one_hot(labels, self.classes).float()

    def of_round(self, number: int, images: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What the gradient of a round is of: images [S, seen, C, H, W] and the logarithms of their labels' probabilities.

        Args:
            number: of the round.
            images, logits: the variables.
            labels: probabilities of the client's images [S, B, classes].
        """
        labels = labels.to(images.dtype)
        if self.mixing.concealing:
            return images, torch.cat([_log(labels), logits.log_softmax(-1)], 1)
        shares = self.coefficients(logits)[:, number * self.images : (number + 1) * self.images]
        targets = _log(shares @ labels)
        if self.of_mixes:
            return images[:, number * self.images : (number + 1) * self.images], targets
        return (shares @ images.flatten(2)).view_as(images), targets

    def coefficients(self, logits: Tensor) -> Tensor:
        """Of each mix, [..., rounds * B, B]."""
        return logits.softmax(-1)

    def natural(self, images: Tensor) -> Tensor | None:
        """Of the variables those that priors on images hold for: images of the client and their mixes; None where none is."""
        if self.mixing.flipped:
            return None
        return images if self.apart else images[:, : self.images]

    def originals(self, images: Tensor, logits: Tensor) -> Tensor:
        """The client's images [N, B, C, H, W] from what was found."""
        if not self.of_mixes:
            return images[:, : self.images]
        return (without_signs if self.mixing.flipped else unmixed)(images, self.coefficients(logits))


def mixture_of(observation: Observation, rounds: int = 1) -> Mixture | None:
    """What an attacker knows of how images were mixed; None where nothing is."""
    mixing = observation.mixing
    return None if mixing is None else Mixture(mixing, observation.batch_size, class_count(observation.module), rounds)


def first_inputs(observation: Observation, layer: str, mixture: Mixture | None) -> Tensor:
    """What entered a first linear layer with bias, [N, images behind the gradient, *image_shape], from its gradient."""
    low, high = observation.box() if mixture is None else mixture.bounds(*observation.box())
    count = observation.batch_size if mixture is None else mixture.seen
    if count == 1:
        return layer_input(observation, layer).unflatten(-1, observation.image_shape)
    if low.dim() > 3:  # concealing images have no box; those that are in it are the client's
        low, high = observation.box()
    weight, bias = (observation.shared[f"{layer}.{child}" if layer else child] for child in ("weight", "bias"))
    box = low.expand(observation.image_shape).flatten(), high.expand(observation.image_shape).flatten()
    return separated_inputs(weight, bias, count, box).unflatten(-1, observation.image_shape)


def originals_of_read(observation: Observation, mixture: Mixture, found: Tensor, labels: Tensor) -> Tensor:
    """The client's images [N, B, C, H, W] where what the gradient is of was read without search.

    Args:
        observation: of one round.
        mixture: what became of the images.
        found: [N, seen, C, H, W].
        labels: [N, B] of the client's images.
    """
    if mixture.mixing.concealing:
        low, high = observation.box()
        outside = (torch.maximum(low - found, found - high).clamp_min(0)).square().flatten(2).sum(2)
        own = outside.argsort(1)[:, : mixture.images]
        return found.gather(1, own.view(*own.shape, 1, 1, 1).expand(-1, -1, *found.shape[2:]))
    coefficients = read_coefficients(read_targets(observation, found), labels)
    return without_signs(found, coefficients) if mixture.mixing.flipped else unmixed(found, coefficients)


def read_targets(observation: Observation, images: Tensor) -> Tensor:
    """The targets [N, S, classes] of images [N, S, C, H, W] whose mean gradient was observed, from that of the last layer: with the
    features h of each image and its error e = softmax - target, the weight's gradient is the mean of e h^T and the bias' that of e,
    which least squares tell apart where S is at most the number of features."""
    name, linear = last_linear(observation.module)
    features, logits = [], []
    for some in images:  # of one victim at a time, as all activations of all would take much memory
        with torch.no_grad(), watching({name: linear}) as entered:
            logits.append(observation.module(some))
        features.append(entered[name])
    prefix = f"{name}." if name else ""
    known, gradient = torch.stack(features).double(), observation.shared[f"{prefix}weight"].double()
    if linear.bias is not None:
        known = torch.cat([known, torch.ones_like(known[..., :1])], -1)
        gradient = torch.cat([gradient, observation.shared[f"{prefix}bias"].double()[..., None]], -1)
    errors = images.shape[1] * torch.linalg.pinv(known).mT @ gradient.mT
    return torch.stack(logits).softmax(-1) - errors.to(images.dtype)


def read_coefficients(targets: Tensor, labels: Tensor) -> Tensor:
    """The coefficients [N, S, B] of images in mixes with these targets [N, S, classes], from the images' labels [N, B]: images of
    one class share its probability evenly, as nothing tells them apart."""
    of_image = targets.gather(2, labels[:, None].expand(-1, targets.shape[1], -1))
    alike = (labels[:, :, None] == labels[:, None]).sum(-1)
    return of_image / alike[:, None]


def unmixed(mixes: Tensor, coefficients: Tensor) -> Tensor:
    """The images [N, B, ...] of which mixes [N, S, ...] are combinations, by least squares; of images that no coefficient tells
    apart the mean."""
    inverse = torch.linalg.pinv(coefficients.double(), rtol=_RANK).to(mixes.dtype)
    return (inverse @ mixes.flatten(2)).unflatten(2, mixes.shape[2:])


def without_signs(mixes: Tensor, coefficients: Tensor) -> Tensor:
    """The images [N, B, C, H, W] of which flipped mixes [N, S, C, H, W] are combinations but for their signs (Carlini et al., IEEE
    S&P 2021: absolute values are all that signs leave).

    Of one image that is its absolute value. Of more the squared distance of the absolute values of mixes is minimised by Adam, with
    total variation. An image and its negative explain the same, so that one of both is found.
    """
    seen = mixes.abs()
    if coefficients.shape[-1] == 1:
        return seen.mean(1, keepdim=True)
    generator = torch.Generator("cpu").manual_seed(0)
    begin = torch.randn((coefficients.shape[-1], *mixes.shape[2:]), generator=generator, device="cpu").to(mixes)
    images = (0.1 * begin).expand(len(mixes), *begin.shape).clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=_STEP)
    for _ in range(_STEPS):
        with torch.enable_grad():
            own = (coefficients @ images.flatten(2)).view_as(seen).abs()
            cost = (own - seen).square().flatten(1).mean(1) + _SMOOTH * total_variation(images)
        (images.grad,) = torch.autograd.grad(cost.sum(), images)
        optimizer.step()
    return images.detach()


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(_LEAST).log()
