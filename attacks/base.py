"""What an attacker sees, what it returns, and what an attack is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from defenses import Choice, Defense, Facts, LocalSteps, Mixing, Release, Unknown
from defenses.client import ONE_GRADIENT
from defenses.stochastic import StochasticLayer, sampling, stochastic_layers
from defenses.support.registry import Named, SpecificationError
from defenses.support.upload import upload

_T = TypeVar("_T")

#: Called with the number of optimisation iterations done so far and in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Round:
    """What was observed in one round.

    Attributes:
        number: steps of training before it.
        module: the shared model in the state of that round.
        shared: parameter name to gradients [N, *parameter.shape]; they may lie in a file, and are then read when they are used.
    """

    number: int
    module: nn.Module
    shared: Mapping[str, Tensor]


@dataclass(frozen=True)
class Observation:
    """All that an honest-but-curious server holds, for N victims at once.

    Attributes:
        module: the shared model in the state of that round, in evaluation mode. An attack does not change it.
        shared: parameter name to the observed gradients [N, *parameter.shape].
        batch_size: B, images behind each gradient.
        image_shape: (C, H, W).
        mean, std: [C], the public normalisation (pixel - mean) / std of pixels in [0, 1].
        labels: [N, B] class indices or [N, B, classes] probabilities, or None: the attack infers them.
        defense: which defense runs, with the parameters in force, not its randomness (Kerckhoffs' principle); the attacker is
            informed. None: the attacker is blind, and has the model and the cross-entropy alone.
        victims: N numbers that name the victims; an attack's randomness for a victim follows from its number, so that the
            result does not depend on which other victims are attacked beside it; 0 to N - 1 by default.
        rounds: each round in which the victims shared a gradient of the same images, of which ``shared`` are those of the first;
            may be empty where there was no other.
        averaged_rounds: over how many rounds ``shared`` is a mean, where an attack has put the means in its place.
        kept: what :meth:`once` has computed; a blind and an informed attacker share it.
        local: how the clients came to what they shared, which is public: one gradient, or the update of several local steps, in
            units of a gradient (:class:`defenses.LocalSteps`).
    """

    module: nn.Module
    shared: dict[str, Tensor]
    batch_size: int
    image_shape: tuple[int, int, int]
    mean: Tensor
    std: Tensor
    labels: Tensor | None
    defense: Defense | None = None
    victims: tuple[int, ...] = ()
    rounds: tuple[Round, ...] = ()
    averaged_rounds: int = 1
    kept: dict[Any, tuple[Tensor, Any]] = field(default_factory=dict, repr=False, compare=False)
    local: LocalSteps = ONE_GRADIENT

    def __post_init__(self) -> None:
        if not self.victims:
            object.__setattr__(self, "victims", tuple(range(len(next(iter(self.shared.values()), ())))))
        shapes = {name: tuple(p.shape) for name, p in self.module.named_parameters() if p.requires_grad}
        given = {name: tuple(g.shape) for name, g in self.shared.items()}
        expected = {name: (len(self.victims), *shape) for name, shape in shapes.items()}
        if given != expected:
            wrong = sorted(name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name))
            raise ValueError(f"gradients must be [victims, *parameter.shape] for every trainable parameter; wrong: {wrong}")
        if self.labels is not None and tuple(self.labels.shape[:2]) != (len(self.victims), self.batch_size):
            raise ValueError(f"labels must be [{len(self.victims)}, {self.batch_size}], got {list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.victims)

    @property
    def device(self) -> torch.device:
        return next(iter(self.shared.values())).device

    def once(self, parameter: str, what: Hashable, compute: Callable[[Tensor], _T]) -> _T:
        """What is computed of the gradients of a parameter, for the first that asks: large ones take as long to read as an attack
        takes for many iterations."""
        gradients = self.shared[parameter]
        if (found := self.kept.get((parameter, what))) is None or found[0] is not gradients:
            found = self.kept[parameter, what] = gradients, compute(gradients)
        value: _T = found[1]
        return value

    def blind(self) -> Observation:
        """What an attacker sees who knows nothing of the defense."""
        return replace(self, defense=None)

    def releases(self) -> dict[str, Release]:
        """What the shared gradients tell of the clean ones, by parameter name. A blind attacker takes them for clean."""
        return self._releases

    @cached_property
    def _releases(self) -> dict[str, Release]:
        # Kept, since an attack asks several times, and masks of large layers take as long as an iteration to find.
        if self.defense is None:
            return dict.fromkeys(self.shared, Release())
        if self.local and (acting := [of.name for of in self.defense.parts if of.acts_in_steps and not of.tells_of_updates]):
            reason = f"{acting[0]} acted in each of {self.local.steps} local steps, of which the update alone is seen"
            return dict.fromkeys(self.shared, Release((Unknown(reason),)))
        told = self.defense.release(self.shared, self._facts)
        return {name: release.averaged(self.averaged_rounds) for name, release in told.items()}

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """What the client may have done to each image before the gradient was computed, one of these; nothing where none is known
        of, as to a blind attacker, or where each of several local steps had another."""
        return () if self.defense is None or self.local else tuple(self.defense.choices(self._facts))

    @property
    def _facts(self) -> Facts:
        return Facts(self.batch_size, self.rounds[0].number if self.rounds else 0, self.module, self.image_shape,
                     self.local.steps, self.local.batch_size)

    @cached_property
    def stochastic(self) -> dict[str, StochasticLayer]:
        """The layers that sample where the attacker runs the model, by name: all of them for one who knows of them; a blind
        attacker has the model as it is evaluated, where some do not."""
        return {name: layer for name, layer in stochastic_layers(self.module).items()
                if self.defense is not None or layer.samples_in_evaluation}

    @cached_property
    def sample_shapes(self) -> list[torch.Size]:
        """Of each of these layers the shape of what it samples of one image."""
        layers = list(self.stochastic.values())
        with torch.no_grad(), sampling(layers):
            if layers:
                self.module(self.mean.new_zeros(1, *self.image_shape))
        shapes = [layer.shape for layer in layers]
        if None in shapes:
            raise ValueError("a stochastic layer of the model does not run")
        return shapes  # type: ignore[return-value]

    def samples_of(self, noise: Sequence[Tensor]) -> list[Tensor]:
        """What these layers make of standard normal noise [..., *shape], one tensor for each."""
        return [layer.drawn(own) for layer, own in zip(self.stochastic.values(), noise, strict=True)]

    @property
    def summed(self) -> int:
        """Over how many clients what was shared is known to be a sum; 1 to a blind attacker."""
        return 1 if self.defense is None else self.defense.summed

    @property
    def mixing(self) -> Mixing | None:
        """Which images the gradients are of, where a defense is known to mix them; a blind attacker takes them for the client's,
        and so does everybody of an update, in each step of which they were mixed anew."""
        return None if self.defense is None or self.local else self.defense.mixing(self._facts)

    @property
    def discloses(self) -> bool:
        """Whether an informed attacker knows anything that a blind one does not take for granted."""
        return self.defense is not None and (
            self.defense.regularized or bool(self.stochastic) or bool(self.choices) or self.mixing is not None
            or any(release.stages for release in self.releases().values()))

    def averaged(self) -> Observation:
        """The observation with the means over all rounds in the place of the first round's gradients."""
        means = {name: torch.zeros_like(g) for name, g in self.shared.items()}
        for one in self.rounds:
            for name, mean in means.items():
                mean += one.shared[name].to(mean.device) / len(self.rounds)
        return replace(self, shared=means, rounds=self.rounds[:1], averaged_rounds=max(1, len(self.rounds)), kept={})

    def by_round(self) -> Iterator[Observation]:
        """What was observed in each round, the first of which is that of ``shared``, as an observation of its own."""
        yield replace(self, rounds=self.rounds[:1])
        for one in self.rounds[1:]:
            shared = {name: g.to(self.device) for name, g in one.shared.items()}
            yield replace(self, module=one.module, shared=shared, rounds=(one,), kept={})

    def select(self, positions: Sequence[int]) -> Observation:
        """The observation of some of the victims only."""
        index = upload(list(positions), self.device, torch.long)

        def some(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: g.index_select(0, index.to(g.device)) for name, g in gradients.items()}

        first = some(self.shared)
        later = tuple(replace(one, shared=some(one.shared)) for one in self.rounds[1:])
        return replace(
            self,
            shared=first,
            rounds=(*(replace(one, shared=first) for one in self.rounds[:1]), *later),
            labels=None if self.labels is None else self.labels.index_select(0, index),
            victims=tuple(self.victims[i] for i in positions),
            kept={},
        )

    def box(self) -> tuple[Tensor, Tensor]:
        """The least and largest value of each channel of a normalised image, [C, 1, 1]."""
        mean, std = (t.view(-1, 1, 1) for t in (self.mean, self.std))
        return -mean / std, (1 - mean) / std

    def to_pixels(self, x: Tensor) -> Tensor:
        """Normalised images [..., C, H, W] to pixels in [0, 1]."""
        return (x * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)).clamp(0, 1)


@dataclass(frozen=True)
class Reconstruction:
    """What an attack returns.

    Attributes:
        images: [N, B, C, H, W], pixels in [0, 1]; the order within a batch means nothing.
        labels: [N, B] class of each reconstructed image, as known or inferred.
        cost: [N], what the attacker itself minimised; comparable between restarts of one attack only.
    """

    images: Tensor
    labels: Tensor
    cost: Tensor


@dataclass(frozen=True)
class Attack(Named):
    """A gradient-inversion attack by an honest-but-curious server; parameters are dataclass fields.

    What the attacker knows of the defense is a property of the observation: an attack takes what ``observation.releases()``, the
    model's stochastic layers and the client's loss tell an informed one, and finds nothing of these where the attacker is blind.

    Attributes:
        threat_model: letter of the weakest threat model that suffices in the SoK of Carletti et al. (USENIX Security 2025).
        needs: what the attack cannot do without beside the gradient: ``defense`` (an informed attacker), ``rounds`` (several),
            ``updates`` (of several local steps).
        takes_updates: whether it knows what an update of several local steps is, and does not take it for a gradient.
        of_others: whether it runs other attacks, see :meth:`members`.
    """

    threat_model: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    takes_updates: ClassVar[bool] = False
    of_others: ClassVar[bool] = False

    @property
    def searches(self) -> bool:
        """Whether it searches from random starts, so that it depends on the seed, and more iterations may find more."""
        return True

    def members(self) -> list[Attack]:
        """The attacks that it runs, where it is one of others."""
        return []

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "obstacle" in vars(cls):
            raise SpecificationError(f"{cls.__name__}.obstacle is of an earlier version: override own_obstacle(observation)")

    def obstacle(self, observation: Observation) -> str | None:
        """Why the attack does not apply to the observation, or None when it does. Not a hook."""
        if observation.local and not self.takes_updates:
            return f"updates of {observation.local.steps} local steps were shared, and it takes them for gradients"
        return self.own_obstacle(observation)

    def own_obstacle(self, observation: Observation) -> str | None:
        """The same of this attack in particular; where it ``takes_updates``, of these too."""
        return None

    def check(self, observation: Observation) -> None:
        """Raise ValueError with the obstacle where there is one."""
        obstacle = self.obstacle(observation)
        if obstacle is not None:
            raise ValueError(obstacle)

    def informed_by(self, observation: Observation) -> bool:
        """Whether what an informed attacker knows changes what the attack computes; if not, it is run once for both."""
        return observation.discloses

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
