"""Measuring one cell: its model is trained, or taken as it was saved, and victims are identified and attacked at the checkpoints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights

import attacks
import defenses
from attacks import Attack, Observation
from attacks.engine.memory import with_less
from benchmark.config import Evaluation, Training
from benchmark.data.datasets import Dataset
from benchmark.measure import interrupts
from benchmark.measure.environment import hardware
from benchmark.measure.evaluation import Victims, choose_victims, observe, rebuild
from benchmark.measure.identifying import identify, require_within_bound
from benchmark.measure.pools import Pools, draw_pools
from benchmark.measure.training import Epoch, make_private, train
from benchmark.measure.victim_memory import Chunks
from benchmark.specification import CellSpec
from benchmark.store import results
from defenses import Private
from defenses.support.seeds import derive
from defenses.support.upload import upload

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Work:
    """What is to be measured of a cell. It can be sent to another process.

    Attributes:
        spec: the cell.
        training, evaluation: those of the grid.
        checkpoints: the epochs at which gradients are observed.
        weights: by epoch, of the training that was done before, as safetensors (:meth:`defenses.Private.state_dict`);
            None where it is still to be trained.
        attacks: the specifications of the attacks that are missing, by their keys.
        identification: the key of the identification; None where it is there, or not asked for.
    """

    spec: CellSpec
    training: Training
    evaluation: Evaluation
    checkpoints: tuple[int, ...]
    weights: dict[int, bytes] | None
    attacks: dict[str, str]
    identification: str | None = None


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
    """The identification, by its key, is done; what :func:`benchmark.store.recording.write_identified` takes."""

    identification: str
    info: dict[str, Any]
    identifications: list[dict[str, Any]]


#: A part of a cell that is done.
Part = Trained | Attacked | Identified
#: What is told while a cell is measured.
Event = Advanced | EpochEnded | Note | Part


def measure(work: Work, dataset: Dataset, tell: Callable[[Event], None]) -> None:
    """Do the work, telling each part as soon as it is done. Every random draw follows from the seed of the cell and what it is for,
    so that parts can be measured in any order, place and time."""
    private = make_private(defenses.create(work.spec.defense), dataset, work.spec.model, work.training, work.spec.seed)
    chunks = Chunks(private.module, work.evaluation, checkpoints=len(work.checkpoints))
    observed = len(work.attacks) + (work.identification is not None)
    if observed and chunks.note:
        tell(Note(chunks.note))
    share = _Share(tell, (work.training.epochs if work.weights is None else 0) + len(work.checkpoints) * observed)
    weights = _train(work, private, dataset, share, tell) if work.weights is None else work.weights
    if not observed:
        return
    victims = choose_victims(dataset, work.evaluation, work.spec.seed)
    observations = _Observations(work, private, weights, victims, dataset, chunks)
    if work.identification is not None:
        pools = draw_pools(dataset, victims, work.evaluation, work.spec.seed)
        if pools.note:
            tell(Note(pools.note))
        tell(_identify(work, work.identification, pools, observations, victims, dataset, share))
    for key, label in work.attacks.items():
        tell(_attack(work, key, attacks.create(label), observations, victims, dataset, share))


def _forward_seed(spec: CellSpec) -> int:
    return derive(spec.seed, spec.dataset, spec.model, spec.defense)


def _columns(spec: CellSpec) -> dict[str, Any]:
    return {**spec.model_dump(), "defense_params": json.dumps(defenses.create(spec.defense).parameters())}


def _train(work: Work, private: Private, dataset: Dataset, share: _Share, tell: Callable[[Event], None]) -> dict[int, bytes]:
    started = time.perf_counter()
    epochs, columns = work.training.epochs, _columns(work.spec)
    rows, weights = [], {}
    steps = share.reporter("training")
    for epoch in train(private, dataset, epochs, _forward_seed(work.spec), precision=work.training.precision, on_step=steps):
        rows.append({**columns, **epoch.__dict__})
        share.done += epoch.epoch > 0
        tell(EpochEnded(epoch, epochs))
        if epoch.epoch in work.checkpoints:
            weights[epoch.epoch] = save_weights({name: t.contiguous() for name, t in private.state_dict().items()})
    info = {**work.spec.model_dump(), "epochs": epochs, "checkpoints": sorted(weights), "classes": list(dataset.classes),
            "seconds": time.perf_counter() - started, **hardware(dataset.train.labels.device)}
    tell(Trained(info, rows, weights))
    return weights


class _Observations:
    """The gradients that victims share at the checkpoints, made from the saved weights, and kept where the memory allows it."""

    def __init__(self, work: Work, private: Private, weights: dict[int, bytes], victims: Victims, dataset: Dataset,
                 chunks: Chunks) -> None:
        self.chunks = chunks
        self._work, self._private, self._weights, self._victims, self._dataset = work, private, weights, victims, dataset
        self._kept: dict[tuple[int, int], Observation] = {}

    def of(self, epoch: int, first: int, count: int) -> Observation:
        """Of ``count`` victims from the ``first`` on."""
        if (found := self._kept.get((epoch, first))) is not None and len(found) == count:
            return found
        if not self.chunks.keep:
            self._kept.clear()
        device = self._dataset.train.labels.device
        self._private.load_state_dict({name: upload(t, device) for name, t in load_weights(self._weights[epoch]).items()})
        seed = derive(_forward_seed(self._work.spec), "observe", epoch)
        self._kept[epoch, first] = observe(self._private, self._victims.select(first, count), self._dataset, self._work.evaluation,
                                           seed, precision=self._work.training.precision, in_memory=self.chunks.rounds_in_memory)
        return self._kept[epoch, first]

    def forget(self) -> None:
        """Free their memory."""
        self._kept.clear()


def _identify(work: Work, key: str, pools: Pools, observations: _Observations, victims: Victims, dataset: Dataset, share: _Share
              ) -> Identified:
    """Rank the candidates of all victims at every checkpoint."""
    started, spec, columns = time.perf_counter(), work.spec, _columns(work.spec)
    rows: list[dict[str, Any]] = []
    inapplicable: list[dict[str, Any]] = []
    for epoch in work.checkpoints:
        seed = derive(spec.seed, spec.dataset, spec.model, "identification", epoch)
        rank = partial(identify, pools=pools, dataset=dataset, seed=seed, knowledge=work.evaluation.knowledge)
        parts = _in_parts("identification", rank, observations, victims, epoch, share)
        reason = next((part.obstacle for part in parts if part.obstacle), "")
        if reason:  # also where it is that of some victims: a rate over the others would be one of those that are easier to observe
            inapplicable += [{"checkpoint_epoch": epoch, "knowledge": knowledge, "reason": reason}
                             for knowledge in work.evaluation.knowledge]
        else:
            of_epoch = [row for part in parts for row in part.rows]
            require_within_bound(of_epoch)
            of_epoch.sort(key=lambda row: (row["knowledge"], row["victim"]))  # as if all had been ranked at once
            rows += [{**columns, "checkpoint_epoch": epoch, **row} for row in of_epoch]
        share.done += 1
    info = {"candidates": pools.size, "inapplicable": inapplicable, "seconds": time.perf_counter() - started,
            **hardware(dataset.train.labels.device)}
    return Identified(key, info, rows)


def _attack(work: Work, key: str, attack: Attack, observations: _Observations, victims: Victims, dataset: Dataset, share: _Share
            ) -> Attacked:
    """Attack all victims at every checkpoint; as many at once as the memory holds."""
    started, spec, columns = time.perf_counter(), work.spec, _columns(work.spec)
    rows: list[dict[str, Any]] = []
    inapplicable: list[dict[str, Any]] = []
    images: dict[str, np.ndarray] = {"original": victims.pixels}
    for epoch in work.checkpoints:
        seed = derive(spec.seed, spec.dataset, spec.model, "attack", epoch)
        do = partial(rebuild, attack, seed=seed, knowledge=work.evaluation.knowledge)
        parts = _in_parts(attack.name, do, observations, victims, epoch, share)
        of_epoch = [row for part in parts for row in part.rows]
        obstacles = {knowledge: reason for part in parts for knowledge, reason in part.obstacles.items()}
        inapplicable += [{"checkpoint_epoch": epoch, "attack": attack.label, "knowledge": knowledge, "reason": reason}
                         for knowledge, reason in obstacles.items()]
        order = list(dict.fromkeys(row["knowledge"] for row in of_epoch))
        of_epoch.sort(key=lambda row: order.index(row["knowledge"]))  # as if all victims had been attacked at once
        rows += [{**columns, "checkpoint_epoch": epoch, **row} for row in of_epoch]
        for knowledge in order:
            ordered = np.concatenate([part.images[knowledge] for part in parts])
            images[results.images_key(epoch, attack.label, knowledge)] = _uint8(ordered)
        share.done += 1
    info = {"attack": attack.label, "inapplicable": inapplicable, "seconds": time.perf_counter() - started,
            **hardware(dataset.train.labels.device)}
    return Attacked(key, info, rows, images)


def _in_parts(what: str, do: Callable[..., _Found], observations: _Observations, victims: Victims, epoch: int, share: _Share
              ) -> list[_Found]:
    """What ``do(observation, victims, progress=...)`` finds at a checkpoint, of as many victims at once as the memory holds."""
    found: list[_Found] = []
    first, chunks = 0, observations.chunks

    def attempt(width: int) -> bool:
        nonlocal first
        chunks.narrow(width)
        count = min(width, len(victims) - first)
        reporter = share.reporter(what, first / len(victims), count / len(victims))
        try:
            found.append(do(observations.of(epoch, first, count), victims.select(first, count), progress=reporter))
        except Exception:
            observations.forget()
            raise
        first += count
        return first < len(victims)

    with_less(attempt, chunks.victims, victims.labels.device)
    return found


class _Share:
    """How much of a cell is done. Its parts are epochs, and attacks at a checkpoint; each is taken for the same share."""

    def __init__(self, tell: Callable[[Event], None], parts: int) -> None:
        self._tell, self._parts, self.done = tell, max(parts, 1), 0

    def reporter(self, what: str, before: float = 0.0, part: float = 1.0) -> Callable[[int, int], None]:
        """A callback for the steps done, and all steps, of ``part`` of one part, of which ``before`` is done."""
        def report(step: int, total: int) -> None:
            interrupts.check()
            self._tell(Advanced((self.done + before + part * step / total) / self._parts, f"{what} {step}/{total}"))

        return report


def _uint8(pixels: np.ndarray) -> np.ndarray:
    return np.round(pixels * 255).astype(np.uint8)
