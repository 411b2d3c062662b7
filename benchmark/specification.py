"""What is measured, and how: a cell of a grid, its training, and the observation of its gradients. Imports no torch, so that grids,
run folders and leaderboards are read by the same definitions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

#: Nothing but the named fields, and no number for a text.
STRICT = ConfigDict(extra="forbid", strict=True)

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
StepSize = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Checkpoints = Annotated[tuple[Annotated[int, Field(ge=-1)], ...], Field(strict=False)]
Labels = Literal["known", "inferred"]
Knowledge = Annotated[tuple[Literal["blind", "informed"], ...], Field(min_length=1, strict=False)]
Optimizer = Literal["adam", "sgd"]
Share = Annotated[float, Field(gt=0, lt=1)]

#: How many images are behind an observed gradient: as many as behind those of the defense's training, one, or a number of them.
AS_TRAINED, SINGLE = "as-trained", "single"

Mode = Annotated[str, Field(pattern=rf"^({AS_TRAINED}|{SINGLE}|[1-9][0-9]{{0,5}})$")]


class CellSpec(BaseModel):
    """One cell of a grid: what is trained under which defense, from which seed. Where it is read, more may stand beside it."""

    model_config = ConfigDict(frozen=True, strict=True)

    dataset: str
    model: str
    defense: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset} / {self.model} / {self.defense} / seed {self.seed}"


class TrialSpec(BaseModel):
    """One trial of a grid: how a defense is trained to find out whether it learns better so."""

    model_config = ConfigDict(frozen=True, strict=True)

    dataset: str
    model: str
    defense: str
    optimizer: Optimizer
    learning_rate: StepSize
    batch_size: PositiveInt

    @property
    def name(self) -> str:
        return f"{self.dataset} / {self.model} / {self.defense} / {self.combination}"

    @property
    def combination(self) -> str:
        """What is tried, as text."""
        return f"trial of {self.optimizer}, step size {self.learning_rate:g}, batch size {self.batch_size}"


class AttackSpec(BaseModel):
    """An attack of a grid, on gradients of so many images; ``seeds`` (None: all) are those in whose cells it is run."""

    model_config = ConfigDict(frozen=True, strict=True)

    attack: str
    observed: Mode
    seeds: Annotated[tuple[int, ...], Field(strict=False)] | None = None


def attacks_on(cell: CellSpec, attacks: Mapping[str, AttackSpec]) -> dict[str, AttackSpec]:
    """Those attacks that are run in a cell, by their keys."""
    return {key: attack for key, attack in attacks.items() if attack.seeds is None or cell.seed in attack.seeds}


class FamilySpec(BaseModel):
    """Defenses of a grid that differ in one parameter alone, or a single one (``parameter`` None)."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    parameter: str | None
    defenses: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class Strict(BaseModel):
    """A part of a grid or document."""

    model_config = ConfigDict(**STRICT, frozen=True)


class Client(Strict):
    """How the training images are divided, and what clients do: each has so many ``images``, by ``partition`` a sample of all
    (``iid``) or of few classes (``dirichlet(concentration)``); in a round so many ``participants`` share, each after
    ``local_steps`` of plain SGD with ``local_step_size`` on batches of ``batch_size``, or, of one step, its gradient (FedSGD)."""

    images: PositiveInt
    batch_size: PositiveInt
    local_steps: PositiveInt = 1
    local_step_size: StepSize = 0.1
    participants: PositiveInt = 1
    partition: Annotated[str, Field(max_length=40)] = "iid"

    @model_validator(mode="after")
    def _sizes(self) -> Client:
        if self.batch_size > self.images:
            raise ValueError(f"batch_size must be at most images = {self.images}, got {self.batch_size}")
        if self.partition != "iid" and not 0 < (self.concentration or 0.0) < math.inf:
            raise ValueError(f"partition must be iid or dirichlet(a) with a concentration a above 0, got {self.partition!r}")
        return self

    @property
    def concentration(self) -> float | None:
        """That of the Dirichlet distribution; None where images are divided at random."""
        found = re.fullmatch(r"dirichlet\(([0-9.]+(?:e-?[0-9]+)?)\)", self.partition)
        try:
            return None if found is None else float(found.group(1))
        except ValueError:  # two points
            return None

    @property
    def behind(self) -> int:
        """Images behind what a client shares."""
        return min(self.images, self.local_steps * self.batch_size)

    def clients_of(self, images: int) -> int:
        """How many clients there are of so many training images.

        Raises:
            ValueError: none.
        """
        if images < self.images:
            raise ValueError(f"client.images = {self.images} leaves no client any: there are {images} training images")
        return images // self.images

    def check_participants(self, participants: int, images: int) -> None:
        """Raise ValueError where more clients are to share in a round than there are."""
        if participants > (clients := self.clients_of(images)):
            raise ValueError(f"{participants} participants in a round, and {clients} clients of {self.images} of the {images} "
                             "training images")


class Training(Strict):
    """How the models are trained: by Adam, or SGD with a momentum of 0.9. ``precision`` is that of the clients' step, in training
    and where it is observed. With a :class:`Tuning` optimizer, step size and batch size are chosen for each defense. With a
    :class:`Client` these are those of the server, and ``batch_size`` is that of a client's local steps."""

    epochs: Count
    optimizer: Optimizer
    learning_rate: StepSize
    batch_size: PositiveInt
    precision: Literal["float32", "bfloat16"]
    client: Client | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without clients nothing is said of them, as before there were any, so that what was measured then is found."""
        found: dict[str, Any] = plain(self)
        if found.get("client", ...) is None:
            del found["client"]
        return found

    @property
    def observed_images(self) -> int:
        """Images behind what is shared in training."""
        return self.batch_size if self.client is None else self.client.behind


class Tuning(Strict):
    """What is tried for every defense, each combination once: on the training images but a share for ``validation``, for ``epochs``
    (None: as many as are trained)."""

    step_sizes: Annotated[tuple[StepSize, ...], Field(min_length=1, strict=False)]
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1, strict=False)]
    optimizers: Annotated[tuple[Optimizer, ...], Field(min_length=1, strict=False)]
    validation: Share
    epochs: PositiveInt | None

    @field_validator("step_sizes", "batch_sizes", "optimizers")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(values))

    def combinations(self) -> list[tuple[Optimizer, float, int]]:
        """Optimizer, step size and batch size of each trial."""
        return list(product(self.optimizers, self.step_sizes, self.batch_sizes))


class Evaluation(Strict):
    """Which gradients are observed and attacked.

    ``checkpoints`` are numbers of epochs trained before the observation (0: untrained, -1: the last epoch); ``victims`` the
    number of observed gradients, and ``observed`` of how many training images each is (a :data:`Mode`); where it is of several, so
    many gradients are attacked that ``images`` are behind them; ``labels`` whether the attacker is given them; ``rounds`` how often
    each victim shares a gradient of the same images, which attacks may average; ``knowledge`` what attackers know of the defense:
    ``blind`` ones nothing, ``informed`` ones what it discloses; ``candidates`` among how many images each victim's own is looked
    for (0: identification is not measured), and ``public`` how many other images attackers then have at most, where gradients are
    of several; ``attack_seeds`` in which of the grid's seeds images are rebuilt, which takes longest (None: in all, as victims are
    identified in all); ``lpips`` whether reconstructions are also compared by LPIPS, which the user must have.
    """

    checkpoints: Checkpoints
    victims: PositiveInt
    observed: Annotated[tuple[Mode, ...], Field(min_length=1, strict=False)]
    images: PositiveInt
    labels: Labels
    rounds: PositiveInt
    knowledge: Knowledge
    candidates: Count
    public: PositiveInt
    attack_seeds: Annotated[tuple[int, ...], Field(min_length=1, strict=False)] | None = None
    lpips: bool = False

    @field_validator("observed")
    @classmethod
    def _each_once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(values))

    @field_validator("candidates")
    @classmethod
    def _a_choice(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be 0 (not measured) or at least 2, got 1")
        return value

    @field_validator("knowledge")
    @classmethod
    def _in_order(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(values)))  # blind comes first

    def images_of(self, mode: str, trained: int) -> int:
        """How many images are behind each gradient of a mode, where the training has batches of ``trained`` images."""
        return trained if mode == AS_TRAINED else 1 if mode == SINGLE else int(mode)

    def attacked(self, batch_size: int) -> int:
        """How many of the observed gradients, of so many images each, are attacked."""
        return self.victims if batch_size == 1 else max(1, min(self.victims, self.images // batch_size))
