"""How many victims to attack at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from attacks.engine import memory
from attacks.engine.matcher import GradientMatcher
from attacks.engine.slots import even, filled
from attacks.search.mixtures import MixtureMatcher
from attacks.search.problem import Problem, Start

#: The width is measured where that takes less than some two percent of the attack: each width takes three steps.
_ITERATIONS_WORTH_MEASURING = 500
_SMALLEST = 8
#: A smaller width has to be faster by this factor per victim, so that timing noise does not decide.
_CLEARLY_FASTER = 0.95


def choose_width(problem: Problem, waiting: Sequence[Start]) -> int:
    """Of the starts that wait, how many to work on at once: as many as fit the memory, unless fewer are clearly faster by a short
    measurement. On a GPU nothing is measured: rounding differs between widths there, and the same command is to give the same
    tables."""
    if len(waiting) == 1:
        return 1  # also where memory holds more: slots beside it would compute what nobody reads
    image, iterations = problem.first_images(waiting[:1]), problem.schedule.iterations

    def matcher(count: int) -> GradientMatcher | MixtureMatcher:
        starts = [*waiting[:count], *[waiting[0]] * (count - len(waiting))]
        return problem.matcher(starts, reloaded=count < len(waiting))

    most = even(max(1, memory.budget(image.device) // matcher(1).bytes_per_victim(image)))
    # Equal parts: a last part of a few victims would waste what a large one shares.
    fitting = min(most, filled(-(-len(waiting) // -(-len(waiting) // most)), most, problem.observation.batch_size))
    if fitting <= _SMALLEST or iterations < _ITERATIONS_WORTH_MEASURING or image.device.type != "cpu":
        return fitting
    seconds: dict[int, float] = {}
    width = _SMALLEST
    while True:
        try:
            seconds[width] = _seconds_per_victim(matcher(width), image, width)
        except Exception as error:
            if not memory.is_out_of_memory(error) or width == _SMALLEST:
                raise
            break
        if width == fitting or seconds[width] > min(seconds.values()) / _CLEARLY_FASTER**2:
            break
        width = min(2 * width, fitting)
    largest = max(seconds)
    best = min(seconds, key=lambda tried: seconds[tried])
    return best if seconds[best] < _CLEARLY_FASTER * seconds[largest] else largest


def _seconds_per_victim(matcher: GradientMatcher | MixtureMatcher, image: Tensor, width: int) -> float:
    images = image.expand(width, *image.shape[1:]).clone()
    samples = matcher.samples_like(images)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        matcher.step_of_slots(images, samples)
        times.append(time.perf_counter() - started)
    return min(times[1:]) / width
