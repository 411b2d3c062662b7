"""What is measured goes to the run folder, and to a display."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from benchmark.errors import InputError
from benchmark.executors import Failed, Finished, Started
from benchmark.measure.work import Advanced, Attacked, EpochEnded, Event, Identified, Note, Part, Trained, Tried
from benchmark.run.progress import Display
from benchmark.specification import CellSpec, TrialSpec
from benchmark.store import recording


class CannotWrite(InputError):
    """The run folder takes no more."""


def show(display: Display, name: str, event: Started | Advanced | EpochEnded | Note) -> None:
    """Tell a display how a cell, by its name, goes."""
    if isinstance(event, Started):
        display.start_cell(name)
    elif isinstance(event, Advanced):
        display.step(name, event.share, event.what)
    elif isinstance(event, EpochEnded):
        display.epoch(name, event.epoch, event.epochs)
    else:
        display.message(f"{name}: {event.text}")


class Recorder:
    """Writes what is measured, and shows it.

    Args:
        out: the folder of the run.
        specs: the trials and cells by their keys.
        display: to show it on.
        total: how many are to be measured.
    """

    def __init__(self, out: Path, specs: Mapping[str, CellSpec | TrialSpec], display: Display, total: int) -> None:
        self._out, self._specs, self._display = out, specs, display
        self.finished = self.failed = 0
        self._started: dict[str, float] = {}
        self._came_to: dict[str, str] = {}
        display.begin(total)

    def tell(self, key: str, event: Event | Started | Finished | Failed) -> None:
        if isinstance(event, Started):
            self._started[key] = time.perf_counter()
        if isinstance(event, (Started, Advanced, EpochEnded, Note)):
            show(self._display, self._specs[key].name, event)
        else:
            try:
                self._write(key, event)
            except OSError as error:
                text = error.strerror or str(error)
                raise CannotWrite(f"cannot write to {self._out}: {text}; what is finished so far is kept") from error

    def _write(self, key: str, event: Part | Finished | Failed) -> None:
        out, spec = self._out, self._specs[key]
        if isinstance(event, Tried):
            recording.write_trial(out, key, info=event.info, trial=event.trial)
            self._came_to[key] = f", validation accuracy {event.trial[-1]['validation_accuracy']:.4f}"
        elif isinstance(event, Trained):
            recording.write_trained(out, key, info=event.info, training=event.training, weights=event.weights)
        elif isinstance(event, Attacked):
            recording.write_attacked(out, key, event.attack, info=event.info, reconstructions=event.reconstructions,
                                     images=event.images)
        elif isinstance(event, Identified):
            recording.write_identified(out, key, event.identification, info=event.info, identifications=event.identifications)
        elif isinstance(event, Finished):
            recording.remove_failure(out, key)
            self.finished += 1
            took = time.perf_counter() - self._started[key]
            self._display.end_cell(spec.name, f"done in {took:.1f} s{self._came_to.pop(key, '')}")
        else:
            recording.write_failure(out, key, {**spec.model_dump(), "error": event.error, "traceback": event.traceback})
            self.failed += 1
            self._display.end_cell(spec.name, f"FAILED: {event.error}")
