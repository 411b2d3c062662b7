"""The grid of an experiment: read from YAML, a preset or the command line, and checked."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

import attacks
import defenses
from benchmark import models, specification
from benchmark.errors import InputError, first_error
from benchmark.specification import Checkpoints, Count, Knowledge, Labels, PositiveInt, StepSize, Strict
from defenses.support.registry import unknown


class Training(specification.Training):
    """How the models are trained, by default."""

    epochs: Count = 10
    batch_size: PositiveInt = 64
    learning_rate: StepSize = 1e-3


class Evaluation(specification.Evaluation):
    """Which gradients are observed and attacked, by default."""

    checkpoints: Checkpoints = (0,)
    victims: PositiveInt = 16
    batch_size: PositiveInt = 1
    labels: Labels = "known"
    rounds: PositiveInt = 1
    knowledge: Knowledge = ("blind", "informed")
    candidates: Count = 1000


class Grid(Strict):
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
            if epoch > self.training.epochs:
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
    except ValidationError as error:
        raise InputError(f"{origin}: {_unknown_key(error) or first_error(error)}") from error


def recorded(content: dict[str, Any]) -> dict[str, Any]:
    """The grid of a run folder, with what those of earlier versions do not name: they had no identification."""
    evaluation = content.get("evaluation")
    return {**content, "evaluation": {"candidates": 0, **evaluation}} if isinstance(evaluation, dict) else content


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


def _unknown_key(error: ValidationError) -> str | None:
    """Where the first thing that is wrong is a key that does not exist: which one does."""
    first = error.errors()[0]
    if first["type"] != "extra_forbidden":
        return None
    *sections, key = map(str, first["loc"])
    known: Any = Grid
    for section in sections:
        known = known.model_fields[section].annotation
    return unknown("key", ".".join([*sections, key]), [".".join([*sections, name]) for name in known.model_fields])
