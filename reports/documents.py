"""The leaderboard and an entry for one as JSON documents: their fields, and how they are read and written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import ConfigDict, Discriminator, Field, TypeAdapter, ValidationError

from benchmark.errors import InputError, first_error, shortened
from benchmark.specification import STRICT, Count
from benchmark.store.results import FORMAT
from reports import ranks
from reports.boards import Board
from reports.entries import Entry, Name, Text
from reports.families import ranked
from reports.statistics import Estimate

#: Bytes of the largest document that is read.
_LARGEST = 50_000_000
#: By how much means of many numbers may leave their interval or range.
_ROUNDING = 1e-9
#: The confidence at which a rate above its bound is a bug.
_SURELY = 0.999
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

    format: Literal["leakboard-leaderboard/2"]
    boards: list[Board]
    runs: list[RunRecord]


@dataclass(frozen=True)
class Submission:
    """One contributor's entry for a leaderboard of many."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    format: Literal["leakboard-entry/2"]
    name: Title
    paper: Url
    boards: Annotated[list[Board], Field(min_length=1)]
    runs: Annotated[list[RunRecord], Field(min_length=1)]


Document = Annotated[Union[Leaderboard, Submission], Discriminator("format")]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Document)
_FORMATS = ("leakboard-leaderboard/2", "leakboard-entry/2")
_EARLIER = ("leakboard-leaderboard/1", "leakboard-entry/1")


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
    for contradiction in _contradictions(document.boards):
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
            raise EarlierDocument(f"{origin} has format {tag}, whose worst case was chosen by looking at the originals; submit "
                                  f"again from a run of format {FORMAT}") from error
        raise InputError(f"{origin}: {first_error(error, _FORMATS)}") from error


def _contradictions(boards: list[Board]) -> Iterator[str]:
    """Numbers that cannot be together, with their field."""
    for b, board in enumerate(boards):
        seen: set[tuple[str, str]] = set()
        for e, (entry, expected) in enumerate(zip(board.entries, ranked(board.entries), strict=True)):
            where = f"boards.{b}.entries.{e}"
            if (entry.defense, entry.submission) in seen:
                yield f"{where}.defense: {shortened(entry.defense)} is there twice"
            seen.add((entry.defense, entry.submission))
            yield from _outside(f"{where}.accuracy", entry.accuracy, 0, 1)
            yield from _outside(f"{where}.change", entry.change, -1, 1)
            for a, result in enumerate(entry.attacks):
                yield from _outside(f"{where}.attacks.{a}.asr", result.asr, 0, 1)
                yield from _outside(f"{where}.attacks.{a}.ssim", result.ssim, -1, 1)
                yield from _outside(f"{where}.attacks.{a}.psnr", result.psnr, float("-inf"), float("inf"))
            yield from _worst_cases(where, entry)
            yield from _identifications(f"{where}.identifications", entry, board.protocol.evaluation.candidates)
            if entry != expected:
                yield (f"{where}: must be ranked by worst-case ASR, then accuracy, with the Pareto front marked; "
                       f"{shortened(entry.defense)} has rank {entry.rank} here, the numbers give {shortened(expected.defense)} "
                       f"with rank {expected.rank}")
        if board.undefended not in (None, *(entry.defense for entry in board.entries)):
            yield f"boards.{b}.undefended: {shortened(board.undefended)} is no entry"


def _worst_cases(where: str, entry: Entry) -> Iterator[str]:
    """Whatever was measured has a worst case, which is no more like the originals than what was chosen by looking at them."""
    for epoch in sorted({result.checkpoint_epoch for result in entry.attacks if result.asr is not None}):
        worst, bound = entry.worst_case_at(epoch), entry.oracle_bound_at(epoch)
        if worst is None or bound is None or worst.ssim is None or bound.ssim is None:
            yield f"{where}.attacks: of checkpoint {epoch} the worst case of informed attackers or the oracle bound is missing"
        elif worst.ssim.mean > bound.ssim.mean + _ROUNDING:
            yield (f"{where}.attacks: of checkpoint {epoch} the worst case has a mean SSIM of {worst.ssim.mean}, above that of the "
                   f"oracle bound, {bound.ssim.mean}")


def _identifications(where: str, entry: Entry, asked: int) -> Iterator[str]:
    """Ranks tell no more than there is to tell, rates fall as the pool grows, and none is above what a guarantee allows."""
    places = [(result.checkpoint_epoch, result.knowledge) for result in entry.identifications]
    if len(set(places)) < len(places):
        yield f"{where}: a checkpoint is there twice with the same knowledge"
    for i, result in enumerate(entry.identifications):
        place, size, rate = f"{where}.{i}", result.candidates, result.at_all.mean
        for p, point in enumerate(result.top1):
            yield from _outside(f"{place}.top1.{p}.rate", point.rate, 0, 1)
        yield from _outside(f"{place}.label_share", result.label_share, 0, 1)
        if size > asked:
            yield f"{place}.candidates: must be at most those of the protocol, {asked}, got {size}"
        if result.top1[-1].size != size or any(after.size <= before.size for before, after in pairwise(result.top1)):
            yield f"{place}.top1: the sizes of the pool must rise up to that of all candidates, {size}"
        if any(after.rate.mean > before.rate.mean + _ROUNDING for before, after in pairwise(result.top1)):
            yield f"{place}.top1: the rate must not rise with the size of the pool"
        hits = min(max(math.floor(result.victims * rate + 1e-6), 0), result.victims)
        least = ranks.lower_limit(hits, result.victims)
        for name, value, most in (
                ("median_rank", result.median_rank, float(size)), ("bits", result.bits, math.log2(size)),
                ("bits_low", result.bits_low, result.bits), ("mu_low", result.mu_low, ranks.mu_limit(least, size)),
                ("epsilon_low", result.epsilon_low, ranks.epsilon_limit(least, size, 0.0))):
            if value > most + _ROUNDING:
                yield f"{place}.{name}: the other numbers allow at most {most:.6g}, got {value:.6g}"
        if result.median_rank < 1:
            yield f"{place}.median_rank: must be at least 1, got {result.median_rank:.6g}"
        bound = None if result.mu is None else ranks.top_one_bound(result.mu, size)
        if (bound is None) is not (result.bound is None) or abs((bound or 0.0) - (result.bound or 0.0)) > _ROUNDING:
            yield f"{place}.bound: mu is {result.mu}, which gives {bound}, got {result.bound}"
        if bound is not None and (sure := ranks.lower_limit(hits, result.victims, _SURELY)) > bound:
            yield (f"{place}.top1: {rate:.4g} of {result.victims} victims identified among {size} candidates, at least {sure:.4g} "
                   f"at {100 * _SURELY:g} %, is above the bound {bound:.4g} that holds for every attacker: a bug in the defense, "
                   "its guarantee or the measurement")


def _outside(where: str, estimate: Estimate | None, low: float, high: float) -> Iterator[str]:
    if estimate is None:
        return
    bounds = [bound for bound in (estimate.low, estimate.mean, estimate.high) if bound is not None]
    if any(after < before - _ROUNDING for before, after in pairwise(bounds)):
        yield f"{where}: the mean must lie within its interval, got {estimate.mean} and [{estimate.low}, {estimate.high}]"
    if bounds[0] < low - _ROUNDING or bounds[-1] > high + _ROUNDING:
        yield f"{where}: must lie within [{low}, {high}], got {estimate.mean}, [{estimate.low}, {estimate.high}]"
