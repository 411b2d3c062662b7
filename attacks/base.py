"""What an attacker sees, what it returns, and what an attack is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attacks.upload import upload
from defenses import Defense
from defenses.registry import label, parameters

#: Called with the number of optimisation iterations done so far and in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Observation:
    """All that an honest-but-curious server holds, for N victims at once.

    Attributes:
        module: the shared model in the state of that round, in evaluation mode. An attack does not change it.
        gradients: parameter name to the observed gradients [N, *parameter.shape].
        batch_size: B, images behind each gradient.
        image_shape: (C, H, W).
        mean, std: [C], the public normalisation (pixel - mean) / std of pixels in [0, 1].
        labels: [N, B] class indices, or None: the attack infers them.
        defense: which defense runs and its parameters, not its randomness (Kerckhoffs' principle).
        victims: N numbers that name the victims; an attack's randomness for a victim follows from its number, so that the
            result does not depend on which other victims are attacked beside it; 0 to N - 1 by default.
        rounds: how often each victim shared a gradient of the same images in this state of the model; ``gradients`` are of the
            first.
        averaged: the means over all rounds, of the shapes of ``gradients``, or None where there was one round.
        averaged_rounds: over how many rounds ``gradients`` themselves are means, where an attack has put the means in their place.
    """

    module: nn.Module
    gradients: dict[str, Tensor]
    batch_size: int
    image_shape: tuple[int, int, int]
    mean: Tensor
    std: Tensor
    labels: Tensor | None
    defense: Defense
    victims: tuple[int, ...] = ()
    rounds: int = 1
    averaged: dict[str, Tensor] | None = None
    averaged_rounds: int = 1

    def __post_init__(self) -> None:
        if not self.victims:
            object.__setattr__(self, "victims", tuple(range(len(next(iter(self.gradients.values()), ())))))
        shapes = {name: tuple(p.shape) for name, p in self.module.named_parameters() if p.requires_grad}
        given = {name: tuple(g.shape) for name, g in self.gradients.items()}
        expected = {name: (len(self.victims), *shape) for name, shape in shapes.items()}
        if given != expected:
            wrong = sorted(name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name))
            raise ValueError(f"gradients must be [victims, *parameter.shape] for every trainable parameter; wrong: {wrong}")
        if self.labels is not None and tuple(self.labels.shape) != (len(self.victims), self.batch_size):
            raise ValueError(f"labels must be [{len(self.victims)}, {self.batch_size}], got {list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.victims)

    @property
    def device(self) -> torch.device:
        return next(iter(self.gradients.values())).device

    def select(self, positions: Sequence[int]) -> Observation:
        """The observation of some of the victims only."""
        index = upload(list(positions), self.device, torch.long)
        def some(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: g.index_select(0, index) for name, g in gradients.items()}

        return replace(
            self,
            gradients=some(self.gradients),
            averaged=None if self.averaged is None else some(self.averaged),
            labels=None if self.labels is None else self.labels.index_select(0, index),
            victims=tuple(self.victims[i] for i in positions),
        )

    def to_pixels(self, x: Tensor) -> Tensor:
        """Normalised images [..., C, H, W] to pixels in [0, 1]."""
        return (x * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)).clamp(0, 1)


@dataclass(frozen=True)
class Candidates:
    """What each of A attacks rebuilt, where an attack chooses among others.

    Attributes:
        attacks: the attacks.
        found: what each returned.
        scores: [A, N], by which the attacker chooses, the lowest; comparable between attacks.
        seconds: that each took for all victims.
    """

    attacks: tuple[Attack, ...]
    found: tuple[Reconstruction, ...]
    scores: Tensor
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Reconstruction:
    """What an attack returns.

    Attributes:
        images: [N, B, C, H, W], pixels in [0, 1]; the order within a batch means nothing.
        labels: [N, B] class of each reconstructed image, as known or inferred.
        cost: [N], what the attacker itself minimised; comparable between restarts of one attack only.
        candidates: of an attack that chooses among others, what it chose from.
    """

    images: Tensor
    labels: Tensor
    cost: Tensor
    candidates: Candidates | None = None


@dataclass(frozen=True)
class Attack:
    """A gradient-inversion attack by an honest-but-curious server; parameters are dataclass fields.

    Attributes:
        tier: ``static`` (as published, the defense is not taken into account), ``adaptive`` (knows the defense) or
            ``worst case``.
        threat_model: letter of the weakest threat model that suffices in the SoK of Carletti et al. (USENIX Security 2025).
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    tier: ClassVar[str] = "static"
    threat_model: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """The specification that makes this attack."""
        return label(self)

    def parameters(self) -> dict[str, Any]:
        """All parameters by name."""
        return parameters(self)

    def obstacle(self, observation: Observation) -> str | None:
        """Why the attack does not apply to the observation, or None when it does."""
        return None

    def check(self, observation: Observation) -> None:
        """Raise ValueError with the obstacle where there is one."""
        obstacle = self.obstacle(observation)
        if obstacle is not None:
            raise ValueError(obstacle)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        """Rebuild the images of all victims of the observation.

        Args:
            observation: what the server holds.
            seed: of the attack's randomness, together with the number of each victim.
            progress: told of the iterations done.

        Raises:
            ValueError: the attack does not apply; the text is that of :meth:`obstacle`.
        """
        raise NotImplementedError
