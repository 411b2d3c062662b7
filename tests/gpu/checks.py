"""What a check is, and the rows that it yields."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command says in one line where torch is missing
    import torch

#: What became of a row or a check. ``measured`` is a figure that nothing is asked of; ``failed`` ended with an exception.
PASSED, MISSED, MEASURED, SKIPPED, NOT_RUN, FAILED = "passed", "missed", "measured", "skipped", "not run", "failed"
#: Those that make the command fail.
BAD = (MISSED, FAILED)


@dataclass
class Row:
    """One thing that was found.

    Attributes:
        name: of what.
        found: in words.
        status: one of the words above.
        tolerance: what was asked; "" where nothing was.
        reason: why it was skipped, or failed.
        values: the numbers, by name.
        seconds: that it took; set by the runner.
    """

    name: str
    found: str = ""
    status: str = MEASURED
    tolerance: str = ""
    reason: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def judged(name: str, holds: bool, found: str, tolerance: str, **values: Any) -> Row:
    """A row that holds or does not."""
    return Row(name, found, PASSED if holds else MISSED, tolerance, values=values)


def at_most(name: str, value: float, limit: float, what: str, **values: Any) -> Row:
    """A row that asks for a number up to a limit; one that is not a number is above it."""
    return judged(name, math.isfinite(value) and value <= limit, f"{what} {value:.3g}", f"at most {limit:.3g}", value=value, limit=limit,
                  **values)


def measured(name: str, found: str, **values: Any) -> Row:
    """A figure of which nothing is asked."""
    return Row(name, found, MEASURED, values=values)


def skipped(name: str, reason: str) -> Row:
    """What does not apply here, and why."""
    return Row(name, status=SKIPPED, reason=reason)


def not_run(name: str, reason: str = "its time was up") -> Row:
    """What there was no time for."""
    return Row(name, status=NOT_RUN, reason=reason)


class OutOfTime(BaseException):
    """The time of a check is up. It is no ``Exception``, so that nothing on the way takes it for a failure of its own."""


@dataclass
class Bench:
    """Where checks run.

    Attributes:
        device: with an index where it is a GPU.
        tiny: whether sizes are those of a rehearsal.
        until: when the present check has to end, by ``clock``.
        kept: what checks find for those that follow (the peaks of the device).
    """

    device: torch.device
    tiny: bool = False
    until: float = math.inf
    clock: Callable[[], float] = time.monotonic
    kept: dict[str, Any] = field(default_factory=dict)
    tell: Callable[[str], None] = print

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds of the present check."""
        return self.until - self.clock()

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        if self.gpu:
            import torch

            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], Any]) -> float:
        """That a call takes on the device."""
        self.wait()
        started = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - started

    def seconds_of_many(self, run: Callable[[], Any], *, at_least: float = 0.25, most: int = 200) -> float:
        """Of one call, the mean over as many in a row as fill some time, after one that warms up."""
        once = min(self.seconds(run), self.seconds(run))
        count = max(1, min(most, int(at_least / max(once, 1e-6))))

        def all_of_them() -> None:
            for _ in range(count):
                run()

        return self.seconds(all_of_them) / count


@dataclass(frozen=True)
class Check:
    """A named check.

    Attributes:
        name: in lower case with dashes.
        question: that it answers.
        seconds: that it may take; it is begun where a third of that is left.
        run: yields rows; may end early where ``bench.left()`` says that the time is up.
        needs: packages without which it is skipped.
        gpu_only: whether there is nothing to rehearse on a CPU.
    """

    name: str
    question: str
    seconds: float
    run: Callable[[Bench], Iterator[Row]]
    needs: tuple[str, ...] = ()
    gpu_only: bool = False


def missing(packages: tuple[str, ...]) -> list[str]:
    """Of some packages those that are not there."""
    return [package for package in packages if not there(package)]


def there(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
