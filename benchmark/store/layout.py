"""Where a run keeps what. Imports no torch.

A run folder holds

- ``run.json``: the grid, its families of defenses, its trials, cells, attacks and identifications by their keys, which of the
  defenses is the plain client, what else determines the results, and where and how they were made;
- ``trials/KEY/``: what was tried to tune a defense, put there in one step: ``part.json`` and ``trial.parquet``;
- ``cells/KEY/``: the parts of each cell (dataset, model, defense, seed), put there in one atomic step each: ``trained/`` with
  ``part.json``, ``training.parquet`` and ``checkpoint-EPOCH.safetensors``, for each attack on gradients of so many images
  ``attack-KEY/`` with ``part.json``, ``reconstructions.parquet`` and ``images.npz``, and likewise ``identification-KEY/`` with
  ``part.json`` and ``identifications.parquet`` (written by :mod:`benchmark.store.recording`);
- ``failures/KEY.json``: the error of a trial or cell that failed.
"""

from __future__ import annotations

from pathlib import Path

#: How the names of the folders of attacks and of the identification begin.
_ATTACK, IDENTIFICATION = "attack-", "identification-"

#: The folders of a run's trials and cells.
TRIALS_FOLDER, CELLS_FOLDER = "trials", "cells"

#: The folder of a cell's training within that of the cell.
TRAINED = "trained"


def images_key(checkpoint_epoch: int, attack: str, knowledge: str) -> str:
    """Name of an attack's reconstructions among the images of a cell; ``knowledge`` is one of :data:`KNOWLEDGE`."""
    return f"epoch {checkpoint_epoch} {knowledge} {attack}".replace("/", " ")


def cell_folder(run: Path, key: str) -> Path:
    """Where a run keeps the parts of a cell."""
    return run / CELLS_FOLDER / key


def trial_folder(run: Path, key: str) -> Path:
    """Where a run keeps a trial."""
    return run / TRIALS_FOLDER / key


def attack_folder(key: str) -> str:
    """The name of an attack's folder within that of a cell."""
    return f"{_ATTACK}{key}"


def identification_folder(key: str) -> str:
    """As :func:`attack_folder`, of an identification."""
    return f"{IDENTIFICATION}{key}"


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Where the training of a cell, whose folder this is, keeps the weights after an epoch."""
    return folder / TRAINED / f"checkpoint-{epoch:04d}.safetensors"
