"""The result tables of a run on disk: their columns, and how they are read. Imports no torch.

A run folder holds

- ``run.json``: the grid, its cells and attacks by their keys, the key of the identification (null where it is off), which of the
  defenses is the plain client, what else determines the results, and where and how they were made;
- ``cells/KEY/``: the parts of each cell (dataset, model, defense, seed), put there in one atomic step each: ``trained/`` with
  ``part.json``, ``training.parquet`` and ``checkpoint-EPOCH.safetensors``, for each attack ``attack-KEY/`` with ``part.json``,
  ``reconstructions.parquet`` and ``images.npz``, and where it is measured ``identification-KEY/`` with ``part.json`` and
  ``identifications.parquet`` (written by :mod:`benchmark.store.recording`);
- ``failures/KEY.json``: the error of a cell that failed.

A cell is finished when it is trained, and all attacks of the grid and the identification are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmark.errors import InputError
from benchmark.specification import CellSpec
from benchmark.store.result_files import (
    REPAIR,
    AttackedPart,
    Failure,
    IdentifiedPart,
    Manifest,
    TrainedPart,
    check,
    read_checkpoint,
    read_images,
    read_json,
    read_part,
    read_table,
)

#: A reconstruction of at least this SSIM counts as a success of the attack (Scheliga et al., WACV 2022).
SUCCESS_SSIM = 0.6

#: What an attacker knows. Blind: the model and the cross-entropy, and nothing of the defense. Informed: also what the defense
#: discloses. Both: either would compute the same, so that it was done once and counts for both.
KNOWLEDGE = ("blind", "informed", "both")

#: How the names of the folders of attacks and of the identification begin.
_ATTACK, _IDENTIFICATION = "attack-", "identification-"

#: The folder of a cell's training within that of the cell.
TRAINED = "trained"

#: Version of the folder's layout and the tables' columns.
FORMAT = 5

_CELL = [
    ("dataset", pa.string()),  # its specification; of a path the last part
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

#: One row per original image behind an observed gradient, attack with what it knew, and checkpoint.
RECONSTRUCTIONS = pa.schema([
    *_CELL,
    ("checkpoint_epoch", pa.int32()),  # epochs of training before the observation; 0 is the untrained model
    ("attack", pa.string()),
    ("attack_params", pa.string()),  # all parameters, as JSON
    ("knowledge", pa.string()),  # one of KNOWLEDGE
    ("victim", pa.int32()),  # number of the observed gradient
    ("image", pa.int32()),  # number of the original behind that gradient
    ("mse", pa.float64()),  # of pixels in [0, 1]
    ("psnr", pa.float64()),  # in dB
    ("ssim", pa.float64()),  # in [-1, 1]
    ("label_correct", pa.bool_()),  # of an inferred label; null where the attacker was given it
    ("cost", pa.float64()),  # the attacker's own
    # How unlikely the reconstruction is by what an informed attacker observes: one number for all images of a victim, on one scale
    # for all attacks on it. Lower is likelier; may be infinite.
    ("score", pa.float64()),
    ("blind_score", pa.float64()),  # the same by what a blind attacker observes; null where the attacker was informed
    ("seconds", pa.float64()),  # of the attack, per victim
])

#: One row per observed gradient, checkpoint, and what the attacker knew, who looked for the first image behind that gradient among
#: candidates. Candidates that were scored alike share a rank: the true one's is any of better + 1 to better + tied + 1.
IDENTIFICATIONS = pa.schema([
    *_CELL,
    ("checkpoint_epoch", pa.int32()),
    ("knowledge", pa.string()),  # one of KNOWLEDGE
    ("method", pa.string()),  # by what candidates were scored, such as cosine or likelihood
    ("exact", pa.bool_()),  # whether the likelihood is exact, so that no attacker does better against this pool
    ("victim", pa.int32()),  # number of the observed gradient
    ("candidates", pa.int32()),  # M, the true one included
    ("better", pa.int32()),  # candidates that were scored strictly likelier than the true one
    ("tied", pa.int32()),  # others with its very score
    # Of the labels behind the gradient the share that is inferred right, as often as each comes up, whether or not labels were
    # given; null where they cannot be inferred.
    ("label_share", pa.float64()),
    ("mu", pa.float64()),  # what was observed is mu-GDP for the presence of one image; null without such a guarantee
    ("seconds", pa.float64()),  # of the identification, per victim
])


@dataclass(frozen=True)
class Cell:
    """A finished cell as read from disk: its folder, what ``part.json`` says of its training, and what those of its attacks, and of
    its identification where it was measured, say by the names of their folders, in the order in which they are read."""

    folder: Path
    trained: dict[str, Any]
    attacks: dict[str, dict[str, Any]]
    identified: dict[str, dict[str, Any]]

    @property
    def inapplicable(self) -> list[dict[str, Any]]:
        """The attacks that do not apply: ``checkpoint_epoch``, ``attack``, ``knowledge`` (blind or informed) and ``reason``."""
        return [obstacle for info in self.attacks.values() for obstacle in info["inapplicable"]]

    @property
    def unidentified(self) -> list[dict[str, Any]]:
        """Where identification does not apply: ``checkpoint_epoch``, ``knowledge`` (blind or informed) and ``reason``."""
        return [obstacle for info in self.identified.values() for obstacle in info["inapplicable"]]

    def parts(self) -> list[dict[str, Any]]:
        """What each of its parts says of itself."""
        return [self.trained, *self.attacks.values(), *self.identified.values()]

    def tables(self) -> list[Path]:
        """The files of its tables: that of its training, those of its attacks, and that of its identification."""
        return [self.folder / TRAINED / "training.parquet",
                *(self.folder / name / "reconstructions.parquet" for name in self.attacks),
                *(self.folder / name / "identifications.parquet" for name in self.identified)]

    def images(self) -> dict[str, np.ndarray]:
        """uint8 images [victims, B, C, H, W]: ``original``, and per checkpoint, attack and what it knew :func:`images_key`;
        reconstructions are in the order of their originals."""
        found: dict[str, np.ndarray] = {}
        for name in self.attacks:
            for image, pixels in read_images(self.folder / name / "images.npz").items():
                found.setdefault(image, pixels)
        return found


@dataclass(frozen=True)
class MeasuredCell(Cell):
    """A finished cell with its tables, which have the columns of :data:`TRAINING`, :data:`RECONSTRUCTIONS` and
    :data:`IDENTIFICATIONS`."""

    training: pa.Table
    reconstructions: pa.Table
    identifications: pa.Table


@dataclass(frozen=True)
class Run:
    """A run as read from disk: its finished cells, and by the keys of those that failed what is recorded of it."""

    folder: Path
    manifest: dict[str, Any]
    cells: list[MeasuredCell]
    failures: dict[str, dict[str, Any]]


def images_key(checkpoint_epoch: int, attack: str, knowledge: str) -> str:
    """Name of an attack's reconstructions among the images of a cell; ``knowledge`` is one of :data:`KNOWLEDGE`."""
    return f"epoch {checkpoint_epoch} {knowledge} {attack}".replace("/", " ")


def cell_folder(run: Path, key: str) -> Path:
    """Where a run keeps the parts of a cell."""
    return run / "cells" / key


def attack_folder(key: str) -> str:
    """The name of an attack's folder within that of a cell."""
    return f"{_ATTACK}{key}"


def identification_folder(key: str) -> str:
    """The name of the folder of an identification within that of a cell."""
    return f"{_IDENTIFICATION}{key}"


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Where the training of a cell, whose folder this is, keeps the weights after an epoch."""
    return folder / TRAINED / f"checkpoint-{epoch:04d}.safetensors"


def find_cell(run: Path, key: str, attacks: Iterable[str], identification: str | None = None) -> tuple[Cell | None, list[str]]:
    """A cell as it stands on disk, None before it is trained, and the keys of the attacks and the identification that are missing.

    Args:
        run: the folder of the run.
        key: of the cell.
        attacks: the keys of the attacks, in the order in which they are run.
        identification: the key of the identification; None where it is not measured.

    Raises:
        InputError: what describes a part is damaged.
    """
    folder = cell_folder(run, key)
    found = {attack: read_part(folder / attack_folder(attack), AttackedPart) for attack in attacks
             if (folder / attack_folder(attack)).is_dir()}
    missing = [attack for attack in attacks if attack not in found]
    identified = {}
    if identification is not None:
        name = identification_folder(identification)
        if (folder / name).is_dir():
            identified[name] = read_part(folder / name, IdentifiedPart)
        else:
            missing.append(identification)
    if not (folder / TRAINED).is_dir():
        return None, missing
    trained = read_part(folder / TRAINED, TrainedPart)
    return Cell(folder, trained, {attack_folder(attack): info for attack, info in found.items()}, identified), missing


def damage(cell: Path) -> dict[str, str]:
    """What is wrong with the parts of a cell on disk, by their names; nothing where all can be read whole."""
    found = {}
    for part in sorted(path for path in cell.glob("*") if path.is_dir()):
        try:
            if part.name == TRAINED:
                for epoch in read_part(part, TrainedPart)["checkpoints"]:
                    read_checkpoint(checkpoint_path(cell, epoch))
                read_table(part / "training.parquet", TRAINING)
            elif part.name.startswith(_IDENTIFICATION):
                read_part(part, IdentifiedPart)
                _identifications(part / "identifications.parquet")
            else:
                read_part(part, AttackedPart)
                _reconstructions(part / "reconstructions.parquet")
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
        replaced = (": its tables lack knowledge and scores; run the grid again (leakboard run), its models have to be trained "
                    "again too" if found in range(1, FORMAT) else "")
        raise InputError(f"{path} has format {found!r}, expected {FORMAT}{replaced}")
    check(Manifest, manifest, path)
    return manifest


def read_run(run: Path) -> Run:
    """Read a run: the cells of its grid that are finished, and the failures of those that are not.

    Raises:
        InputError: the folder is no run, or a file in it is damaged; the text names the file.
    """
    manifest = read_manifest(run)
    cells, failures = [], {}
    for key, spec in manifest["cells"].items():
        cell, missing = find_cell(run, key, manifest["attacks"], manifest.get("identification"))
        if cell is not None and not missing:
            cells.append(with_tables(cell, CellSpec.model_validate(spec)))
        elif (run / "failures" / f"{key}.json").is_file():
            failures[key] = read_json(run / "failures" / f"{key}.json", "no failure")
            check(Failure, failures[key], run / "failures" / f"{key}.json")
    return Run(run, manifest, cells, failures)


def with_tables(cell: Cell, spec: CellSpec) -> MeasuredCell:
    """Read the tables of a finished cell.

    Raises:
        InputError: one is damaged, or has rows of another cell.
    """
    read = {"training": (TRAINING, _training), "reconstructions": (RECONSTRUCTIONS, _reconstructions),
            "identifications": (IDENTIFICATIONS, _identifications)}
    tables = {kind: pa.concat_tables([schema.empty_table(), *(take(path) for path in cell.tables() if path.stem == kind)])
              for kind, (schema, take) in read.items()}
    for table in tables.values():
        for column, expected in spec:
            for other in set(table[column].unique().to_pylist()) - {expected}:
                raise InputError(f"{cell.folder}: a table has rows of {column} {other!r}, expected {expected!r}; remove the folder "
                                 "and give the command of the run again")
    return MeasuredCell(**vars(cell), **tables)


def joined(cells: Iterable[MeasuredCell]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The trainings, the reconstructions and the identifications of some cells, each as one table."""
    cells = list(cells)

    def one(schema: pa.Schema, tables: list[pa.Table]) -> pd.DataFrame:
        # In one chunk: pandas keeps those of texts, and thousands make everything that follows slow.
        return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks().to_pandas()

    return (one(TRAINING, [cell.training for cell in cells]), one(RECONSTRUCTIONS, [cell.reconstructions for cell in cells]),
            one(IDENTIFICATIONS, [cell.identifications for cell in cells]))


def _training(path: Path) -> pa.Table:
    return read_table(path, TRAINING)


def _reconstructions(path: Path) -> pa.Table:
    return _of_known_attackers(read_table(path, RECONSTRUCTIONS), path)


def _identifications(path: Path) -> pa.Table:
    table = _of_known_attackers(read_table(path, IDENTIFICATIONS), path)
    better, tied, candidates, share, mu, seconds = (table[name].to_pandas().astype(float) for name in (
        "better", "tied", "candidates", "label_share", "mu", "seconds"))
    right = (better >= 0) & (tied >= 0) & (better + tied < candidates) & (candidates >= 2) & (seconds >= 0) & (
        share.isna() | share.between(0, 1)) & (mu.isna() | (mu > 0))
    if not right.all() or any(table[name].null_count for name in ("checkpoint_epoch", "method", "exact", "victim")):
        raise InputError(f"{path}: a row lacks something, or is no rank among its candidates; {REPAIR}")
    return table


def _of_known_attackers(table: pa.Table, path: Path) -> pa.Table:
    for unknown in set(table["knowledge"].unique().to_pylist()) - set(KNOWLEDGE):
        raise InputError(f"{path}: knowledge must be one of {', '.join(KNOWLEDGE)}, got {unknown!r}; {REPAIR}")
    return table
