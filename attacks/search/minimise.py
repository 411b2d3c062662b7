"""Gradient matching over many victims at once, in slots that the next one takes when a victim is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.base import Progress
from attacks.engine.matcher import GradientMatcher
from attacks.engine.memory import with_less
from attacks.engine.recorded import worth_recording
from attacks.engine.replayed import worth_replaying
from attacks.engine.slots import even, filled
from attacks.search.optimizer import Optimizer
from attacks.search.problem import Problem, Start
from attacks.search.signed_adam import SignedAdam
from attacks.search.width import choose_width
from defenses.support.upload import upload

#: Iterations of a victim between two looks at whether it is done: each look waits for the device.
_LOOK_EVERY = 50
#: Relative decrease of the objective that counts as progress.
_PROGRESS = 1e-3


class Found(NamedTuple):
    """What became of several starts of each victim: normalised images [N, restarts, B, C, H, W], their objectives [N, restarts],
    and what else was variable, [N, restarts, ...] each."""

    images: Tensor
    costs: Tensor
    others: tuple[Tensor, ...]

    def best(self) -> Found:
        """Of each victim the start of the lowest objective alone: [N, B, C, H, W], [N] and [N, ...] each."""
        best = self.costs.nan_to_num(nan=torch.inf).argmin(1)
        victims = torch.arange(len(best), device=best.device)
        return Found(self.images[victims, best], self.costs[victims, best], tuple(other[victims, best] for other in self.others))


def minimise(problem: Problem, *, optimizer: type[Optimizer] = SignedAdam, restarts: int = 1, progress: Progress | None = None
             ) -> Found:
    """Optimise the images of every victim, several starts each.

    What becomes of a victim does not depend on which others are worked on beside it, nor on when it starts: on a CPU bit for bit,
    where the memory holds at least four at once and there is more than one; elsewhere but for rounding. How many are worked on at
    once is chosen by :func:`attacks.search.width.choose_width`; out of memory, it is halved.

    Args:
        problem: the victims and what is minimised.
        optimizer: what moves the candidates.
        restarts: starts of each victim, >= 1.
        progress: told of the iterations done, on the average over all starts, and of those that were planned.
    """
    waiting = deque(Start(victim, restart) for restart in range(restarts) for victim in range(len(problem.observation)))
    results = _Results(problem, restarts, progress)

    def attempt(width: int) -> bool:
        starts = [waiting.popleft() for _ in range(min(width, len(waiting)))]
        slots = None
        try:
            slots = _Slots(problem, optimizer, starts, waiting, results, width)
            while slots.at_work():
                slots.iterate()
        except Exception:
            # What was under way begins again, with the same random numbers.
            waiting.extendleft(reversed(starts if slots is None else slots.at_work()))
            results.forget(waiting)
            raise
        return False

    with_less(attempt, even(choose_width(problem, list(waiting))), problem.observation.device)
    return results.found()


class _Slots:
    """The starts that are worked on at present, one in each slot. Slots beyond them are idle: they compute what nobody reads, so
    that the number of slots is one in which victims are rounded alike."""

    def __init__(self, problem: Problem, optimizer: type[Optimizer], starts: list[Start], waiting: deque[Start],
                 results: _Results, width: int) -> None:
        left_over = filled(len(starts), width, problem.observation.batch_size) - len(starts)
        self._idle = [False] * len(starts) + [True] * left_over
        self._starts = starts = starts + starts[:1] * left_over
        self._problem, self._waiting, self._results, self._width = problem, waiting, results, width
        self._matcher = problem.matcher(starts, reloaded=bool(waiting))
        mean = problem.observation.mean
        self._optimizer = optimizer(problem.first_images(starts), problem.first_others(starts), problem.bounds())
        self._at = [0] * len(starts)  # iterations done, those that were skipped included
        self._evaluations = [0] * len(starts)
        self._best = mean.new_full((len(starts),), torch.inf)
        self._since = torch.zeros(len(starts), dtype=torch.long, device=mean.device)
        self._sizes: tuple[list[float], Tensor] | None = None
        self._steps = self._begun_at = 0  # of the slots that there are: steps taken, and iterations done before

    def at_work(self) -> list[Start]:
        """The starts that are not done."""
        return [start for start, idle in zip(self._starts, self._idle, strict=True) if not idle]

    def iterate(self) -> None:
        """One iteration of every slot; slots whose victim is done go to the next one."""
        schedule = self._problem.schedule
        self._record_if_worth_it()
        images, others = self._optimizer.images, self._optimizer.others
        if others:
            derivative, *by_others, objective = self._matcher.step_with(images, others)
        else:
            assert isinstance(self._matcher, GradientMatcher)
            (derivative, objective), by_others = self._matcher.step(images), []
        self._optimizer.look(objective)
        progressed = objective < self._best - _PROGRESS * self._best.abs()
        progressed |= self._best.isinf()
        self._best = torch.where(progressed, objective, self._best)
        self._since = torch.where(progressed, 0, self._since + 1)
        done = self._done()
        for slot in done:
            self._results.add(self._starts[slot], *self._optimizer.found(slot))
        self._optimizer.step(derivative, by_others, self._step_sizes())
        self._at = [at + (not idle) for at, idle in zip(self._at, self._idle, strict=True)]
        self._evaluations = [evaluations + 1 for evaluations in self._evaluations]
        if done:
            self._refill(done)
        self._results.note({start: min(at, schedule.iterations)
                            for start, at, idle in zip(self._starts, self._at, self._idle, strict=True) if not idle})
        self._results.tell()

    def _record_if_worth_it(self) -> None:
        """After the first step, which may have found that the model is matched in another way; again where slots were closed."""
        self._steps += 1
        waves = 1 + len(self._waiting) // len(self._starts)
        iterations = waves * self._problem.schedule.iterations - self._begun_at
        if self._steps != 2:
            return
        if worth_recording(self._since.device, iterations):
            self._matcher.record(self._optimizer.images, self._optimizer.others)
        elif isinstance(self._matcher, GradientMatcher) and not self._optimizer.others and worth_replaying(
                self._since.device, len(self._starts), iterations):
            self._matcher.replay(self._optimizer.images)

    def _done(self) -> list[int]:
        """The slots whose victim needs no further iteration; those without progress go on to the next step size."""
        schedule = self._problem.schedule
        # Before it has gone on for so long, no victim can have stalled.
        looked_at = [slot for slot, count in enumerate(self._evaluations)
                     if count >= schedule.patience and count % _LOOK_EVERY == 0 and not self._idle[slot]]
        if looked_at:
            stalled = (self._since >= schedule.patience).tolist()
            for slot in looked_at:
                if stalled[slot] and self._at[slot] < schedule.iterations:
                    self._at[slot] = schedule.next_size(self._at[slot])
                    self._since[slot] = 0
        return [slot for slot, at in enumerate(self._at) if at >= schedule.iterations and not self._idle[slot]]

    def _step_sizes(self) -> Tensor:
        sizes = [self._problem.schedule.size_at(at) for at in self._at]
        if self._sizes is None or self._sizes[0] != sizes:  # uploaded when they change only
            self._sizes = sizes, upload(sizes, self._since.device, torch.float64)
        return self._sizes[1]

    def _refill(self, done: list[int]) -> None:
        """Give slots to the victims that wait; where none does, they are idle, and closed where they are not needed as such."""
        for slot in done:
            if not self._waiting:
                self._idle[slot], self._at[slot] = True, 0
                continue
            start = self._waiting.popleft()
            self._starts[slot] = start
            self._matcher.load(slot, start.victim, self._problem.sampling_seed(start))
            others = [other[0] for other in self._problem.first_others([start])]
            self._optimizer.restart(slot, self._problem.first_images([start])[0], others)
            self._best[slot], self._since[slot] = torch.inf, 0
            self._at[slot] = self._evaluations[slot] = 0
        working = self._idle.count(False)
        spare = filled(working, self._width, self._problem.observation.batch_size) - working
        idle = [slot for slot, unused in enumerate(self._idle) if unused]
        # What is recorded is kept until half of it would be for nothing.
        if spare < len(idle) and working and not (self._matcher.recorded and 2 * working > len(self._starts)):
            self._keep([slot for slot in range(len(self._starts)) if slot not in idle[spare:]])

    def _keep(self, slots: list[int]) -> None:
        self._starts, self._idle = [self._starts[slot] for slot in slots], [self._idle[slot] for slot in slots]
        self._at, self._evaluations = ([counts[slot] for slot in slots] for counts in (self._at, self._evaluations))
        index = upload(slots, self._since.device)
        self._best, self._since = self._best[index], self._since[index]
        self._optimizer.keep(slots)
        self._matcher.keep(slots)
        self._steps, self._begun_at = 1, min(at for at, idle in zip(self._at, self._idle, strict=True) if not idle)


class _Results:
    """The final images of all starts, and the progress that is told."""

    def __init__(self, problem: Problem, restarts: int, progress: Progress | None) -> None:
        observation = problem.observation
        self._images = observation.mean.new_zeros(len(observation), restarts, problem.images, *observation.image_shape)
        self._costs = observation.mean.new_full((len(observation), restarts), torch.nan)
        self._others: dict[Start, list[Tensor]] = {}
        self._iterations, self._progress = problem.schedule.iterations, progress
        self._done = {Start(victim, restart): 0 for victim in range(len(observation)) for restart in range(restarts)}
        self._told = 0

    def add(self, start: Start, images: Tensor, others: list[Tensor], cost: Tensor) -> None:
        self._images[start], self._costs[start] = images, cost
        self._others[start] = [other.clone() for other in others]
        self.note({start: self._iterations})

    def found(self) -> Found:
        victims, restarts = self._costs.shape
        starts = [self._others[Start(victim, restart)] for victim in range(victims) for restart in range(restarts)]
        others = (torch.stack(of_all).unflatten(0, (victims, restarts)) for of_all in zip(*starts, strict=True))
        return Found(self._images, self._costs, tuple(others))

    def forget(self, starts: Sequence[Start] | deque[Start]) -> None:
        self._done.update(dict.fromkeys(starts, 0))

    def note(self, done: dict[Start, int]) -> None:
        """Of some starts, the iterations done."""
        self._done.update(done)

    def tell(self) -> None:
        average = sum(self._done.values()) // len(self._done)
        if self._progress is not None and average > self._told:
            self._told = average
            self._progress(average, self._iterations)
