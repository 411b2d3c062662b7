"""The grid of an experiment: read from YAML, a preset or the command line, and checked."""

from __future__ import annotations

from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

import attacks
import defenses
from benchmark import models, specification, yaml_files
from benchmark.errors import InputError, first_error
from benchmark.specification import (
    AS_TRAINED,
    SINGLE,
    Checkpoints,
    Count,
    FamilySpec,
    Knowledge,
    Labels,
    Mode,
    Optimizer,
    PositiveInt,
    Share,
    StepSize,
    Strict,
)
from defenses.support.registry import unknown


class Training(specification.Training):
    """How the models are trained, by default."""

    epochs: Count = 10
    optimizer: Optimizer = "adam"
    learning_rate: StepSize = 1e-3
    batch_size: PositiveInt = 64
    precision: Literal["float32", "bfloat16"] = "float32"


class Tuning(specification.Tuning):
    """What is tried for every defense, by default."""

    step_sizes: Annotated[tuple[StepSize, ...], Field(min_length=1, strict=False)] = (1e-3, 3e-3, 1e-2, 3e-2)
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1, strict=False)] = (64, 256)
    optimizers: Annotated[tuple[Optimizer, ...], Field(min_length=1, strict=False)] = ("adam",)
    validation: Share = 0.1
    epochs: PositiveInt | None = None


def _mode(value: Any) -> Any:
    """A number of images as the text that it is elsewhere, and 1 as what it is called."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return SINGLE if text == "1" else text


_GivenMode = Annotated[Mode, BeforeValidator(_mode)]


class Evaluation(specification.Evaluation):
    """Which gradients are observed and attacked, by default."""

    checkpoints: Checkpoints = (0,)
    victims: PositiveInt = 16
    observed: Annotated[tuple[_GivenMode, ...], Field(min_length=1, strict=False)] = (AS_TRAINED, SINGLE)
    images: PositiveInt = 1024
    labels: Labels = "known"
    rounds: PositiveInt = 1
    knowledge: Knowledge = ("blind", "informed")
    candidates: Count = 1000
    public: PositiveInt = 2000


def tuning_meant(value: Any) -> Any:
    """None where a grid's ``tuning`` says that there is none, in whatever word; its defaults where it says no more than on."""
    word = value.casefold() if isinstance(value, str) else value
    return None if word in ("off", "no", "none", False) else {} if word in ("on", "yes", True) else value


class Grid(Strict):
    """Every combination of dataset, model, defense and seed is a cell."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=80)] = "custom"
    datasets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("mnist5k",)
    image_size: Annotated[int, Field(ge=7)] | None = None
    models: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("lenet",)
    defenses: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("none",)
    attacks: Annotated[tuple[str, ...], Field(strict=False, validate_default=True)] = ("inverting-gradients",)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1, strict=False)] = (0,)
    training: Training = Training()
    tuning: Tuning | None = None
    evaluation: Evaluation = Evaluation()

    @field_validator("defenses")
    @classmethod
    def _defenses(cls, specifications: tuple[str, ...]) -> tuple[str, ...]:
        families = {" ".join(s.split()): defenses.family(s) for s in specifications}
        return tuple(dict.fromkeys(family.name if family.parameter is None else s for s, family in families.items()))

    @field_validator("tuning", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return tuning_meant(value)

    @field_validator("evaluation", mode="before")
    @classmethod
    def _renamed(cls, value: Any) -> Any:
        if isinstance(value, dict) and "batch_size" in value:
            raise ValueError(f"batch_size of earlier versions is now observed: [{value['batch_size']}], or as-trained")
        return value

    @model_validator(mode="before")
    @classmethod
    def _clients(cls, value: Any) -> Any:
        """``client`` is written beside the training, and belongs to it; it has the batch size of both."""
        if not isinstance(value, dict) or not isinstance(client := value.get("client"), dict):
            return value
        size, found = client.get("batch_size"), {name: part for name, part in value.items() if name != "client"}
        for section, key in (("training", "batch_size"), ("tuning", "batch_sizes")):
            if isinstance(given := found.get(section), dict) and key in given:
                raise ValueError(f"{section}.{key} cannot be given beside client.batch_size, got {given[key]!r}")
        training = found.get("training", {})
        if isinstance(training, dict):
            found["training"] = {**training, "client": client, **({} if size is None else {"batch_size": size})}
        tuning = tuning_meant(found.get("tuning"))
        if isinstance(tuning, dict) and size is not None:
            found["tuning"] = {**tuning, "batch_sizes": [size]}
        return found

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
        guaranteed = [label for label in self.points if defenses.create(label).guarantees]
        if self.training.precision != "float32" and guaranteed:
            raise ValueError(f"training.precision must be 'float32' for {guaranteed[0]}, got {self.training.precision!r}: norms of "
                             "three digits do not clip to a bound, so that epsilon would not hold")
        return self

    @model_validator(mode="after")
    def _sums(self) -> Grid:
        sums = [label for label in self.points if defenses.create(label).summed > 1]
        if sums and self.training.client is None:
            raise ValueError(f"{sums[0]} sums over clients, and there are none: say what they have and do in client "
                             "(client: {images: 64, batch_size: 8})")
        return self

    @model_validator(mode="after")
    def _attacked(self) -> Grid:
        other = sorted(set(self.evaluation.attack_seeds or ()) - set(self.seeds))
        if other:
            raise ValueError(f"evaluation.attack_seeds must be among the seeds {list(self.seeds)}, got {other[0]}")
        return self

    @model_validator(mode="after")
    def _tuned(self) -> Grid:
        if self.tuning is None:
            return self
        if not self.training.epochs:
            raise ValueError("training.epochs must be at least 1 where trainings are tuned, got 0")
        if (self.tuning.epochs or 0) > self.training.epochs:
            raise ValueError(f"tuning.epochs must be at most training.epochs = {self.training.epochs}, got {self.tuning.epochs}")
        for name in ("optimizer", "learning_rate", "batch_size"):
            of_clients = name == "batch_size" and self.training.client is not None
            if not of_clients and (given := getattr(self.training, name)) != Training.model_fields[name].default:
                raise ValueError(f"training.{name} cannot be given where trainings are tuned, got {given!r}: name it in tuning, or "
                                 "give tuning: off")
        return self

    @property
    def families(self) -> tuple[FamilySpec, ...]:
        """The defenses, by what they differ in; one that is also a strength of a family is no family of its own."""
        found: dict[str, tuple[str | None, list[str]]] = {}
        for family in map(defenses.family, self.defenses):
            found.setdefault(family.name, (family.parameter, []))[1].extend(member.label for member in family.members)
        swept = {label for parameter, labels in found.values() if parameter is not None for label in labels}
        return tuple(FamilySpec(name=name, parameter=parameter, defenses=tuple(dict.fromkeys(labels)))
                     for name, (parameter, labels) in found.items() if parameter is not None or labels[0] not in swept)

    @property
    def points(self) -> tuple[str, ...]:
        """The specification of each defense at each strength, once."""
        return tuple(dict.fromkeys(label for family in self.families for label in family.defenses))

    @property
    def trial_epochs(self) -> int:
        """For how long trainings are tried."""
        return self.training.epochs if self.tuning is None or self.tuning.epochs is None else self.tuning.epochs

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
    return yaml_files.parse(_preset_text(name), f"preset {name}")


def about_preset(name: str) -> str:
    """What it is for: the comment that its file begins with."""
    lines = takewhile(lambda line: line.startswith("#"), _preset_text(name).splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def _preset_text(name: str) -> str:
    return resources.files("benchmark.presets").joinpath(f"{name}.yaml").read_text()


def load_file(path: Path) -> dict[str, Any]:
    """The content of a YAML file; the grid's name is that of the file unless it has its own.

    Raises:
        InputError: it cannot be read or is no mapping.
    """
    content = yaml_files.read(path, "grid")
    content.setdefault("name", yaml_files.name_of(path))
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
        told = _unknown_key(error) or first_error(error)
        raise InputError(f"{origin}: {told.replace('training.client', 'client')}") from error  # as it is written


def _unknown_key(error: ValidationError) -> str | None:
    """Where the first thing that is wrong is a key that does not exist: which one does."""
    first = error.errors()[0]
    if first["type"] != "extra_forbidden":
        return None
    *sections, key = map(str, first["loc"])
    known: Any = Grid
    for section in sections:
        known = known.model_fields[section].annotation
        known = next((kind for kind in get_args(known) if kind is not type(None)), known)  # of what may be None
    return unknown("key", ".".join([*sections, key]), [".".join([*sections, name]) for name in known.model_fields])
