"""What is measured, and how: a cell of a grid, its training, and the observation of its gradients. Imports no torch, so that grids,
run folders and leaderboards are read by the same definitions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

#: Nothing but the named fields, and no number for a text.
STRICT = ConfigDict(extra="forbid", strict=True)

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
StepSize = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Checkpoints = Annotated[tuple[Annotated[int, Field(ge=-1)], ...], Field(strict=False)]
Labels = Literal["known", "inferred"]
Knowledge = Annotated[tuple[Literal["blind", "informed"], ...], Field(min_length=1, strict=False)]


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


class Strict(BaseModel):
    """A part of a grid or document."""

    model_config = ConfigDict(**STRICT, frozen=True)


class Training(Strict):
    """How the models are trained (Adam). ``precision`` is that of the clients' step, in training and where it is observed."""

    epochs: Count
    batch_size: PositiveInt
    learning_rate: StepSize
    precision: Literal["float32", "bfloat16"] = "float32"


class Evaluation(Strict):
    """Which gradients are observed and attacked.

    ``checkpoints`` are numbers of epochs trained before the observation (0: untrained, -1: the last epoch); ``victims`` the
    number of observed gradients, each of ``batch_size`` training images; ``labels`` whether the attacker is given them; ``rounds``
    how often each victim shares a gradient of the same images, which attacks may average; ``knowledge`` what attackers know of the
    defense: ``blind`` ones nothing, ``informed`` ones what it discloses; ``candidates`` among how many images each victim's own is
    looked for (0: identification is not measured, as in runs of earlier versions, which do not name it).
    """

    checkpoints: Checkpoints
    victims: PositiveInt
    batch_size: PositiveInt
    labels: Labels
    rounds: PositiveInt
    knowledge: Knowledge
    candidates: Count = 0

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
