"""The grid of an experiment: read from YAML, a preset or the command line, and checked."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import attacks
import defenses
from benchmark import models
from benchmark.errors import InputError
from defenses.support.registry import SpecificationError, unknown

Precision = Literal["float32", "bfloat16"]
PositiveInt = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Training(_Section):
    """How the models are trained (Adam). ``precision`` is that of the clients' step, in training and where it is observed."""

    epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: PositiveInt = 64
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    precision: Precision = "float32"


class Evaluation(_Section):
    """Which gradients are observed and attacked.

    ``checkpoints`` are numbers of epochs trained before the observation (0: untrained, -1: the last epoch); ``victims`` the
    number of observed gradients, each of ``batch_size`` training images; ``labels`` whether the attacker is given them; ``rounds``
    how often each victim shares a gradient of the same images, which attacks may average; ``knowledge`` what attackers know of the
    defense: ``blind`` ones nothing, ``informed`` ones what it discloses.
    """

    checkpoints: Annotated[tuple[int, ...], Field(strict=False)] = (0,)
    victims: PositiveInt = 16
    batch_size: PositiveInt = 1
    labels: Literal["known", "inferred"] = "known"
    rounds: PositiveInt = 1
    knowledge: Annotated[tuple[Literal["blind", "informed"], ...], Field(min_length=1, strict=False)] = ("blind", "informed")

    @field_validator("knowledge")
    @classmethod
    def _in_order(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(values)))  # blind comes first


class Grid(_Section):
    """Every combination of dataset, model, defense and seed is a cell."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=80)] = "custom"
    datasets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("mnist5k",)
    image_size: Annotated[int, Field(ge=7)] | None = None
    models: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("lenet",)
    defenses: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("none",)
    attacks: Annotated[tuple[str, ...], Field(strict=False)] = ("inverting-gradients",)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1, strict=False)] = (0,)
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    @field_validator("defenses")
    @classmethod
    def _defenses(cls, specifications: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(defenses.create(s).label for s in specifications))

    @field_validator("attacks")
    @classmethod
    def _attacks(cls, specifications: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(attack.label for s in specifications for attack in attacks.create_all(s)))

    @field_validator("models")
    @classmethod
    def _models(cls, specifications: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(models.create(s).label for s in specifications))

    @field_validator("datasets", "seeds")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(values))

    @model_validator(mode="after")
    def _checkpoints(self) -> Grid:
        for epoch in self.evaluation.checkpoints:
            if not -1 <= epoch <= self.training.epochs:
                raise ValueError(
                    f"evaluation.checkpoints must be -1 (last) to training.epochs = {self.training.epochs}, got {epoch}")
        return self

    @model_validator(mode="after")
    def _precision(self) -> Grid:
        guaranteed = [label for label in self.defenses if defenses.create(label).guarantees]
        if self.training.precision != "float32" and guaranteed:
            raise ValueError(f"training.precision must be 'float32' for {guaranteed[0]}, got {self.training.precision!r}: norms of "
                             "three digits do not clip to a bound, so that epsilon would not hold")
        return self

    def checkpoints(self) -> tuple[int, ...]:
        """The epochs at which gradients are observed, in order."""
        return tuple(sorted({self.training.epochs if epoch == -1 else epoch for epoch in self.evaluation.checkpoints}))


def presets() -> list[str]:
    """Names of the grids that come with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in resources.files("benchmark.presets").iterdir() if f.name.endswith(".yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """The content of a preset.

    Raises:
        InputError: there is none of that name.
    """
    if name not in presets():
        raise InputError(unknown("preset", name, presets()))
    return _parse(resources.files("benchmark.presets").joinpath(f"{name}.yaml").read_text(), f"preset {name}")


def load_file(path: Path) -> dict[str, Any]:
    """The content of a YAML file; the grid's name is that of the file unless it has its own.

    Raises:
        InputError: it cannot be read or is no mapping.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the grid {path}: {error}") from error
    content = _parse(text, str(path))
    content.setdefault("name", "".join(c if c.isalnum() or c in "_.-" else "-" for c in path.stem)[:80])
    return content


def make_grid(content: dict[str, Any], origin: str) -> Grid:
    """Check the content of a grid.

    Args:
        content: keys and values as in YAML.
        origin: where it comes from, for the error.

    Raises:
        InputError: a key does not exist, or a value is not acceptable.
    """
    try:
        return Grid.model_validate(content)
    except SpecificationError as error:
        raise InputError(f"{origin}: {error}") from error
    except ValidationError as error:
        raise InputError(f"{origin}: {_first_error(error)}") from error


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InputError(f"{origin} must be a mapping of keys such as datasets and defenses, got {type(content).__name__}")
    return content


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: Any = Grid
        for part in first["loc"][:-1]:
            section = section.model_fields[part].annotation
        return unknown("key", where, [".".join([*map(str, first["loc"][:-1]), name]) for name in section.model_fields])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # from our own checks, which say what was given
        return message
    return f"{where}: {message[0].lower()}{message[1:]}, got {first['input']!r}"
