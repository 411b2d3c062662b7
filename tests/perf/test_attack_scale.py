"""What an attack costs as the victims become more: time per victim and iteration, and memory.

Run with ``pytest tests/perf --benchmark-only -s``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from speed_cases import engine_iteration, observe

VICTIMS = (16, 32, 64, 128, 256, 512, 1024, 2048)

#: Peak memory of a whole process, so that each case is one of its own. It is read from Linux, as ru_maxrss begins with what the
#: process that started this one has taken.
ATTACK = """
import sys
from speed_cases import observe
from attacks import InvertingGradients
defense, model, victims, iterations = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
observation = observe(defense, model, victims)
observed = sum(g.numel() * g.element_size() for g in observation.shared.values())
InvertingGradients(iterations=iterations).reconstruct(observation, seed=0)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(observed, int(peak.split()[1]) * 1024)
"""


@pytest.mark.parametrize("defense", ["none", "precode"])
def test_cost_per_victim(benchmark, defense):
    iterations = {victims: engine_iteration(observe(defense, "lenet", victims)) for victims in VICTIMS}
    times: dict[int, list[float]] = {victims: [] for victims in VICTIMS}

    def all_sizes() -> None:
        for victims, iteration in iterations.items():
            repeats = max(1, 128 // victims)
            started = time.perf_counter()
            for _ in range(repeats):
                iteration()
            times[victims].append((time.perf_counter() - started) / repeats / victims * 1e3)

    benchmark.pedantic(all_sizes, rounds=9, warmup_rounds=1)
    medians = {victims: statistics.median(taken) for victims, taken in times.items()}
    benchmark.extra_info.update({f"ms_with_{victims}_victims": ms for victims, ms in medians.items()})
    print(f"\n{defense}, lenet, ms per victim and iteration:", *(f"{victims}: {ms:.3f}" for victims, ms in medians.items()))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read as Linux tells it")
@pytest.mark.parametrize(("defense", "model", "victims"), [
    ("none", "lenet", 512), ("none", "lenet", 2048), ("noise(std=0.0001)", "mlp", 32), ("noise(std=0.0001)", "mlp", 128), ("none", "torchvision:resnet18", 16)])
def test_peak_memory(benchmark, defense, model, victims):
    arguments = [defense, model, str(victims), "20"]

    def attack() -> tuple[int, int]:
        said = subprocess.run([sys.executable, "-c", ATTACK, *arguments], cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
        observed, peak = said.stdout.split()
        return int(observed), int(peak)

    observed, peak = benchmark.pedantic(attack, rounds=1)
    allowed = 1.6 * observed + 2**30
    benchmark.extra_info.update(observed_bytes=observed, peak_bytes=peak)
    print(f"\n{defense}, {model}, {victims} victims: observed {observed / 2**30:.2f} GiB, peak of the process {peak / 2**30:.2f} GiB, "
          f"1.6 x observed + 1 GiB is {allowed / 2**30:.2f} GiB")
