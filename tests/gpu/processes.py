"""The same work in two processes at once, and on a second GPU."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from speed_cases import observe

import attacks
from gpu.checks import Bench, Check, Row, judged, measured, skipped

_AGAIN = Path(__file__).with_name("again.py")


def rows(bench: Bench) -> Iterator[Row]:
    """Two processes: weights and images bit for bit."""
    with tempfile.TemporaryDirectory(prefix="leakboard-gpu-") as folder:
        outs = [Path(folder) / f"{i}.pt" for i in range(2)]
        running = [subprocess.Popen([sys.executable, str(_AGAIN), str(bench.device), str(bench.tiny), str(out)], stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True) for out in outs]
        try:
            said = [process.communicate(timeout=max(1.0, bench.left()))[0] for process in running]
        except subprocess.TimeoutExpired:
            yield judged("two processes", False, f"not done after {CHECK.seconds:.0f} s", "both end")
            return
        finally:
            for process in running:
                process.kill()
                process.wait()
        for process, text in zip(running, said, strict=True):
            if process.returncode:
                yield judged("two processes", False, f"exit code {process.returncode}: {' '.join(text.split()[-60:])}", "both end")
                return
        first, second = (torch.load(out, weights_only=True) for out in outs)
    yield measured("what the attack said", "; ".join(first["said"]) or "nothing", said=first["said"])
    apart = max(float((first["weights"][name] - weight).abs().max()) for name, weight in second["weights"].items())
    yield judged("weights after a training", all(torch.equal(first["weights"][name], weight) for name, weight in second["weights"].items()),
                 f"apart by at most {apart:.2g}", "equal bit for bit", apart=apart)
    apart = float((first["images"] - second["images"]).abs().max())
    yield judged("images of an attack", torch.equal(first["images"], second["images"]), f"apart by at most {apart:.2g}", "equal bit for bit",
                 apart=apart, share=float((first["images"] != second["images"]).double().mean()))


def second_gpu_rows(bench: Bench) -> Iterator[Row]:
    """An attack on the second GPU leaves the first one alone."""
    if torch.cuda.device_count() < 2:
        yield skipped("cuda:1", f"there are {torch.cuda.device_count()} GPUs")
        return
    from benchmark.measure import device as devices

    before = torch.cuda.memory_allocated(0)
    try:
        observation = observe("none", "lenet", 4, device=devices.choose("cuda:1"))
        found = attacks.create("inverting-gradients(iterations=5)").reconstruct(observation, seed=0)
        taken = torch.cuda.memory_allocated(0) - before
    finally:
        devices.choose(str(bench.device))
        torch.cuda.set_device(bench.device)
    yield judged("cuda:1", taken == 0 and found.images.device.index == 1, f"{taken} bytes on the first GPU", "none")


CHECK = Check("two-processes", "Does the same command come to the same, bit for bit, in two processes?", 75, rows)
SECOND_GPU_CHECK = Check("second-gpu", "Does --device cuda:1 leave the first GPU alone?", 15, second_gpu_rows, gpu_only=True)
