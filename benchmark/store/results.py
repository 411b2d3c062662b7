"""A run on disk: what it holds, and how it is read. Imports no torch.

What is where is in :mod:`benchmark.store.layout`. A cell is finished when it is trained, and all attacks of the grid and the
identifications are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmark.errors import InputError
from benchmark.specification import AttackSpec, CellSpec, TrialSpec, attacks_on
from benchmark.store.layout import (
    IDENTIFICATION,
    TRAINED,
    TRIALS_FOLDER,
    attack_folder,
    cell_folder,
    checkpoint_path,
    identification_folder,
    trial_folder,
)
from benchmark.store.result_files import (
    AttackedPart,
    Failure,
    IdentifiedPart,
    Manifest,
    TrainedPart,
    TrialPart,
    check,
    check_checkpoint,
    read_identifications,
    read_images,
    read_json,
    read_part,
    read_reconstructions,
    read_table,
    read_training,
)
from benchmark.store.tables import IDENTIFICATIONS, PERCEIVED, TRAINING, TRIALS

#: Version of the folder's layout and the tables' columns.
FORMAT = 6


@dataclass(frozen=True)
class Cell:
    """A finished cell as read from disk: its folder, what ``part.json`` says of its training, and what those of its attacks and
    identifications say by the names of their folders, in the order in which they are read."""

    folder: Path
    trained: dict[str, Any]
    attacks: dict[str, dict[str, Any]]
    identified: dict[str, dict[str, Any]]

    @property
    def inapplicable(self) -> list[dict[str, Any]]:
        """The attacks that do not apply: ``observed``, ``checkpoint_epoch``, ``attack``, ``knowledge`` (blind or informed) and
        ``reason``."""
        return _obstacles(self.attacks)

    @property
    def unidentified(self) -> list[dict[str, Any]]:
        """Where identification does not apply: ``observed``, ``checkpoint_epoch``, ``knowledge`` (blind or informed) and
        ``reason``."""
        return _obstacles(self.identified)

    def parts(self) -> list[dict[str, Any]]:
        """What each of its parts says of itself."""
        return [self.trained, *self.attacks.values(), *self.identified.values()]

    def tables(self) -> list[Path]:
        """The files of its tables: that of its training, those of its attacks, and those of its identifications."""
        return [self.folder / TRAINED / "training.parquet",
                *(self.folder / name / "reconstructions.parquet" for name in self.attacks),
                *(self.folder / name / "identifications.parquet" for name in self.identified)]

    def images(self, observed: str) -> dict[str, np.ndarray]:
        """uint8 images [victims, B, C, H, W] of a mode: ``original``, and per checkpoint, attack and what it knew
        :func:`images_key`; reconstructions are in the order of their originals. They are those of the first victims, where there
        are many."""
        found: dict[str, np.ndarray] = {}
        for name, info in self.attacks.items():
            if info["observed"] == observed:
                for image, pixels in read_images(self.folder / name / "images.npz").items():
                    found.setdefault(image, pixels)
        return found


@dataclass(frozen=True)
class MeasuredCell(Cell):
    """A finished cell with its tables, which have the columns of :data:`TRAINING`, :data:`PERCEIVED` and
    :data:`IDENTIFICATIONS`."""

    training: pa.Table
    reconstructions: pa.Table
    identifications: pa.Table


@dataclass(frozen=True)
class FoundRun:
    """A run as found on disk: its finished cells, the table of its finished trials, and by the keys of trials and cells that
    failed what is recorded of it."""

    folder: Path
    manifest: dict[str, Any]
    cells: Sequence[Cell]
    trials: pa.Table
    failures: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Run(FoundRun):
    """A run as read from disk, with the tables of its cells."""

    cells: Sequence[MeasuredCell]


def find_cell(run: Path, key: str, attacks: Iterable[str], identifications: Iterable[str] = ()) -> tuple[Cell | None, list[str]]:
    """A cell as it stands on disk, None before it is trained, and the keys of the attacks and identifications that are missing.

    Args:
        run: the folder of the run.
        key: of the cell.
        attacks: the keys of the attacks, in the order in which they are run.
        identifications: the keys of the identifications.

    Raises:
        InputError: what describes a part is damaged.
    """
    folder = cell_folder(run, key)
    attacked = {attack_folder(key): key for key in attacks}
    identified = {identification_folder(key): key for key in identifications}
    found = {name: read_part(folder / name, AttackedPart if name in attacked else IdentifiedPart)
             for name in (*attacked, *identified) if (folder / name).is_dir()}
    missing = [key for name, key in (attacked | identified).items() if name not in found]
    if not (folder / TRAINED).is_dir():
        return None, missing
    trained = read_part(folder / TRAINED, TrainedPart)
    parts = ({name: found[name] for name in names if name in found} for names in (attacked, identified))
    return Cell(folder, trained, *parts), missing


def find_trial(run: Path, key: str) -> dict[str, Any] | None:
    """What a trial says of itself; None before it is done.

    Raises:
        InputError: it is damaged.
    """
    folder = trial_folder(run, key)
    return read_part(folder, TrialPart) if folder.is_dir() else None


def damage(cell: Path) -> dict[str, str]:
    """What is wrong with the parts of a cell, or with a trial, on disk, by their names; nothing where all can be read whole."""
    found = {}
    if cell.parent.name == TRIALS_FOLDER and cell.is_dir():
        try:
            read_part(cell, TrialPart)
            read_table(cell / "trial.parquet", TRIALS)
        except InputError as error:
            found[""] = str(error)
        return found
    for part in sorted(path for path in cell.glob("*") if path.is_dir()):
        try:
            if part.name == TRAINED:
                for epoch in read_part(part, TrainedPart)["checkpoints"]:
                    check_checkpoint(checkpoint_path(cell, epoch))
                read_table(part / "training.parquet", TRAINING)
            elif part.name.startswith(IDENTIFICATION):
                read_part(part, IdentifiedPart)
                read_identifications(part / "identifications.parquet")
            else:
                read_part(part, AttackedPart)
                read_reconstructions(part / "reconstructions.parquet")
                read_images(part / "images.npz")
        except InputError as error:
            found[part.name] = str(error)
    return found


def read_manifest(run: Path) -> dict[str, Any]:
    """The content of a run's ``run.json``.

    Raises:
        InputError: the folder is no run, one of another format, or its description lacks what a run has.
    """
    path = run / "run.json"
    manifest = read_json(path, f"{run} is not a run folder: it has no run.json")
    if (found := manifest.get("format")) != FORMAT:
        replaced = (": an earlier version made it, which trained all defenses alike; run the grid again (leakboard run), its "
                    "models have to be trained again too" if found in range(1, FORMAT) else "")
        raise InputError(f"{path} has format {found!r}, expected {FORMAT}{replaced}")
    check(Manifest, manifest, path)
    return manifest


def read_run(run: Path) -> Run:
    """Read a run: the trials and cells of its grid that are finished, and the failures of those that are not.

    Raises:
        InputError: the folder is no run, or a file in it is damaged; the text names the file.
    """
    found = find_run(run)
    return Run(run, found.manifest, [with_tables(cell, CellSpec.model_validate(found.manifest["cells"][cell.folder.name]))
                                     for cell in found.cells], found.trials, found.failures)


def find_run(run: Path) -> FoundRun:
    """As :func:`read_run`, without the tables of cells, see :func:`with_tables`."""
    manifest = read_manifest(run)
    cells, trials, failures = [], [TRIALS.empty_table()], {}
    attacks = {key: AttackSpec.model_validate(spec) for key, spec in manifest["attacks"].items()}
    for key, content in manifest["cells"].items():
        cell, missing = find_cell(run, key, attacks_on(CellSpec.model_validate(content), attacks), manifest["identifications"])
        if cell is not None and not missing:
            _require_modes(cell, manifest)
            cells.append(cell)
    for key, spec in manifest["trials"].items():
        if find_trial(run, key) is not None:
            trials.append(read_trial(run, key, TrialSpec.model_validate(spec)))
    for key in (*manifest["trials"], *manifest["cells"]):
        if (path := run / "failures" / f"{key}.json").is_file():
            failures[key] = read_json(path, "no failure")
            check(Failure, failures[key], path)
    return FoundRun(run, manifest, cells, pa.concat_tables(trials), failures)


def read_trial(run: Path, key: str, spec: TrialSpec) -> pa.Table:
    """Read the table of a finished trial.

    Raises:
        InputError: it is damaged, or has rows of another trial.
    """
    folder = trial_folder(run, key)
    table = read_table(folder / "trial.parquet", TRIALS)
    _require_rows_of(spec, table, folder)
    return table


def with_tables(cell: Cell, spec: CellSpec) -> MeasuredCell:
    """Read the tables of a finished cell.

    Raises:
        InputError: one is damaged, or has rows of another cell.
    """
    read = {"training": (TRAINING, read_training), "reconstructions": (PERCEIVED, read_reconstructions),
            "identifications": (IDENTIFICATIONS, read_identifications)}
    parts = cell.attacks | cell.identified
    tables = {kind: [schema.empty_table()] for kind, (schema, _) in read.items()}
    for path in cell.tables():
        table = read[path.stem][1](path)
        part = parts.get(path.parent.name)
        _require_rows_of([*spec, *([] if part is None else [("observed", part["observed"])])], table, cell.folder)
        tables[path.stem].append(table)
    return MeasuredCell(**vars(cell), **{kind: pa.concat_tables(of_kind) for kind, of_kind in tables.items()})


def trained_by(cell: Cell) -> dict[str, Any]:
    """By which ``optimizer``, ``learning_rate`` and ``batch_size`` a cell was trained.

    Raises:
        InputError: its table is damaged.
    """
    table = read_training(cell.folder / TRAINED / "training.parquet")
    return {name: table[name][0].as_py() for name in ("optimizer", "learning_rate", "batch_size")}


def joined(cells: Iterable[MeasuredCell]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The trainings, the reconstructions and the identifications of some cells, each as one table."""
    cells = list(cells)

    def one(schema: pa.Schema, tables: list[pa.Table]) -> pd.DataFrame:
        # In one chunk: pandas keeps those of texts, and thousands make everything that follows slow.
        return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks().to_pandas()

    return (one(TRAINING, [cell.training for cell in cells]), one(PERCEIVED, [cell.reconstructions for cell in cells]),
            one(IDENTIFICATIONS, [cell.identifications for cell in cells]))


def _require_rows_of(spec: Iterable[tuple[str, Any]], table: pa.Table, folder: Path) -> None:
    for column, expected in spec:
        for other in set(table[column].unique().to_pylist()) - {expected}:
            raise InputError(f"{folder}: a table has rows of {column} {other!r}, expected {expected!r}; remove the folder and give "
                             "the command of the run again")


def _require_modes(cell: Cell, manifest: dict[str, Any]) -> None:
    modes = {attack_folder(key): spec["observed"] for key, spec in manifest["attacks"].items()}
    modes |= {identification_folder(key): mode for key, mode in manifest["identifications"].items()}
    for name, info in (cell.attacks | cell.identified).items():
        if info["observed"] != modes[name]:
            raise InputError(f"{cell.folder / name / 'part.json'}: observed is {info['observed']!r}, expected {modes[name]!r}; "
                             "remove the folder and give the command of the run again")


def _obstacles(parts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"observed": info["observed"], **obstacle} for info in parts.values() for obstacle in info["inapplicable"]]
