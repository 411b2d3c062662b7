"""Images read from the gradient of a first linear layer, without optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.reading.labels import as_classes, known_or_inferred_labels, label_obstacle
from attacks.reading.layers import first_linear
from attacks.reading.mixtures import first_inputs, mixture_of, originals_of_read
from attacks.undone import rebuilt


@dataclass(frozen=True)
class Analytic(Attack):
    """Read the input of a first linear layer with bias from its gradient (Phong et al., 2018; Geiping et al., 2020, prop. 3.1).

    For one image every row i gives x = (dL/dW_i) / (dL/db_i), and all rows together a least-squares estimate, which also averages
    noise. For more images, rows whose unit is active for one image alone give that image (:mod:`attacks.reading.separation`). What
    comes behind the layer does not matter. An informed attacker takes off what the variance of known noise adds, leaves out what
    was set to zero, and un-mixes what was mixed, by labels that the gradient of the last layer tells then. There is nothing to
    choose.
    """

    name: ClassVar[str] = "analytic"
    summary: ClassVar[str] = "images are read from the gradient of a first linear layer"
    paper: ClassVar[str] = "Phong et al., 2018"
    threat_model: ClassVar[str] = "B"

    @property
    def searches(self) -> bool:
        return False

    def own_obstacle(self, observation: Observation) -> str | None:
        return first_linear(observation)[1] or label_obstacle(observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        name, _ = first_linear(observation)
        mixture, labels = mixture_of(observation), as_classes(known_or_inferred_labels(observation))
        images = first_inputs(observation, name, mixture)
        if mixture is not None:
            images = originals_of_read(observation, mixture, images, labels)
        if progress is not None:
            progress(1, 1)
        return rebuilt(observation, images, labels, images.new_zeros(len(observation)), seed)
