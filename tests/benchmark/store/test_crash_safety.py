"""A run that is killed, or whose files are damaged, goes on and ends with the tables of an undisturbed one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap

import pandas as pd
import pytest
from run_cases import CPU, Silent, comparable, grid_of, run, stop_by_ctrl_c, trials

from benchmark.errors import InputError
from benchmark.measure import interrupts
from benchmark.run import runner
from benchmark.store import recording, run_lock


@pytest.mark.parametrize("grid", [
    """grid_of(shapes, seeds=list(range(8)), attacks=["inverting-gradients(iterations=20)"],
               evaluation={"checkpoints": [0, -1], "victims": 3, "observed": [2], "candidates": 5})""",
    """tuned_grid_of(shapes, seeds=[0], defenses=["none", "noise(std=[0.001, 0.01, 0.1])"],
                     tuning={"step_sizes": [1e-4, 1e-3, 3e-3, 1e-2], "batch_sizes": [2, 4, 8]})"""], ids=["cells", "trials"])
def test_twenty_kills_at_random_moments(shapes, tmp_path, grid):
    """Each attempt is a process of its own that is killed (SIGKILL) after a random time; the last one may finish."""
    script = textwrap.dedent(f"""
        import os, random, signal, sys, time
        import torch
        from run_cases import CPU, Silent, grid_of, tuned_grid_of
        from benchmark.run import runner
        torch.set_num_threads(1)
        shapes = {str(shapes)!r}
        moments = random.Random(0)
        kills = 0

        def start(name):
            child = os.fork()
            if child == 0:
                runner.run(runner.prepare(eval({grid!r}), __import__("pathlib").Path({str(tmp_path)!r}) / name, CPU), Silent())
                os._exit(0)
            return child

        def end(child):
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        while kills < 20:
            child = start("run")
            time.sleep(moments.uniform(0.02, 0.6))
            os.kill(child, signal.SIGKILL)
            kills += end(child) == -signal.SIGKILL
        # The undisturbed run in a process of the same kind: another number of threads rounds differently.
        sys.exit(end(start("run")) or end(start("whole")))
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment)
    assert finished.returncode == 0, finished.stderr
    for first, second in zip(comparable(tmp_path / "run"), comparable(tmp_path / "whole"), strict=True):
        pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(trials(tmp_path / "run"), trials(tmp_path / "whole"))
    assert not list((tmp_path / "run").glob("*/.*")) and not (tmp_path / "run" / "damaged").exists()


@pytest.mark.parametrize("left", [[".lock"], [".lock", ".run.json.12"], [".run.json.7"], ["run.json"]])
def test_a_run_that_was_killed_while_it_claimed_its_folder_goes_on(shapes, tmp_path, left):
    """At each step between an empty folder and one with a lock, a description and a place for cells."""
    grid, out = grid_of(shapes, seeds=[0]), tmp_path / "run"
    runner.prepare(grid, out, CPU).lock.release()
    (out / "cells").rmdir()
    (out / "trials").rmdir()
    content = (out / "run.json").read_text()
    for path in out.iterdir():
        path.unlink()
    for name in left:
        (out / name).write_text(content if name == "run.json" else content[:100])
    assert run(grid, out) == runner.Outcome(kept=0, finished=2, failed=0)
    assert {path.name for path in out.iterdir()} == {".lock", "run.json", "trials", "cells"}
    (out / "run.json").unlink()
    with pytest.raises(InputError, match="exists and is not a run of leakboard"):
        runner.prepare(grid, out, CPU)


@pytest.mark.parametrize("name", [
    "trained/training.parquet", "trained/checkpoint-0002.safetensors", "trained/part.json", "attack-*/reconstructions.parquet",
    "attack-*/images.npz", "attack-*/part.json", "identification-*/identifications.parquet", "identification-*/part.json"])
@pytest.mark.parametrize("harm", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"\0" * len(content)],
                         ids=["cut off", "empty", "zeros"])
def test_a_damaged_part_of_a_cell_is_set_aside_and_measured_again(shapes, tmp_path, name, harm):
    grid = grid_of(shapes, defenses=["none"], evaluation={"checkpoints": [-1], "victims": 3, "observed": [2], "candidates": 5})
    run(grid, tmp_path / "run")
    before = comparable(tmp_path / "run")
    file = sorted((tmp_path / "run").glob(f"cells/*/{name}"))[0]
    file.write_bytes(harm(file.read_bytes()))
    display = Silent()
    assert run(grid, tmp_path / "run", display) == runner.Outcome(kept=1, finished=1, failed=0)
    assert str(file) in display.messages[0] and "was moved to" in display.messages[0]
    assert (tmp_path / "run" / "damaged" / f"{file.parents[1].name}-{file.parent.name}" / file.name).is_file()
    for first, second in zip(before, comparable(tmp_path / "run"), strict=True):
        pd.testing.assert_frame_equal(first, second)


def test_a_second_run_in_the_folder_is_refused_until_the_first_ends(shapes, tmp_path):
    grid = grid_of(shapes, seeds=[0])
    plan = runner.prepare(grid, tmp_path / "run", CPU)
    with pytest.raises(InputError, match="another run is working in"):
        runner.prepare(grid, tmp_path / "run", CPU)
    runner.run(plan, Silent())
    assert run(grid, tmp_path / "run").kept == 2


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""
        import pathlib, time
        from benchmark.store import run_lock
        held = run_lock.lock(pathlib.Path({str(tmp_path)!r}))
        print("held", flush=True)
        time.sleep(60)
    """)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another run"):
        run_lock.lock(tmp_path)
    holder.kill()
    holder.wait()
    run_lock.lock(tmp_path).release()


def test_a_full_disk_ends_the_run_in_one_line_and_keeps_the_finished_cells(shapes, tmp_path, monkeypatch):
    import errno
    grid = grid_of(shapes)
    write, calls = recording.write_table, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    monkeypatch.setattr(recording, "write_table", full)
    with pytest.raises(InputError, match="No space left on device; what is finished so far is kept"):
        run(grid, tmp_path / "run")
    assert len(list((tmp_path / "run" / "cells").glob("*/*/part.json"))) == 3 and not list((tmp_path / "run" / "cells").glob(".*"))
    monkeypatch.undo()
    assert run(grid, tmp_path / "run") == runner.Outcome(kept=1, finished=3, failed=0)


def test_ctrl_c_stops_and_says_how_to_go_on(shapes, tmp_path):
    code, error, _ = stop_by_ctrl_c(shapes, tmp_path / "run")
    assert code == 130 and "what is finished is kept" in error and "goes on from there" in error, error


def test_ctrl_c_that_a_callback_swallowed_is_heeded_at_the_next_step():
    before = signal.getsignal(signal.SIGINT)
    with interrupts.heeded():
        interrupts.check()
        with contextlib.suppress(KeyboardInterrupt):  # as what is called from C does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("where", ["run", "."])
def test_a_read_only_folder_is_one_line(shapes, tmp_path, where):
    """The folder of the run, or the one that it is to be made in. As another user where the tests run as root, to whom nothing is
    read-only."""
    (tmp_path / "run").mkdir()
    script = textwrap.dedent(f"""
        import os, pathlib
        from run_cases import CPU, grid_of
        from benchmark.run import runner
        from benchmark.errors import InputError
        out = pathlib.Path({str(tmp_path)!r})
        grid = grid_of({str(shapes)!r})
        runner.prepare(grid, out / "other", CPU).lock.release()  # imports all that is needed
        found = runner.identify(grid, CPU)
        runner.identify = lambda *arguments, **others: found  # the other user may not read the data
        os.chdir(out)
        pathlib.Path({where!r}).chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            runner.prepare(grid, pathlib.Path("run" if {where!r} == "run" else "new"), CPU)
        except InputError as error:
            print(error)
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, env=environment)
    assert finished.stdout.splitlines() == [f"cannot write the output folder {'run' if where == 'run' else 'new'}: Permission denied"], finished
