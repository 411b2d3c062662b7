"""The result tables of a run on disk: their columns, and how they are written and read. Imports no torch.

A run folder holds

- ``run.json``: the grid, what else determines the results, and where and how they were made;
- ``cells/KEY/``: one folder per finished cell (dataset, model, defense, seed), put there in one atomic step: ``cell.json``,
  ``training.parquet``, ``reconstructions.parquet``, ``images.npz`` and ``checkpoint-EPOCH.safetensors``;
- ``failures/KEY.json``: the error of a cell that failed.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from benchmark.errors import InputError

#: A reconstruction of at least this SSIM counts as a success of the attack (Scheliga et al., WACV 2022).
SUCCESS_SSIM = 0.6

#: The tier of what only the owner of the data can choose: of each victim, the best of all candidates. It is no attack.
ORACLE = "oracle bound"

_REPAIR = "the command of the run sets its cell aside and measures it again"

#: Version of the folder's layout and the tables' columns.
FORMAT = 3

_CELL = [
    ("dataset", pa.string()),  # as it was asked for
    ("model", pa.string()),
    ("defense", pa.string()),  # the specification, such as noise(std=0.01)
    ("defense_params", pa.string()),  # all parameters, as JSON
    ("seed", pa.int64()),
]

#: One row per cell and epoch; epoch 0 is the untrained model.
TRAINING = pa.schema([
    *_CELL,
    ("epoch", pa.int32()),
    ("train_loss", pa.float64()),  # mean over the epoch's batches, regularizer included; null for epoch 0
    ("test_accuracy", pa.float64()),  # share in [0, 1]
    ("epsilon", pa.float64()),  # spent so far; null without a guarantee
    ("delta", pa.float64()),  # that epsilon holds at; null without a guarantee
    ("seconds", pa.float64()),  # training of this epoch, without the test
    ("step_memory", pa.int64()),  # most bytes that tensors held in a training step, null where it was not measured
])

#: One row per original image behind an observed gradient, attack and checkpoint.
RECONSTRUCTIONS = pa.schema([
    *_CELL,
    ("checkpoint_epoch", pa.int32()),  # epochs of training before the observation; 0 is the untrained model
    ("attack", pa.string()),
    ("attack_params", pa.string()),  # all parameters, as JSON
    ("tier", pa.string()),  # static, adaptive, worst case, or oracle bound
    ("won_by", pa.string()),  # of an attack that chooses among others, the one it chose for this victim; otherwise null
    ("victim", pa.int32()),  # number of the observed gradient
    ("image", pa.int32()),  # number of the original behind that gradient
    ("mse", pa.float64()),  # of pixels in [0, 1]
    ("psnr", pa.float64()),  # in dB
    ("ssim", pa.float64()),  # in [-1, 1]
    ("label_correct", pa.bool_()),  # of an inferred label; null where the attacker was given it
    ("cost", pa.float64()),  # the attacker's own
    ("seconds", pa.float64()),  # of the attack, per victim
])


class _Part(BaseModel):
    """What is relied on of a JSON file; more may be there."""

    model_config = ConfigDict(strict=True)


class _Spec(_Part):
    dataset: str
    model: str
    defense: str
    seed: int


class _Manifest(_Part):
    name: str
    grid: dict[str, Any]
    determinants: dict[str, Any]
    provenance: dict[str, Any]
    # Keys are names of folders.
    cells: dict[Annotated[str, Field(pattern="^[0-9a-f]{20}$")], _Spec]


class _Obstacle(_Part):
    checkpoint_epoch: Annotated[int, Field(ge=0)]
    attack: str
    reason: str


class _Info(_Spec):
    checkpoints: list[Annotated[int, Field(ge=0, le=9999)]] = []
    inapplicable: list[_Obstacle] = []
    seconds: float | None = None


class _Failure(_Spec):
    error: str


@dataclass(frozen=True)
class Cell:
    """A finished cell as read from disk: where it is, and the content of its ``cell.json``."""

    folder: Path
    info: dict[str, Any]

    def images(self) -> dict[str, np.ndarray]:
        """uint8 images [victims, B, C, H, W]: ``original``, and per attack and checkpoint :func:`images_key`; reconstructions
        are in the order of their originals."""
        path = self.folder / "images.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, SyntaxError, MemoryError,
                zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is not a readable images file: {error}") from error


@dataclass(frozen=True)
class Run:
    """A run as read from disk; the tables have the columns of :data:`TRAINING` and :data:`RECONSTRUCTIONS`."""

    folder: Path
    manifest: dict[str, Any]
    cells: list[Cell]
    failures: list[dict[str, Any]]
    training: pd.DataFrame
    reconstructions: pd.DataFrame


def images_key(checkpoint_epoch: int, attack: str) -> str:
    """Name of an attack's reconstructions among the images of a cell."""
    return f"epoch {checkpoint_epoch} {attack}".replace("/", " ")


def is_done(run: Path, key: str) -> bool:
    """Whether the cell is finished; it is whole when its folder is there."""
    return (run / "cells" / key / "cell.json").is_file()


def read_info(run: Path, key: str) -> dict[str, Any]:
    """The content of a cell's ``cell.json``."""
    folder = run / "cells" / key
    info = _read_json(folder / "cell.json", f"{folder} has no cell.json")
    _check(_Info, info, folder / "cell.json")
    return info


def damage(run: Path, key: str) -> str | None:
    """What is wrong with a finished cell on disk; None where it can be read whole."""
    folder = run / "cells" / key
    try:
        info = read_info(run, key)
        _read_table(folder / "training.parquet", TRAINING)
        _read_table(folder / "reconstructions.parquet", RECONSTRUCTIONS)
        Cell(folder, info).images()
        for epoch in info.get("checkpoints", []):
            path = checkpoint_path(folder, epoch)
            try:
                with safe_open(path, framework="np"):
                    pass  # checks the header, and the length that it states
            except (SafetensorError, OSError) as error:
                return f"{path} is not a readable checkpoint: {error}"
    except InputError as error:
        return str(error)
    return None


def set_aside(run: Path, key: str) -> Path:
    """Move a damaged cell out of the way, so that it is measured again; nothing is deleted."""
    place = run / "damaged" / key
    number = 1
    while place.exists():
        number += 1
        place = run / "damaged" / f"{key}-{number}"
    place.parent.mkdir(exist_ok=True)
    (run / "cells" / key).replace(place)
    return place


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Where a cell keeps the weights after an epoch."""
    return folder / f"checkpoint-{epoch:04d}.safetensors"


def write_cell(run: Path, key: str, *, info: dict[str, Any], training: list[dict[str, Any]],
               reconstructions: list[dict[str, Any]], images: dict[str, np.ndarray], checkpoints: dict[int, bytes]) -> None:
    """Write a finished cell; it appears whole or not at all. The record of an earlier failure goes."""
    folder = run / "cells" / key
    draft = run / "cells" / f".{key}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write_table(draft / "training.parquet", training, TRAINING)
        write_table(draft / "reconstructions.parquet", reconstructions, RECONSTRUCTIONS)
        np.savez_compressed(draft / "images.npz", **images)  # type: ignore[arg-type]
        for epoch, content in checkpoints.items():
            checkpoint_path(draft, epoch).write_bytes(content)
        (draft / "cell.json").write_text(json.dumps(info, indent=1))
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    (run / "failures" / f"{key}.json").unlink(missing_ok=True)


def write_failure(run: Path, key: str, failure: dict[str, Any]) -> None:
    """Record the error of a cell."""
    (run / "failures").mkdir(parents=True, exist_ok=True)
    write_atomically(run / "failures" / f"{key}.json", json.dumps(failure, indent=1))


def write_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as parquet; every row has exactly the columns of the schema."""
    for row in rows:
        if row.keys() != set(schema.names):
            raise ValueError(f"a row of {path.name} has columns {sorted(row)}, expected {sorted(schema.names)}")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_manifest(run: Path) -> dict[str, Any]:
    """The content of a run's ``run.json``.

    Raises:
        InputError: the folder is no run, one of another format, or its description lacks what a run has.
    """
    path = run / "run.json"
    manifest = _read_json(path, f"{run} is not a run folder: it has no run.json")
    if manifest.get("format") != FORMAT:
        raise InputError(f"{path} has format {manifest.get('format')!r}, expected {FORMAT}")
    _check(_Manifest, manifest, path)
    return manifest


def read_run(run: Path) -> Run:
    """Read a run: the cells of its grid that are finished, and the failures of those that are not.

    Raises:
        InputError: the folder is no run, or a file in it is damaged; the text names the file.
    """
    manifest = read_manifest(run)
    cells, failures, training, reconstructions = [], [], [], []
    for key in manifest["cells"]:
        folder = run / "cells" / key
        if is_done(run, key):
            cells.append(Cell(folder, read_info(run, key)))
            training.append(_read_table(folder / "training.parquet", TRAINING))
            reconstructions.append(_read_table(folder / "reconstructions.parquet", RECONSTRUCTIONS))
        elif (run / "failures" / f"{key}.json").is_file():
            failure = _read_json(run / "failures" / f"{key}.json", "no failure")
            _check(_Failure, failure, run / "failures" / f"{key}.json")
            failures.append(failure)
    return Run(run, manifest, cells, failures, _join(training, TRAINING), _join(reconstructions, RECONSTRUCTIONS))


def _join(tables: list[pa.Table], schema: pa.Schema) -> pd.DataFrame:
    return (pa.concat_tables(tables) if tables else schema.empty_table()).to_pandas()


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
        table.validate(full=True)
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a readable table: {reason}; {_REPAIR}") from error
    if not table.schema.equals(schema):
        raise InputError(f"{path} has other columns than this version of leakboard writes; {_REPAIR}")
    return table


def _check(kind: type[_Part], content: dict[str, Any], path: Path) -> None:
    try:
        kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where, given = ".".join(map(str, first["loc"])), repr(first["input"])
        raise InputError(f"{path}: {where}: {first['msg']}, got {given[:80]}") from error


def _read_json(path: Path, absent: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(absent) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object")
    return content
