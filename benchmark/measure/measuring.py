"""Measuring a trial, or one cell: its model is trained, or taken as it was saved, and victims are identified and attacked at the
checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights

import attacks
import defenses
from attacks import Observation
from attacks.engine import memory
from benchmark.data.datasets import Dataset
from benchmark.measure import clock, interrupts
from benchmark.measure.environment import hardware
from benchmark.measure.evaluation import observe, rebuild
from benchmark.measure.identifying import identify, require_within_bound
from benchmark.measure.perceptual import Perceptual
from benchmark.measure.pools import draw_pools
from benchmark.measure.training import make_private, train
from benchmark.measure.victim_memory import Chunks
from benchmark.measure.victims import Victims, choose_victims, shared_companions
from benchmark.measure.work import Advanced, Attacked, EpochEnded, Event, Identified, Note, Todo, Trained, TrialWork, Tried, Work
from benchmark.specification import AttackSpec, CellSpec, TrialSpec
from benchmark.store import layout
from defenses import Private
from defenses.support.seeds import derive
from defenses.support.upload import upload

#: The seed of all trials, so that seeds of a grid share what was chosen.
_TRIAL_SEED = 0
#: Images whose reconstructions are stored, of gradients of many.
_STORED = 128

_Found = TypeVar("_Found")


def measure(work: Todo, dataset: Dataset, tell: Callable[[Event], None]) -> None:
    """Do the work, telling each part as soon as it is done. Every random draw follows from the seed of the cell and what it is for,
    so that parts can be measured in any order, place and time."""
    if isinstance(work, TrialWork):
        tell(_try(work, dataset.without_test(work.validation), _Share(tell, work.epochs)))
        return
    private = make_private(defenses.create(work.spec.defense), dataset, work.spec.model, work.training, work.spec.seed)
    parts = len(work.attacks) + len(work.identifications)
    share = _Share(tell, (work.training.epochs if work.weights is None else 0) + len(work.checkpoints) * parts)
    weights = _train(work, private, dataset, share, tell) if work.weights is None else work.weights
    told: set[str] = set()

    def note(text: str) -> None:
        if text and text not in told:
            told.add(text)
            tell(Note(text))

    for mode in work.evaluation.observed:
        identifications = [key for key, of in work.identifications.items() if of == mode]
        attacked = {key: attack for key, attack in work.attacks.items() if attack.observed == mode}
        if identifications or attacked:
            observing = _Observing(work, mode, private, weights, dataset, share, note)
            for key in identifications:
                tell(observing.identify(key))
            for key, attack in attacked.items():
                tell(observing.attack(key, attack))


def _forward_seed(spec: CellSpec) -> int:
    return derive(spec.seed, spec.dataset, spec.model, spec.defense)


def _columns(spec: CellSpec | TrialSpec) -> dict[str, Any]:
    return {**spec.model_dump(), "defense_params": json.dumps(defenses.create(spec.defense).parameters())}


def _try(work: TrialWork, dataset: Dataset, share: _Share) -> Tried:
    """Train in a data set whose test images are the validation images (:meth:`Dataset.without_test`), and test on these."""
    device, spec, columns = dataset.train.labels.device, work.spec, _columns(work.spec)
    started = clock.now(device)
    cell = CellSpec(dataset=spec.dataset, model=spec.model, defense=spec.defense, seed=_TRIAL_SEED)
    private = make_private(defenses.create(spec.defense), dataset, spec.model, work.training, _TRIAL_SEED)
    rows = []
    for epoch in train(private, dataset, work.epochs, _forward_seed(cell), precision=work.training.precision,
                       on_step=share.reporter("trial")):
        rows.append({**columns, "epoch": epoch.epoch, "train_loss": epoch.train_loss, "validation_accuracy": epoch.test_accuracy,
                     "epsilon": epoch.epsilon, "delta": epoch.delta, "seconds": epoch.seconds})
        share.done += epoch.epoch > 0
        if epoch.train_loss is not None and not math.isfinite(epoch.train_loss):
            break  # weights that are no numbers stay so
    info = {**spec.model_dump(), "seconds": clock.now(device) - started, **hardware(device)}
    return Tried(info, rows)


def _train(work: Work, private: Private, dataset: Dataset, share: _Share, tell: Callable[[Event], None]) -> dict[int, bytes]:
    training, labels = work.training, dataset.test.labels
    started = clock.now(labels.device)
    columns = {
        **_columns(work.spec), **training.model_dump(include={"optimizer", "learning_rate", "batch_size"}),
        "test_images": len(labels), "chance": int(labels.bincount().max()) / len(labels)}
    rows, weights = [], {}
    steps = share.reporter("training")
    for epoch in train(private, dataset, training.epochs, _forward_seed(work.spec), precision=training.precision, on_step=steps):
        rows.append({**columns, **epoch.__dict__})
        share.done += epoch.epoch > 0
        tell(EpochEnded(epoch, training.epochs))
        if epoch.epoch in work.checkpoints:
            weights[epoch.epoch] = save_weights({name: t.contiguous() for name, t in private.state_dict().items()})
    # What is attacked next needs the memory.
    private.optimizer.zero_grad(set_to_none=True)
    private.optimizer.state.clear()
    info = {**work.spec.model_dump(), "epochs": training.epochs, "checkpoints": sorted(weights), "classes": list(dataset.classes),
            "seconds": clock.now(labels.device) - started, **hardware(labels.device)}
    tell(Trained(info, rows, weights))
    return weights


class _Observing:
    """Gradients of so many images that victims share at the checkpoints, made from the saved weights, and kept where the memory
    allows it; and what is measured in them."""

    def __init__(self, work: Work, mode: str, private: Private, weights: dict[int, bytes], dataset: Dataset, share: _Share,
                 note: Callable[[str], None]) -> None:
        self._work, self._mode, self._private, self._weights = work, mode, private, weights
        self._dataset, self._device, self._share, self._note = dataset, dataset.train.labels.device, share, note
        summed = private.in_force.summed  # each of so many clients has as many images
        self._batch_size = summed * work.evaluation.images_of(mode, work.training.observed_images)
        self._victims = choose_victims(dataset, work.evaluation, self._batch_size, work.spec.seed)
        self._chunks = Chunks(private.module, work.evaluation, checkpoints=len(work.checkpoints))
        note(self._chunks.note)
        if summed > 1:
            note(shared_companions(dataset, work.evaluation, self._batch_size))
        self._perceptual = Perceptual(self._device) if work.evaluation.lpips else None
        self._kept: dict[tuple[int, int, int], Observation] = {}

    def identify(self, key: str) -> Identified:
        """Rank the candidates of all victims at every checkpoint."""
        started, work, spec, dataset = clock.now(self._device), self._work, self._work.spec, self._dataset
        pools = draw_pools(dataset, self._victims, work.evaluation, spec.seed)
        self._note(pools.note)
        rows: list[dict[str, Any]] = []
        inapplicable: list[dict[str, Any]] = []
        for epoch in work.checkpoints:
            seed = derive(spec.seed, spec.dataset, spec.model, "identification", epoch)
            rank = partial(identify, pools=pools, dataset=dataset, seed=seed, knowledge=work.evaluation.knowledge)
            parts = self._in_parts("identification", rank, self._victims, epoch)
            reason = next((part.obstacle for part in parts if part.obstacle), "")
            if reason:  # also where it is that of some victims: a rate over the others would be one of those easier to observe
                inapplicable += [{"checkpoint_epoch": epoch, "knowledge": knowledge, "reason": reason}
                                 for knowledge in work.evaluation.knowledge]
            else:
                of_epoch = [row for part in parts for row in part.rows]
                require_within_bound(of_epoch)
                of_epoch.sort(key=lambda row: (row["knowledge"], row["victim"]))  # as if all had been ranked at once
                rows += [{**self._columns(epoch), **row} for row in of_epoch]
            self._share.done += 1
        info = {"observed": self._mode, "candidates": pools.size, "inapplicable": inapplicable, **self._made(started)}
        return Identified(key, info, rows)

    def attack(self, key: str, asked: AttackSpec) -> Attacked:
        """Attack the victims at every checkpoint; as many at once as the memory holds."""
        started, work, spec, attack = clock.now(self._device), self._work, self._work.spec, attacks.create(asked.attack)
        victims = self._victims.select(0, work.evaluation.attacked(self._batch_size))
        stored = max(1, _STORED // self._batch_size) if self._batch_size > 1 else len(victims)
        rows: list[dict[str, Any]] = []
        inapplicable: list[dict[str, Any]] = []
        images: dict[str, np.ndarray] = {"original": victims.select(0, stored).pixels}
        for epoch in work.checkpoints:
            seed = derive(spec.seed, spec.dataset, spec.model, "attack", epoch)
            do = partial(rebuild, attack, seed=seed, knowledge=work.evaluation.knowledge, perceptual=self._perceptual)
            parts = self._in_parts(attack.name, do, victims, epoch)
            of_epoch = [row for part in parts for row in part.rows]
            obstacles = {knowledge: reason for part in parts for knowledge, reason in part.obstacles.items()}
            inapplicable += [{"checkpoint_epoch": epoch, "attack": attack.label, "knowledge": knowledge, "reason": reason}
                             for knowledge, reason in obstacles.items()]
            order = list(dict.fromkeys(row["knowledge"] for row in of_epoch))
            of_epoch.sort(key=lambda row: order.index(row["knowledge"]))  # as if all victims had been attacked at once
            rows += [{**self._columns(epoch), **row} for row in of_epoch]
            for knowledge in order:
                ordered = np.concatenate([part.images[knowledge] for part in parts])
                images[layout.images_key(epoch, attack.label, knowledge)] = _uint8(ordered[:stored])
            self._share.done += 1
        info = {"attack": attack.label, "observed": self._mode, "inapplicable": inapplicable, **self._made(started)}
        return Attacked(key, info, rows, images)

    def _columns(self, epoch: int) -> dict[str, Any]:
        return {**_columns(self._work.spec), "checkpoint_epoch": epoch, "observed": self._mode, "batch_size": self._batch_size}

    def _made(self, started: float) -> dict[str, Any]:
        return {"seconds": clock.now(self._device) - started, **hardware(self._device)}

    def _in_parts(self, what: str, do: Callable[..., _Found], victims: Victims, epoch: int) -> list[_Found]:
        """What ``do(observation, victims, progress=...)`` finds at a checkpoint, of as many victims at once as the memory holds."""
        found: list[_Found] = []
        first = 0
        if self._device.type == "cuda":
            memory.release(self._device)  # of what trained, and of earlier attacks

        def attempt(width: int) -> bool:
            nonlocal first
            self._chunks.narrow(width)
            count = min(width, len(victims) - first)
            reporter = self._share.reporter(what, first / len(victims), count / len(victims))
            try:
                found.append(do(self._observed(epoch, first, count), victims.select(first, count), progress=reporter))
            except Exception:
                self._kept.clear()
                raise
            first += count
            return first < len(victims)

        memory.with_less(attempt, self._chunks.victims, self._device)
        return found

    def _observed(self, epoch: int, first: int, count: int) -> Observation:
        """The gradients of ``count`` victims from the ``first`` on."""
        place = epoch, first, count
        more = next((kept for (*of, many), kept in self._kept.items() if of == [epoch, first] and many >= count), None)
        if more is not None:
            if len(more) > count:  # kept too, with what attacks compute of it once
                more = self._kept[place] = more.select(range(count))
            return more
        if not self._chunks.keep:
            self._kept.clear()
        work = self._work
        self._private.load_state_dict({name: upload(t, self._device) for name, t in load_weights(self._weights[epoch]).items()})
        seed = derive(_forward_seed(work.spec), "observe", epoch, self._batch_size)
        self._kept[place] = observe(self._private, self._victims.select(first, count), self._dataset, work.evaluation, seed,
                                    precision=work.training.precision, in_memory=self._chunks.rounds_in_memory)
        return self._kept[place]


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
