"""Every defense, model and attack on fake tensors of a GPU; in a process of its own, see :mod:`fake_cuda`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attacks
import defenses


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU")
def test_steps_on_a_fake_gpu():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = Path(__file__).parents[2] / "fake_cuda.py"
    finished = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=900, env=environment)
    assert finished.returncode == 0, finished.stderr[-3000:]
    lines = finished.stdout.splitlines()
    assert [line for line in lines if ": ok" not in line and ": does not apply: " not in line] == []
    done = {line.split(": ")[0] for line in lines if line.endswith(": ok")}
    assert {name.split(" / ")[2] for name in done} == {"training", *(cls.name for cls in attacks.registry if not cls.of_others)}
    built_in = {cls.name for cls in defenses.registry if cls.__module__.startswith("defenses.") and not cls().guarantees}
    assert {name.split(" / ")[0].partition("(")[0] for name in done} == built_in
