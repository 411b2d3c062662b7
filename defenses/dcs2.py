"""Concealing images beside the client's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from defenses.base import Defense
from defenses.evaluating import evaluating
from defenses.mixing import Mixing
from defenses.release import Release
from defenses.stages import Projected
from defenses.step import Batch, Facts, Gradients, Step
from defenses.support import checks
from defenses.support.targets import class_count, probabilities

#: Exponents of Adam's means, and what its divisor has at least.
_FIRST, _SECOND, _LEAST = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class DCS2(Defense):
    """Share the gradient of the client's images together with that of concealing ones, which look different but have nearly the
    same gradient and outputs (Wu et al., "Concealing Sensitive Samples against Gradient Leakage in Federated Learning", AAAI 2024).

    Each image x with label y gets a concealing image, which begins as share * noise + (1 - share) * x, has a random label c, and is
    moved by Adam on the images alone to minimise

        1 - cos(grad L(x', c), grad L(x, y)) + exp(-distance * |x' - x|) + output * (|f(x') - f(x)| / |f(x)| - tolerance),

    with norms and outputs f averaged over the batch, until |x' - x| exceeds ``enough``. Nothing keeps it within the range of
    pixels. What is shared is the gradient of the mean loss over both, under targets of share * c + (1 - share) * y for the
    concealing images; where its product with the client's own gradient is negative, that part is projected away, so that it still
    descends (of 64 victims on LeNet, untrained and trained, never). Beside one image the gradient of the last layer has rank two,
    in which whoever has the image's label tells the features of both apart.

    The text of the paper was not at hand when this was written, so that the definition is that of the authors' code, from the
    option that begins with noise, as a client step has no other images; c is drawn from all classes. The code divides the loss by
    3 instead of the mean over both (a factor of 2/3), and adds at least half the client's gradient where the product is negative,
    instead of what makes it zero.

    An iteration takes one gradient and its derivative by the images, about four gradients of the batch; beside it one for the
    projection, and twice the batch for what is shared. The authors' 1,000 iterations of a step size of 0.1 would take a day for a
    training of LeNet that takes five seconds without a defense; by default the same is minimised in ``iterations`` of ten times
    that size or more, which is about as far.

    Args:
        iterations: of Adam, >= 0.
        step_size: of Adam in normalised space, > 0, decayed by 0.1 after 3/8, 5/8 and 7/8.
        share: of noise and of the concealing label, 0 <= share <= 1.
        distance, output: weights, >= 0.
        tolerance: of outputs, >= 0; it shifts what is minimised by a constant.
        enough: distance after which the search ends, > 0.
    """

    name: ClassVar[str] = "dcs2"
    summary: ClassVar[str] = "the gradient is that of the images together with concealing ones, found by optimisation"
    paper: ClassVar[str] = "Wu et al., AAAI 2024"
    acts: ClassVar[str] = "step"

    iterations: int = 3
    step_size: float = 10.0
    share: float = 0.7
    distance: float = 0.01
    output: float = 0.01
    tolerance: float = 0.01
    enough: float = 500.0

    def __post_init__(self) -> None:
        checks.whole("iterations", self.iterations, at_least=0)
        checks.number("step_size", self.step_size, above=0)
        checks.number("share", self.share, at_least=0, at_most=1)
        for name in ("distance", "output", "tolerance"):
            checks.number(name, getattr(self, name), at_least=0)
        checks.number("enough", self.enough, above=0)

    def transform_batch(self, batch: Batch, step: Step) -> Batch:
        images, own = batch.images, probabilities(batch.targets, step.module, batch.images)
        drawn = images.new_empty(len(images)).uniform_(generator=step.generator)
        classes = class_count(step.module)
        concealing = F.one_hot((classes * drawn).long().clamp_max(classes - 1), classes).to(own.dtype)
        noise = torch.empty_like(images).normal_(generator=step.generator)
        begin = self.share * noise + (1 - self.share) * images
        with evaluating(step.module):
            found = self._concealed(Batch(begin, concealing), Batch(images, own), step)
        return Batch(torch.cat([images, found]), torch.cat([own, self.share * concealing + (1 - self.share) * own]))

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        count = len(step.batch.images) // 2
        with evaluating(step.module):
            own = step.gradient(Batch(*(part[:count] for part in step.batch)))
        product = sum((own[name] * g).sum() for name, g in gradients.items())
        squared = sum(g.square().sum() for g in own.values())
        least = torch.finfo(step.batch.images.dtype).tiny
        share = -torch.as_tensor(product).clamp_max(0) / torch.as_tensor(squared).clamp_min(least)
        return {name: g + share * own[name] for name, g in gradients.items()}

    def mixing(self, facts: Facts) -> Mixing | None:
        return Mixing(concealing=1)

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        return dict.fromkeys(shared, Release((Projected(),)))

    def _concealed(self, begin: Batch, own: Batch, step: Step) -> Tensor:
        """The concealing images."""
        aim, outputs = (part.detach() for part in self._gradient(own, step, create_graph=False))
        images, first, second = begin.images.clone(), torch.zeros_like(begin.images), torch.zeros_like(begin.images)
        going = torch.ones((), dtype=torch.bool, device=images.device)  # never read, so that no iteration waits for the device
        for number in range(1, self.iterations + 1):
            at = images.detach().requires_grad_()
            with torch.enable_grad():
                gradient, reached = self._gradient(Batch(at, begin.targets), step, create_graph=True)
                away = (at - own.images).flatten(1).norm(dim=1).mean()
                differ = ((reached - outputs).norm(dim=1) / outputs.norm(dim=1).clamp_min(_LEAST)).mean()
                objective = (1 - F.cosine_similarity(gradient, aim, dim=0) + torch.exp(-self.distance * away)
                             + self.output * (differ - self.tolerance))
            (derivative,) = torch.autograd.grad(objective, at)
            first.lerp_(derivative, 1 - _FIRST)
            second.lerp_(derivative.square(), 1 - _SECOND)
            size = self.step_size * 0.1 ** sum(number > self.iterations * part // 8 for part in (3, 5, 7))
            moved = (first / (1 - _FIRST**number)) / ((second / (1 - _SECOND**number)).sqrt() + _LEAST)
            images = torch.where(going, images - size * moved, images)
            going = going & (away <= self.enough)
        return images

    def _gradient(self, batch: Batch, step: Step, *, create_graph: bool) -> tuple[Tensor, Tensor]:
        """Of the mean loss of a batch by all parameters, in one row, and the outputs of the model [B, classes]."""
        outputs: list[Tensor] = []
        handle = step.module.register_forward_hook(lambda _, given, output: outputs.append(output))
        try:
            loss = step.losses(batch).mean()
        finally:
            handle.remove()
        parameters = [p for p in step.module.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, parameters, create_graph=create_graph, materialize_grads=True)
        return torch.cat([g.flatten() for g in found]), outputs[0]
