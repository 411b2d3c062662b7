"""Reading the single files of a run folder: each is checked, and an error names the file. Imports no torch."""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from benchmark.errors import InputError, first_error
from benchmark.specification import AttackSpec, CellSpec, Count, FamilySpec, Mode, TrialSpec
from benchmark.store.tables import IDENTIFICATIONS, KNOWLEDGE, PERCEIVED, TRAINING

REPAIR = "the command of the run sets it aside and measures it again"

#: How a file of numpy's format 1.0 begins, in front of the length of its header in two bytes.
_NUMPY = b"\x93NUMPY\x01\x00"

#: Keys are parts of the names of folders.
_Key = Annotated[str, Field(pattern="^[0-9a-f]{20}$")]


class Part(BaseModel):
    """What is relied on of a JSON file; more may be there."""

    model_config = ConfigDict(strict=True)


class Manifest(Part):
    """``run.json``."""

    name: str
    grid: dict[str, Any]
    determinants: dict[str, Any]
    provenance: dict[str, Any]
    families: list[FamilySpec]
    trials: dict[_Key, TrialSpec]
    cells: dict[_Key, CellSpec]
    attacks: dict[_Key, AttackSpec]
    identifications: dict[_Key, Mode]
    undefended: str | None  # the grid's defense that is the plain client, where it has one


class _Obstacle(Part):
    checkpoint_epoch: Count
    knowledge: Literal["blind", "informed"]
    reason: str


class _AttackObstacle(_Obstacle):
    attack: str


class TrainedPart(CellSpec):
    """``part.json`` of the training of a cell."""

    checkpoints: list[Annotated[int, Field(ge=0, le=9999)]]
    seconds: float


class TrialPart(TrialSpec):
    """``part.json`` of a trial."""

    seconds: float


class AttackedPart(Part):
    """``part.json`` of an attack on a cell."""

    attack: str
    observed: Mode
    inapplicable: list[_AttackObstacle]
    seconds: float


class IdentifiedPart(Part):
    """``part.json`` of an identification in a cell."""

    observed: Mode
    candidates: Count
    inapplicable: list[_Obstacle]
    seconds: float


class Failure(Part):
    """The record of a trial or cell that failed."""

    error: str


def read_part(folder: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """What a part of a cell, by its folder, says of itself."""
    info = read_json(folder / "part.json", f"{folder} has no part.json; {REPAIR}")
    check(kind, info, folder / "part.json")
    return info


def check(kind: type[BaseModel], content: dict[str, Any], path: Path) -> None:
    """Raise InputError where the content of a file lacks what is relied on; the text names the place."""
    try:
        kind.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {first_error(error)}") from error


def read_json(path: Path, absent: str) -> dict[str, Any]:
    """A JSON object; ``absent`` is the text of the error where there is no file."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(absent) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object")
    return content


def read_table(path: Path, schema: pa.Schema, optional: Sequence[str] = ()) -> pa.Table:
    """A table that has the columns of the schema; of the ``optional`` ones, which are the last, nulls where they are not there.

    Raises:
        InputError: it is damaged, or has others.
    """
    try:
        # A run has thousands of these files, of some rows each: with threads they take longer.
        table = pq.ParquetFile(path).read(use_threads=False)
        table.validate(full=True)
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a readable table: {reason}; {REPAIR}") from error
    for name in optional:
        if name not in table.schema.names:
            table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
    if not table.schema.equals(schema):
        raise InputError(f"{path} has other columns than this version of leakboard writes; {REPAIR}")
    return table


def read_training(path: Path) -> pa.Table:
    """As :func:`read_table`, of :data:`benchmark.store.tables.TRAINING`."""
    return read_table(path, TRAINING, ["rounds"])


def read_reconstructions(path: Path) -> pa.Table:
    """As :func:`read_table`, of :data:`benchmark.store.tables.PERCEIVED`; what attackers know is one of those words."""
    return _of_known_attackers(read_table(path, PERCEIVED, ["lpips"]), path)


def read_identifications(path: Path) -> pa.Table:
    """As :func:`read_reconstructions`, of :data:`benchmark.store.tables.IDENTIFICATIONS`; ranks are ranks among the candidates."""
    table = _of_known_attackers(read_table(path, IDENTIFICATIONS), path)
    # In numpy: a run has thousands of these tables of some rows, and pandas takes ten times as long. What is missing is no number.
    better, tied, candidates, share, mu, seconds = (np.asarray(table[name], dtype=float) for name in (
        "better", "tied", "candidates", "label_share", "mu", "seconds"))
    right = (better >= 0) & (tied >= 0) & (better + tied < candidates) & (candidates >= 2) & (seconds >= 0) & (
        np.isnan(share) | ((share >= 0) & (share <= 1))) & (np.isnan(mu) | (mu > 0))
    if not right.all() or any(table[name].null_count for name in ("checkpoint_epoch", "method", "exact", "victim")):
        raise InputError(f"{path}: a row lacks something, or is no rank among its candidates; {REPAIR}")
    return table


def _of_known_attackers(table: pa.Table, path: Path) -> pa.Table:
    for unknown in set(table["knowledge"].unique().to_pylist()) - set(KNOWLEDGE):
        raise InputError(f"{path}: knowledge must be one of {', '.join(KNOWLEDGE)}, got {unknown!r}; {REPAIR}")
    return table


def read_images(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an images file.

    Raises:
        InputError: it is damaged.
    """
    try:
        # Not by numpy.load, which parses the header of every array anew and takes three times as long.
        with zipfile.ZipFile(path) as stored:
            return {name.removesuffix(".npy"): _array(stored.read(name)) for name in stored.namelist()}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, SyntaxError, TokenError, MemoryError,
            zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not a readable images file: {error}; {REPAIR}") from error


def _array(content: bytes) -> np.ndarray:
    """What is in a file of numpy's format 1.0, not to be written to; ValueError where it is none, or of objects."""
    if not content.startswith(_NUMPY):
        raise ValueError("it holds something else than arrays")
    end = len(_NUMPY) + 2 + int.from_bytes(content[len(_NUMPY) : len(_NUMPY) + 2], "little")
    shape, in_fortran, dtype = _header(content[:end])
    return np.frombuffer(content, dtype, math.prod(shape), end).reshape(shape, order="F" if in_fortran else "C")


@lru_cache(maxsize=1000)
def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    return np.lib.format.read_array_header_1_0(file)


def read_checkpoint(path: Path) -> bytes:
    """The weights in a file, as safetensors.

    Raises:
        InputError: they are not there, or damaged.
    """
    try:
        _open_checkpoint(path)
        return path.read_bytes()
    except (SafetensorError, OSError) as error:
        raise _no_checkpoint(path, error) from error


def check_checkpoint(path: Path) -> None:
    """As :func:`read_checkpoint`, without reading the weights, which may be large."""
    try:
        _open_checkpoint(path)
    except (SafetensorError, OSError) as error:
        raise _no_checkpoint(path, error) from error


def _open_checkpoint(path: Path) -> None:
    with safe_open(path, framework="np"):
        pass  # checks the header, and the length that it states


def _no_checkpoint(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a readable checkpoint: {error}; {REPAIR}")
