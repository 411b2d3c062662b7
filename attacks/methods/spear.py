"""All images of a batch, exactly, from the gradient of a first linear layer before a ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.reading.labels import as_classes, known_or_inferred_labels, label_obstacle, labels_of_read
from attacks.reading.layers import first_linear, relu_obstacle
from attacks.reading.mixtures import mixture_of, originals_of_read
from attacks.reading.releases import alteration
from attacks.reading.sparsity import separated_by_sparsity
from attacks.undone import rebuilt
from defenses.support import checks
from defenses.support.seeds import derive


@dataclass(frozen=True)
class Spear(Attack):
    """Read a whole batch from the gradient of a first linear layer that a ReLU follows (SPEAR; Dimitrov et al., NeurIPS 2024), by
    its low rank and the zeros that the ReLU leaves in the errors: :mod:`attacks.reading.sparsity`.

    ``analytic`` reads those images that some unit is active for alone, of which there are few in a batch; here all of a batch are
    read or none, and of those that are the attacker knows it: their errors are zero just where the units are inactive. The number
    of samples doubles with each image. Nothing of the defense is needed. An informed attacker leaves gradients alone that were
    altered, and un-mixes images that were mixed. Labels are told by the gradient of the last layer, once the images are known.

    Args:
        samples: submatrices for each gradient, at most, >= 1. Batches with more than 2^(B-1) to expect are an obstacle.
    """

    name: ClassVar[str] = "spear"
    summary: ClassVar[str] = "whole batches are read from the gradient of a first linear layer before a ReLU, by rank and sparsity"
    paper: ClassVar[str] = "Dimitrov et al., NeurIPS 2024"
    threat_model: ClassVar[str] = "B"

    samples: int = 2**18

    def __post_init__(self) -> None:
        checks.whole("samples", self.samples, at_least=1)

    @property
    def searches(self) -> bool:
        return False  # what is found, when it is found, does not depend on which samples are drawn

    def own_obstacle(self, observation: Observation) -> str | None:
        name, reason = first_linear(observation)
        if reason is not None:
            return reason
        if (reason := relu_obstacle(observation, name)) is not None:
            return reason
        if (reason := alteration(observation, (_of(name, "weight"), _of(name, "bias")))) is not None:
            return f"batches are read from gradients as they were computed, and {reason}"
        count = _seen(observation)
        if 2 ** (count - 1) > self.samples:
            return f"of {count} images one is told by about 2^{count - 1} samples, more than {self.samples}"
        if count > observation.shared[_of(name, "bias")].shape[1]:
            return f"the first layer has fewer units than the {count} images behind a gradient"
        return label_obstacle(observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        name, _ = first_linear(observation)
        mixture, labels = mixture_of(observation), as_classes(known_or_inferred_labels(observation))
        layer = observation.module.get_submodule(name)
        read = separated_by_sparsity(
            (observation.shared[_of(name, "weight")], observation.shared[_of(name, "bias")]), (layer.weight, layer.bias),  # type: ignore[arg-type]
            _seen(observation), self.samples, [derive("spear", victim) for victim in observation.victims])
        images = read.inputs.unflatten(-1, observation.image_shape)
        if mixture is not None:
            images = originals_of_read(observation, mixture, images, labels)
        else:
            labels = labels_of_read(observation, images, labels)
        if progress is not None:
            progress(1, 1)
        return rebuilt(observation, images, labels, 1 - read.agreement, seed)


def _seen(observation: Observation) -> int:
    """Images behind a gradient."""
    mixture = mixture_of(observation)
    return observation.batch_size if mixture is None else mixture.seen


def _of(layer: str, child: str) -> str:
    return f"{layer}.{child}" if layer else child
