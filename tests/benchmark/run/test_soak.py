"""A long run in one process neither grows nor leaves files open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

SETTLED = 50


@pytest.mark.parametrize("cells", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_many_cells_in_one_process(shapes, tmp_path, cells):
    """The resident memory after the last cell is within a tenth of that after the fiftieth, and no file is left open."""
    script = textwrap.dedent(f"""
        import json, pathlib, psutil, torch
        from opacus.accountants import PRVAccountant
        from run_cases import CPU, Silent, grid_of
        from benchmark.run import runner
        torch.set_num_threads(1)
        PRVAccountant.get_epsilon = lambda accountant, delta: 1.0  # half a second each, and only arithmetic
        process, sizes, files = psutil.Process(), [], []

        class Watching(Silent):
            def end_cell(self, name, text):
                sizes.append(process.memory_info().rss)
                files.append(process.num_fds())

        grid = grid_of({str(shapes)!r}, models=["lenet"], defenses=["none", "precode", "noise", "pruning", "dp-sgd"],
                       seeds=list(range({cells // 5})), attacks=["inverting-gradients(iterations=2)", "analytic"],
                       training={{"epochs": 1, "batch_size": 16}}, evaluation={{"victims": 2, "checkpoints": [-1]}})
        plan = runner.prepare(grid, pathlib.Path({str(tmp_path / "run")!r}), CPU)
        before = process.num_fds() - 1  # the lock
        outcome = runner.run(plan, Watching())
        print(json.dumps({{"finished": outcome.finished, "sizes": sizes, "files": files, "before": before, "after": process.num_fds(),
                           "open": [file.path for file in process.open_files()]}}))
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, env=environment)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found["finished"] == cells
    settled, end = found["sizes"][SETTLED - 1], found["sizes"][-1]
    assert abs(end - settled) <= 0.1 * settled, [size // 2**20 for size in found["sizes"][::25]]
    assert found["after"] <= found["before"] and found["files"][SETTLED - 1] == found["files"][-1]
    assert not [path for path in found["open"] if str(tmp_path) in path]
