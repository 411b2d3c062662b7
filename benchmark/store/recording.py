"""Writing what was measured into a run folder: each part of a cell appears whole or not at all. Imports no torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.store.layout import (
    CELLS_FOLDER,
    TRAINED,
    TRIALS_FOLDER,
    attack_folder,
    cell_folder,
    checkpoint_path,
    identification_folder,
    trial_folder,
)
from benchmark.store.tables import IDENTIFICATIONS, PERCEIVED, RECONSTRUCTIONS, TRAINING, TRIALS


def write_trial(run: Path, key: str, *, info: dict[str, Any], trial: list[dict[str, Any]]) -> None:
    """Write what a trial came to."""
    with _draft(run / TRIALS_FOLDER, key) as draft:
        write_table(draft / "trial.parquet", trial, TRIALS)
        (draft / "part.json").write_text(json.dumps(info, indent=1))
        draft.replace(trial_folder(run, key))


def write_trained(run: Path, key: str, *, info: dict[str, Any], training: list[dict[str, Any]], weights: dict[int, bytes]) -> None:
    """Write the training of a cell: what its ``part.json`` says, the rows of its table, and the weights by epoch as safetensors."""
    with _draft_of_cell(run, key) as draft:
        (draft / TRAINED).mkdir()
        write_table(draft / TRAINED / "training.parquet", training, TRAINING)
        for epoch, content in weights.items():
            checkpoint_path(draft, epoch).write_bytes(content)
        (draft / TRAINED / "part.json").write_text(json.dumps(info, indent=1))
        (draft / TRAINED).replace(cell_folder(run, key) / TRAINED)


def write_attacked(run: Path, key: str, attack: str, *, info: dict[str, Any], reconstructions: list[dict[str, Any]],
                   images: dict[str, np.ndarray]) -> None:
    """Write what an attack, by its key, rebuilt in a cell."""
    with _draft_of_cell(run, key) as draft:
        write_table(draft / "reconstructions.parquet", reconstructions,
                    PERCEIVED if any("lpips" in row for row in reconstructions) else RECONSTRUCTIONS)
        np.savez_compressed(draft / "images.npz", **images)  # type: ignore[arg-type]
        (draft / "part.json").write_text(json.dumps(info, indent=1))
        draft.replace(cell_folder(run, key) / attack_folder(attack))


def write_identified(run: Path, key: str, identification: str, *, info: dict[str, Any], identifications: list[dict[str, Any]]
                     ) -> None:
    """Write the identification, by its key, in a cell."""
    with _draft_of_cell(run, key) as draft:
        write_table(draft / "identifications.parquet", identifications, IDENTIFICATIONS)
        (draft / "part.json").write_text(json.dumps(info, indent=1))
        draft.replace(cell_folder(run, key) / identification_folder(identification))


def copy_trial(source: Path, key: str, run: Path) -> None:
    """Take a trial from the folder of another run."""
    with _draft(run / TRIALS_FOLDER, key) as draft:
        shutil.copytree(trial_folder(source, key), draft, dirs_exist_ok=True)
        draft.replace(trial_folder(run, key))


def copy_part(source: Path, key: str, part: str, run: Path) -> None:
    """Take the training of a cell, or what was measured on it, from the folder of another run."""
    with _draft_of_cell(run, key) as draft:
        shutil.copytree(cell_folder(source, key) / part, draft / part)
        (draft / part).replace(cell_folder(run, key) / part)


def set_aside(run: Path, folder: Path, part: str) -> Path:
    """Move a damaged part of a cell, or a trial, whose folder this is, out of the way, so that it is measured again; nothing is
    deleted."""
    name = f"{folder.name}-{part}".rstrip("-")
    place = run / "damaged" / name
    number = 1
    while place.exists():
        number += 1
        place = run / "damaged" / f"{name}-{number}"
    place.parent.mkdir(exist_ok=True)
    (folder / part).replace(place)
    return place


def drafts(run: Path) -> list[Path]:
    """What a run that was killed while it wrote has left."""
    return [*run.glob(".run.json.*"), *(run / TRIALS_FOLDER).glob(".*"), *(run / CELLS_FOLDER).glob(".*")]


def remove_drafts(run: Path) -> None:
    """Remove them."""
    for draft in drafts(run):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def write_failure(run: Path, key: str, failure: dict[str, Any]) -> None:
    """Record the error of a cell."""
    (run / "failures").mkdir(parents=True, exist_ok=True)
    write_atomically(run / "failures" / f"{key}.json", json.dumps(failure, indent=1))


def remove_failure(run: Path, key: str) -> None:
    """Forget an earlier failure of a cell that is finished now."""
    (run / "failures" / f"{key}.json").unlink(missing_ok=True)


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


@contextmanager
def _draft_of_cell(run: Path, key: str) -> Iterator[Path]:
    """An empty folder beside the cell's, which is made too; gone in the end."""
    with _draft(run / CELLS_FOLDER, key) as draft:
        cell_folder(run, key).mkdir(exist_ok=True)
        yield draft


@contextmanager
def _draft(folder: Path, key: str) -> Iterator[Path]:
    """An empty folder within another one; gone in the end."""
    draft = folder / f".{key}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
