"""The leaderboard and an entry for one as JSON documents: their fields, and how they are read and written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import ConfigDict, Discriminator, Field, TypeAdapter, ValidationError

from benchmark.errors import InputError, first_error
from benchmark.specification import STRICT, Count
from benchmark.store.results import FORMAT
from reports.boards import Board
from reports.contradictions import contradictions
from reports.entries import Name, Text

#: Bytes of the largest document that is read.
_LARGEST = 50_000_000
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Url = Annotated[str, Field(pattern=r"^(https?://[^\s<>\"']+)?$", max_length=500)]
#: Visible characters without a control character among them.
Title = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$", max_length=200)]


@dataclass(frozen=True)
class RunRecord:
    """Where and how the numbers were made: the run's whole configuration, versions, machine, and the SHA-256 of its raw tables."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Name
    grid: dict[str, Any]
    tables_sha256: Hash
    leakboard: Text = ""
    device: Text = ""
    started: Text = ""
    command: Text = ""
    python: Text = ""
    packages: dict[str, Text] = field(default_factory=dict)
    platform: Text = ""
    hardware: Text = ""
    threads: Count | None = None
    revision: Text | None = None
    plugins: dict[str, Hash] = field(default_factory=dict)


@dataclass(frozen=True)
class Leaderboard:
    """A whole leaderboard, for machines."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    format: Literal["leakboard-leaderboard/4"]
    boards: list[Board]
    runs: list[RunRecord]


@dataclass(frozen=True)
class Submission:
    """One contributor's entry for a leaderboard of many."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    format: Literal["leakboard-entry/4"]
    name: Title
    paper: Url
    boards: Annotated[list[Board], Field(min_length=1)]
    runs: Annotated[list[RunRecord], Field(min_length=1)]


Document = Annotated[Union[Leaderboard, Submission], Discriminator("format")]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Document)
_FORMATS = ("leakboard-leaderboard/4", "leakboard-entry/4")
_TRAINED_ALIKE = f"which trained all defenses alike; submit again from a run of format {FORMAT}"
#: What is to be done about a document of an earlier format.
_EARLIER = {f"leakboard-{kind}/{version}": remedy for kind in ("leaderboard", "entry") for version, remedy in (
    (1, _TRAINED_ALIKE), (2, _TRAINED_ALIKE),
    (3, "whose worst case was another: the likeliest reconstruction of each victim; submit its run again"))}


class EarlierDocument(InputError):
    """A document of a format that is no longer read."""


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schemas of the documents by file name."""
    return {name: {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(kind).json_schema(mode="serialization")}
            for name, kind in (("leaderboard.schema.json", Leaderboard), ("entry.schema.json", Submission))}


def to_json(document: Leaderboard | Submission) -> str:
    """A document as JSON."""
    return _ADAPTER.dump_json(document, indent=1).decode() + "\n"


def read_document(path: Path) -> Leaderboard | Submission:
    """Read and check a document.

    Raises:
        InputError: it cannot be read, a field is missing, unknown or out of its range, or numbers contradict each other; the text
            names the field.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} has more than {_LARGEST:,} bytes; a leaderboard or entry has less")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    document = parse(content, str(path))
    for contradiction in contradictions(document.boards):
        raise InputError(f"{path}: {contradiction}")
    return document


def parse(content: bytes | str, origin: str, adapter: TypeAdapter[Any] = _ADAPTER) -> Any:
    """JSON as the checked object of an adapter's type; ``origin`` is named in the error.

    Raises:
        InputError: it is no JSON, or a field is not acceptable; an :class:`EarlierDocument` where its format is an earlier one.
    """
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        if (tag := error.errors()[0].get("ctx", {}).get("tag")) in _EARLIER:
            raise EarlierDocument(f"{origin} has format {tag}, of an earlier version, {_EARLIER[tag]}") from error
        raise InputError(f"{origin}: {first_error(error, _FORMATS)}") from error
