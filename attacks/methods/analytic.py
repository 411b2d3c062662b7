"""Images read from the gradient of a first linear layer, without optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.reading.labels import as_classes, known_or_inferred_labels, label_obstacle
from attacks.reading.layers import entered, has_parameters, layer_input
from attacks.reading.mixtures import mixture_of, originals_of_read
from attacks.reading.separation import separated_inputs


@dataclass(frozen=True)
class Analytic(Attack):
    """Read the input of a first linear layer with bias from its gradient (Phong et al., 2018; Geiping et al., 2020, prop. 3.1).

    For one image every row i gives x = (dL/dW_i) / (dL/db_i), and all rows together a least-squares estimate, which also averages
    noise. For more images, rows whose unit is active for one image alone give that image (:mod:`attacks.reading.separation`). What
    comes behind the layer does not matter. An informed attacker takes off what the variance of known noise adds, and leaves out
    what was set to zero. There is nothing to choose.
    """

    name: ClassVar[str] = "analytic"
    summary: ClassVar[str] = "images are read from the gradient of a first linear layer"
    paper: ClassVar[str] = "Phong et al., 2018"
    threat_model: ClassVar[str] = "B"

    @property
    def searches(self) -> bool:
        return False

    def obstacle(self, observation: Observation) -> str | None:
        return _first_layer(observation)[1] or label_obstacle(observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        name, _ = _first_layer(observation)
        mixture, labels = mixture_of(observation), as_classes(known_or_inferred_labels(observation))
        low, high = observation.box() if mixture is None else mixture.bounds(*observation.box())
        count = observation.batch_size if mixture is None else mixture.seen
        if count == 1:
            found = layer_input(observation, name)
        else:
            weight, bias = (observation.shared[f"{name}.{child}" if name else child] for child in ("weight", "bias"))
            bounds = (torch.broadcast_to(end, (*end.shape[:-3], *observation.image_shape)).flatten(-3) for end in (low, high))
            found = separated_inputs(weight, bias, count, tuple(bounds))
        images = found.unflatten(-1, observation.image_shape)
        if mixture is not None:
            images = originals_of_read(observation, mixture, images, labels)
        if progress is not None:
            progress(1, 1)
        return Reconstruction(observation.to_pixels(images), labels, images.new_zeros(len(observation)))


def _first_layer(observation: Observation) -> tuple[str, str | None]:
    """The first layer that runs, and why the attack does not apply to it; found by a forward pass on a random image."""
    generator = torch.Generator("cpu").manual_seed(0)
    image = torch.randn((1, *observation.image_shape), generator=generator, device="cpu").to(observation.mean)
    layers = {name: layer for name, layer in observation.module.named_modules() if has_parameters(layer)}
    name, seen = next(iter(entered(observation, layers, image).items()))
    module = layers[name]
    if not isinstance(module, nn.Linear):
        return name, f"the first layer is a {_KINDS.get(type(module), type(module).__name__)}, not a linear one"
    if module.bias is None:
        return name, "the first layer has no bias"
    if seen.shape != (1, image.numel()) or (seen.device.type != "meta" and not torch.equal(seen, image.flatten(1))):
        return name, "the first layer does not see the pixels as they are"
    return name, None


_KINDS: dict[type, str] = {nn.Conv2d: "convolution", nn.Conv1d: "convolution", nn.Embedding: "embedding"}
