"""What is to be measured, and what is told while it is. Both can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmark.config import Evaluation, Training
from benchmark.measure.training import Epoch
from benchmark.specification import AttackSpec, CellSpec, TrialSpec


@dataclass(frozen=True)
class TrialWork:
    """A trial.

    Attributes:
        spec: the trial.
        training: that which it is to find out about; its epochs are those that are planned.
        validation: the share of the training images that is kept apart.
        epochs: how many are trained.
    """

    spec: TrialSpec
    training: Training
    validation: float
    epochs: int

    @property
    def count(self) -> int:
        """Parts that can be measured by themselves."""
        return 1

    def parts(self) -> list[TrialWork]:
        """Those that can be begun now."""
        return [self]


@dataclass(frozen=True)
class Work:
    """What is to be measured of a cell.

    Attributes:
        spec: the cell.
        training, evaluation: those of the grid, as they are for this cell.
        checkpoints: the epochs at which gradients are observed.
        weights: by epoch, of the training that was done before, as safetensors (:meth:`defenses.Private.state_dict`);
            None where it is still to be trained.
        attacks: those that are missing, by their keys.
        identifications: of how many images the gradients are in which identification is missing, by their keys.
    """

    spec: CellSpec
    training: Training
    evaluation: Evaluation
    checkpoints: tuple[int, ...]
    weights: dict[int, bytes] | None
    attacks: dict[str, AttackSpec]
    identifications: dict[str, str]

    @property
    def count(self) -> int:
        """As :attr:`TrialWork.count`."""
        return (self.weights is None) + len(self.attacks) + len(self.identifications)

    def parts(self) -> list[Work]:
        """As :meth:`TrialWork.parts`: all but the training need the weights."""
        if self.weights is None:
            return [replace(self, attacks={}, identifications={})]
        return [*(replace(self, attacks={}, identifications={key: mode}) for key, mode in self.identifications.items()),
                *(replace(self, attacks={key: attack}, identifications={}) for key, attack in self.attacks.items())]


@dataclass(frozen=True)
class Advanced:
    """``share`` of the cell, in [0, 1], is done; ``what`` says which step was the last."""

    share: float
    what: str


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of the training is over, of ``epochs`` in all."""

    epoch: Epoch
    epochs: int


@dataclass(frozen=True)
class Note:
    """Something that the user is to know of the cell."""

    text: str


@dataclass(frozen=True)
class Tried:
    """A trial is done; what :func:`benchmark.store.recording.write_trial` takes."""

    info: dict[str, Any]
    trial: list[dict[str, Any]]


@dataclass(frozen=True)
class Trained:
    """The training is done; what :func:`benchmark.store.recording.write_trained` takes."""

    info: dict[str, Any]
    training: list[dict[str, Any]]
    weights: dict[int, bytes]


@dataclass(frozen=True)
class Attacked:
    """An attack, by its key, is done; what :func:`benchmark.store.recording.write_attacked` takes."""

    attack: str
    info: dict[str, Any]
    reconstructions: list[dict[str, Any]]
    images: dict[str, np.ndarray]


@dataclass(frozen=True)
class Identified:
    """An identification, by its key, is done; what :func:`benchmark.store.recording.write_identified` takes."""

    identification: str
    info: dict[str, Any]
    identifications: list[dict[str, Any]]


#: What can be asked for.
Todo = Work | TrialWork
#: What is done: a trial, or a part of a cell.
Part = Tried | Trained | Attacked | Identified
#: What is told while a cell is measured.
Event = Advanced | EpochEnded | Note | Part
