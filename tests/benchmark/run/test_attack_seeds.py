"""Images are rebuilt in the seeds that a grid names, and all else is measured in all of them."""

from __future__ import annotations

import pytest
from run_cases import CPU, Silent, comparable, grid_of, run

from benchmark.errors import InputError
from benchmark.executors import Serial
from benchmark.measure import measuring
from benchmark.run import planning, reproducing, runner
from benchmark.store import results
from reports import leaderboard


def grid_with(shapes, **changes):
    evaluation = {"checkpoints": [0], "victims": 3, "observed": [1], "candidates": 5, **changes}
    return grid_of(shapes, defenses=["none"], seeds=[0, 1], attacks=["inverting-gradients(iterations=3)"], evaluation=evaluation)


def attacked(folder):
    return {seed: len(rows) for seed, rows in comparable(folder)[1].groupby("seed")}


def test_only_these_are_attacked_and_more_are_added_without_training(shapes, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert run(grid_with(shapes, attack_seeds=[0]), folder).finished == 2
    assert attacked(folder) == {0: 3}
    trained, _, identified = comparable(folder)
    assert set(trained["seed"]) == set(identified["seed"]) == {0, 1}
    plan = runner.identify(grid_with(shapes, attack_seeds=[0]), CPU)
    assert {cell.state for cell in planning.planned(plan, folder)} == {"done"}
    for name in ("train", "identify"):
        monkeypatch.setattr(measuring, name, lambda *arguments, name=name, **others: pytest.fail(f"{name} again"))
    assert run(grid_with(shapes), folder) == runner.Outcome(kept=1, finished=1, failed=0)
    assert attacked(folder) == {0: 3, 1: 3}
    with pytest.raises(InputError, match=r"attack_seeds was \[0, 1\] there and is \[0\] now; seeds can be added"):
        run(grid_with(shapes, attack_seeds=[0]), folder)


def test_a_board_is_one_in_whichever_seeds_images_are_rebuilt_and_cells_reproduce(shapes, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    run(grid_with(shapes, attack_seeds=[1]), folder)
    run(grid_with(shapes), other)
    (one,), (both,) = (leaderboard.build([results.read_run(path)]) for path in (folder, other))
    assert one.board.protocol == both.board.protocol
    assert {entry.images for entry in one.board.entries} == {3} and {entry.images for entry in both.board.entries} == {6}
    sample = reproducing.draw(folder, 2, CPU)
    assert [found.identical for found in reproducing.reproduce(sample, Silent(), Serial())] == [True, True]


def test_they_are_among_the_seeds_of_the_grid(shapes):
    with pytest.raises(InputError, match=r"attack_seeds must be among the seeds \[0, 1\], got 3"):
        grid_with(shapes, attack_seeds=[0, 3])
