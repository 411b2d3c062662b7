"""Checks see what they are there for: each with a defect put in."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch

import attacks
import defenses
from attacks.engine import memory
from attacks.engine.structured import StructuredStep
from attacks.search.signed_adam import SignedAdam
from gpu import agreement, cases, client_steps, every, machine, matching, memory_use, recorded_steps
from gpu.checks import MISSED, PASSED, SKIPPED, Bench

CPU = torch.device("cpu")
RUN = Path(__file__).with_name("run.py")
CASE = {"defense": "precode", "attack": "inverting-gradients", "model": "small lenet", "observed": "single", "knowledge": "informed"}


def bench() -> Bench:
    return Bench(CPU, tiny=True, until=time.monotonic() + 300)


def test_what_is_registered_is_covered():
    factors = agreement.factors()
    assert set(defenses.registry.names()) < set(factors["defense"]) and factors["attack"] == [cls.name for cls in attacks.registry if not cls.of_others]
    assert {"lenet", "mlp"} < set(factors["model"])
    assert len({check.name for check in every.CHECKS}) == len(every.CHECKS)


def test_agreement_sees_an_error_of_the_device():
    assert agreement._compared(CASE, CPU, CPU).status == PASSED
    with mock.patch.object(agreement, "outcome", _last_one_wrong(agreement.outcome)):
        assert agreement._compared(CASE, CPU, CPU).status == MISSED


def _last_one_wrong(original):
    asked = []

    def outcome(*arguments):
        found = original(*arguments)
        asked.append(arguments)
        if len(asked) == 4:  # float32 on the device
            found.steps[0] = (found.steps[0][0] * 1.01, found.steps[0][1])
        return found

    return outcome


def test_a_clients_noise_is_replayed():
    (first, _), (second, _) = (client_steps.client("precode+noise(std=0.001)", "small mlp", CPU, dtype) for dtype in (torch.float64, torch.float32))
    assert max(cases.distance(second[name], first[name]) for name in first) < 1e-5
    with mock.patch.object(client_steps, "SameDraws", contextlib.nullcontext):
        other, _ = client_steps.client("precode+noise(std=0.001)", "small mlp", CPU, torch.float32)
    assert max(cases.distance(other[name], first[name]) for name in first) > 1e-2


def test_half_precision_is_seen():
    with client_steps.ProductTypes() as seen:
        torch.ones(2, 2).half() @ torch.ones(2, 2).half()
    assert seen.types == {torch.float16: 1} and seen.halves


def test_a_recorded_step_that_does_not_see_a_refill_is_seen():
    observation = recorded_steps.observe("none", "lenet", 5, side=8)

    def rows():
        with recorded_steps.rehearsed(bench()):
            return list(recorded_steps._case(bench(), "x", observation, 4))

    assert rows()[0].status == PASSED

    def stale(step, images, noise):
        kept = [(held, held.value.clone()) for held in step.slots._held]

        def run(images, noise):
            now = [(held, held.value) for held, _ in kept]
            for held, value in kept:
                held.value = value
            try:
                return step(images, noise)
            finally:
                for held, value in now:
                    held.value = value
        return run

    with mock.patch("attacks.engine.matcher.recorded_or_plain", stale):
        assert rows()[0].status == MISSED
    with mock.patch("attacks.engine.matcher.recorded_or_plain", lambda step, images, noise: step):
        row = rows()[0]
    assert row.status == MISSED and "NOT recorded" in row.found


def test_steps_that_disagree_are_seen():
    observation = cases.moved(cases.made("none", "small mlp", "single").observation, CPU, torch.float32)
    assert matching._compared("x", observation, 3).status == PASSED
    original = StructuredStep.__call__
    with mock.patch.object(StructuredStep, "__call__", lambda self, *given: tuple(1.01 * t for t in original(self, *given))):
        assert matching._compared("x", observation, 3).status == MISSED


def test_an_attack_that_is_not_halved_or_goes_another_way_is_seen():
    assert next(iter(memory_use.halving_rows(bench()))).status == PASSED
    with mock.patch.object(memory, "is_out_of_memory", lambda error: False), pytest.raises(torch.cuda.OutOfMemoryError):
        next(iter(memory_use.halving_rows(bench())))
    original, calls = SignedAdam.step, []

    def other_way(self, derivative, by_others, sizes):
        calls.append(len(derivative))
        original(self, -derivative if calls[-1] <= 8 else derivative, by_others, sizes)

    with mock.patch.object(SignedAdam, "step", other_way):
        assert next(iter(memory_use.halving_rows(bench()))).status == MISSED


def test_an_estimate_that_is_too_low_is_seen():
    with mock.patch.object(memory_use, "_HALF", 0.01):
        assert next(iter(memory_use.rows(bench()))).status == MISSED
    assert next(iter(memory_use.rows(bench()))).status == PASSED


def run_without(packages: set[str], tmp_path: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    """The command on a machine that lacks packages, and its report."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({sorted(packages)!r}))\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, str(RUN), "--device", "cpu", "--out", str(tmp_path / "report"), *options], capture_output=True,
                          text=True, timeout=300, env=environment, cwd=RUN.parents[2])
    path = tmp_path / "report.json"
    return said, json.loads(path.read_text()) if path.exists() else {}


def test_with_torch_alone_it_names_what_is_missing_and_goes_on(tmp_path):
    packages = set(machine.NEEDED)
    said, content = run_without(packages, tmp_path, "--only", "peaks,bf16,client-steps,training-speeds,ray,whole-command")
    assert said.returncode == 0, said.stdout + said.stderr
    assert set(content["missing"]) >= packages and all(f"missing: {name} (" in said.stdout for name in packages)
    assert content["versions"]["opacus"] is None and content["peaks"]["bytes_per_second"] > 0
    status = {entry["name"]: entry["status"] for entry in content["checks"]}
    assert status["client-steps"] == status["bf16"] == PASSED and status["ray"] == status["whole-command"] == SKIPPED
    assert any(row["reason"] == "needs opacus" for entry in content["checks"] for row in entry["rows"])


def test_bad_input_is_one_line(tmp_path):
    said, _ = run_without(set(), tmp_path, "--only", "nothing")
    assert said.returncode == 2 and said.stderr.strip().splitlines() == [line for line in said.stderr.splitlines() if "unknown checks nothing" in line]
    said, _ = run_without({"torch"}, tmp_path)
    assert said.returncode == 2 and "has no torch" in said.stderr


@pytest.mark.parametrize(("end", "said_of"), [("os.kill(os.getpid(), signal.SIGSEGV)", "code -11"), ("class Other(BaseException): pass\n    raise Other", "code 1")])
def test_a_process_that_crashes_is_begun_anew_for_the_rest(tmp_path, end, said_of):
    """The first check ends its process as a crash does, or by what no check catches."""
    (tmp_path / "crash.py").write_text(f"""
import os, signal, sys
sys.path[:0] = [{str(RUN.parents[2])!r}, {str(RUN.parents[1])!r}, {str(RUN.parents[1] / 'perf')!r}]
from gpu import every, run
from gpu.checks import Check, measured
def crashes(bench):
    yield measured("before", "")
    import time; time.sleep(1.1)
    {end}
    yield measured("after", "")
every.CHECKS = (Check("crash", "?", 5, crashes), Check("next", "?", 5, lambda bench: iter([measured("x", "")])))
if "--worker" in sys.argv:
    sys.exit(run.main())
sys.exit(run.supervise(run.arguments(), [sys.executable, __file__]))
""")
    said = subprocess.run([sys.executable, str(tmp_path / "crash.py"), "--device", "cpu", "--out", str(tmp_path / "r")], capture_output=True,
                          text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})
    content = json.loads((tmp_path / "r.json").read_text())
    assert said.returncode == 1, said.stdout + said.stderr
    assert [(entry["name"], entry["status"]) for entry in content["checks"]] == [("crash", "failed"), ("next", "measured")]
    assert said_of in content["checks"][0]["reason"]
