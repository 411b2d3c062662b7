"""Headline claims of papers: what they say, what is run to test it, and which figures decide. Imports no torch.

A claim is a file of its own in ``benchmark/presets/claims``, or of the user's; what its figures come to is in
:mod:`reports.claims`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from benchmark import yaml_files
from benchmark.errors import InputError, first_error
from benchmark.specification import Strict

Line = Annotated[str, Field(min_length=1, max_length=1000)]
Label = Annotated[str, Field(min_length=1, max_length=500)]
Limit = Annotated[float, Field(allow_inf_nan=False, strict=False)]

#: Where a claim of such a name would put its run, :mod:`benchmark.cli` puts the report of all.
_TAKEN = "report"


class Measure(Strict):
    """One figure of a claim's run.

    ``figure`` is the attack success rate (``asr``), top-1 identification among the candidates that boards compare by
    (``top-1``), the change in test accuracy against the undefended model (``change``), or how many times the mean squared error
    of what is rebuilt is that of the defense ``against`` (``mse-ratio``): each at the checkpoint where most leaks, of gradients
    of the one mode that the grid observes. ``of`` is a defense of the grid, and ``attacker`` what attackers know, who do as well
    what blind ones do where they are ``informed``.
    """

    figure: Literal["asr", "top-1", "change", "mse-ratio"]
    of: Label
    attacker: Literal["blind", "informed"] = "informed"
    against: Label | None = None

    @model_validator(mode="after")
    def _a_ratio(self) -> Measure:
        if (self.figure == "mse-ratio") is (self.against is None):
            raise ValueError(f"against must be given for mse-ratio and nothing else, got {self.against!r} for {self.figure}")
        return self


class Expectation(Measure):
    """A figure that must be ``at_most`` or ``at_least`` a limit, with its whole 95 % interval, for the claim to hold; the claim
    falls where the whole interval is beyond it."""

    at_most: Limit | None = None
    at_least: Limit | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Expectation:
        if (self.at_most is None) is (self.at_least is None):
            raise ValueError(f"either at_most or at_least must be given, got {self.at_most!r} and {self.at_least!r}")
        return self


class Claim(Strict):
    """A claim.

    ``headline`` is the claim in a few words; ``source`` is the paper, with the place in it; ``statement`` what it says, in our
    words, and ``reported`` its figure; ``verified`` whether both were read in the source itself. ``protocol`` is how the paper
    measured it, ``departures`` what is run differently here, and ``comparable`` whether a result here bears on the claim all the
    same. All of ``expects`` decide; ``beside`` are figures that are shown with them. ``grid`` is what is run.
    """

    name: Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=80)]
    headline: Annotated[str, Field(max_length=100)] = ""
    source: Line
    statement: Line
    reported: Line
    verified: bool
    protocol: Line
    departures: Line
    comparable: bool
    expects: Annotated[tuple[Expectation, ...], Field(min_length=1, strict=False)]
    beside: Annotated[tuple[Measure, ...], Field(strict=False)] = ()
    grid: dict[str, Any]

    @model_validator(mode="after")
    def _a_place(self) -> Claim:
        if self.name == _TAKEN:
            raise ValueError(f"name must be another than {_TAKEN!r}, which is where the report of all claims is")
        return self

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All its figures."""
        return (*self.expects, *self.beside)


def names() -> list[str]:
    """Of the claims that come with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml"))


def load(name: str) -> Claim:
    """The claim of one of these names.

    Raises:
        InputError: it is not acceptable.
    """
    origin = f"claim {name}"
    return make({"name": name, **yaml_files.parse((_folder() / f"{name}.yaml").read_text(encoding="utf-8"), origin)}, origin)


def load_file(path: Path) -> Claim:
    """The claim in a file; its name is that of the file unless it has its own.

    Raises:
        InputError: it cannot be read, or is not acceptable.
    """
    return make({"name": yaml_files.name_of(path), **yaml_files.read(path, "claim")}, str(path))


def make(content: dict[str, Any], origin: str) -> Claim:
    """Check the content of a claim, but for its grid; ``origin`` is named in the error.

    Raises:
        InputError: a key does not exist or is missing, or a value is not acceptable.
    """
    try:
        return Claim.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{origin}: {first_error(error)}") from error


def _folder() -> Any:
    return resources.files("benchmark.presets").joinpath("claims")
