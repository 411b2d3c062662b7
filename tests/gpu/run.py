"""``python tests/gpu/run.py [--device cuda]``: all checks, in a process that is begun anew where one of them crashes it.

Exit codes: 0 nothing failed, 1 a check failed or missed what was asked, 2 it could not begin.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # the folder of this file would hide other packages by the names of its modules
    sys.path[:1] = [str(_TESTS.parent), str(_TESTS), str(_TESTS / "perf")]

from gpu.report import Report  # noqa: E402

#: Seconds for all checks: below eight minutes with what comes before and after.
BUDGET = 450.0
#: After its time a process is ended that does not end by itself.
_GRACE = 15.0


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="What only a GPU can show; writes gpu-report.md and gpu-report.json.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:NUMBER, or cpu to rehearse at tiny sizes")
    parser.add_argument("--out", default="gpu-report", type=Path, help="of the report, without an ending")
    parser.add_argument("--seconds", default=BUDGET, type=float, help="for all checks")
    parser.add_argument("--only", default="", help="names of checks, joined by commas")
    parser.add_argument("--skip", default="", help="names of checks, joined by commas")
    parser.add_argument("--tiny", action=argparse.BooleanOptionalAction, default=None, help="sizes of a rehearsal; on a CPU by default")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(given)
    if chosen.tiny is None:
        chosen.tiny = not chosen.device.startswith("cuda")
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    """The command."""
    chosen = arguments(given)
    if chosen.worker:
        return work(chosen)
    if importlib.util.find_spec("torch") is None:
        print(f"error: {sys.executable} has no torch, which is all that is needed", file=sys.stderr)
        return 2
    return supervise(chosen, [sys.executable, str(Path(__file__).resolve())])


def supervise(chosen: argparse.Namespace, program: Sequence[str]) -> int:
    """Let another process do the checks, and one more the rest where it crashed or hung."""
    end = time.monotonic() + chosen.seconds
    report = Report.begun(chosen.out, device=chosen.device, tiny=chosen.tiny, budget_seconds=chosen.seconds)
    report.write(now=True)
    while True:
        left = max(0.0, end - time.monotonic())
        command = [*program, "--worker", "--device", chosen.device, "--out", str(chosen.out), "--seconds", f"{left:.1f}",
                   "--only", chosen.only, "--skip", chosen.skip, "--tiny" if chosen.tiny else "--no-tiny"]
        worker = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1", "CUBLAS_WORKSPACE_CONFIG": os.environ.get(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8")})
        try:
            code = _ended(worker, chosen.out, left + _GRACE)
        finally:
            worker.kill()
            worker.wait()
        reason = "it hung, and its process was ended" if code is None else f"its process ended with code {code}"
        report = Report.read(chosen.out)
        if code in (0, 1, 2) and not report.running:
            break
        begun = len(report.content["checks"])
        report.fail_running(reason)
        print(f"!! {reason}; going on with the other checks", flush=True)
        if end - time.monotonic() < 1 or not begun:
            break
    report.write(now=True)
    print(f"\n{report.path.with_suffix('.md')} and .json: {report.content['summary']}, {report.content['seconds']:.0f} s", flush=True)
    if code == 2:
        return 2
    return 1 if report.bad or code != 0 else 0


def _ended(worker: subprocess.Popen[bytes], out: Path, seconds: float) -> int | None:
    """The exit code of a process; None where it does not end in time, or a check in it goes on for longer than it may."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return worker.wait(timeout=1)
        except subprocess.TimeoutExpired:
            if Report.read(out).hangs(_GRACE):
                return None
    return None


def work(chosen: argparse.Namespace) -> int:
    """Run the checks that the report does not have yet, in this process."""
    import logging
    import warnings

    import torch

    from benchmark.measure import device as devices
    from gpu import machine, runner
    from gpu.checks import Bench
    from gpu.every import CHECKS

    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING)
    report = Report.read(chosen.out)
    try:
        device = devices.choose(chosen.device)
    except Exception as error:  # one line, whatever is wrong with a driver
        print(f"error: {error}", file=sys.stderr)
        return 2
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
        torch.ones(1, device=device)
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    names = [check.name for check in CHECKS]
    only, skip = (set(filter(None, text.split(","))) for text in (chosen.only, chosen.skip))
    if unknown := (only | skip) - set(names):
        print(f"error: unknown checks {', '.join(sorted(unknown))}; expected some of {', '.join(names)}", file=sys.stderr)
        return 2
    report.content.update(machine=machine.facts(device), versions=machine.versions(), missing=machine.missing())
    bench = Bench(device, chosen.tiny, kept=report.content["peaks"], tell=lambda text: print(text, flush=True))
    for name, what in report.content["missing"].items():
        bench.tell(f"missing: {name} ({what})")
    wanted = [check for check in CHECKS if check.name not in report.done() | skip and (not only or check.name in only)]
    try:
        runner.run(wanted, bench, report, chosen.seconds)
    except runner.DeviceLost as error:
        print(f"!! the GPU answers no more: {error}", file=sys.stderr)
        return runner.LOST
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
