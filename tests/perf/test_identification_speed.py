"""What identification costs: seconds, of the clock and of the processor, and memory.

Run with ``pytest tests/perf --benchmark-only -s``. Each case is a process of its own, with as many threads as the machine has cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Candidates of a class are the same for all victims of it, as in the pools of a run. The peak is read from Linux, as ru_maxrss begins
#: with what the process that started this one has taken; what comes before the scores is told apart from it.
IDENTIFICATION = """
import sys, time
import torch
from speed_cases import observe
from attacks.identification import Candidates, Identifier
defense, model, victims, size, batch_size, public = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
observation = observe(defense, model, victims, batch_size)
classes = observation.labels[:, 0]
labels = torch.cat([torch.arange(10).repeat_interleave(size - 1), classes])
pools = torch.cat([(classes * (size - 1))[:, None] + torch.arange(size - 1), 10 * (size - 1) + torch.arange(victims)[:, None]], 1)
others = (torch.randn(public, 3, 32, 32), torch.randint(10, (public,))) if public else (None, None)
candidates = Candidates(torch.randn(len(labels), 3, 32, 32), labels, pools, *others)
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
before = peak()
wall, processor = time.perf_counter(), time.process_time()
assert Identifier().scores(observation, candidates, seed=0).isfinite().all()
print(time.perf_counter() - wall, time.process_time() - processor, before, peak())
"""

CASES = {
    "lenet, 128 x 1,000": ("noise", "lenet", 128, 1000, 1, 0),
    "lenet, 128 x 1,000, pruning": ("pruning", "lenet", 128, 1000, 1, 0),
    "mlp, 128 x 1,000": ("noise", "mlp", 128, 1000, 1, 0),
    "mlp, 128 x 1,000, pruning": ("pruning", "mlp", 128, 1000, 1, 0),
    "resnet18, 16 x 200": ("noise", "torchvision:resnet18", 16, 200, 1, 0),
    "lenet, 128 x 1,000, batches of 64": ("noise", "lenet", 128, 1000, 64, 2000),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read as Linux tells it")
@pytest.mark.parametrize("case", CASES)
def test_time_and_memory(benchmark, case):
    def identify() -> list[float]:
        said = subprocess.run([sys.executable, "-c", IDENTIFICATION, *map(str, CASES[case])], cwd=Path(__file__).parent, check=True,
                              capture_output=True, text=True)
        return [float(number) for number in said.stdout.split()]

    wall, processor, before, peak = benchmark.pedantic(identify, rounds=1)
    benchmark.extra_info.update(seconds=wall, processor_seconds=processor, bytes_before=before, peak_bytes=peak)
    print(f"\n{case}: {wall:.1f} s, {processor:.1f} s of the processor; peak of the process {peak / 2**30:.2f} GiB, "
          f"{before / 2**30:.2f} before")
