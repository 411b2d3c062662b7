"""Cells of a finished run, measured again."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_cases import CPU, Silent, grid_of, run

from benchmark import executors
from benchmark.cli import execute
from benchmark.errors import InputError
from benchmark.run import reproducing
from benchmark.store import results

pytestmark = pytest.mark.usefixtures("short_fits")


@pytest.fixture(scope="module")
def made(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    grid = grid_of(shapes, defenses=["none", "precode"], attacks=["inverting-gradients(iterations=30)", "omit-stochastic(iterations=3)"],
                   evaluation={"checkpoints": [0, -1], "victims": 3, "observed": [2], "candidates": 5})
    run(grid, folder)
    return folder


@pytest.fixture
def finished(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def again(folder, count=2, **arguments):
    sample = reproducing.draw(folder, count, CPU, seed=0, **arguments)
    return reproducing.reproduce(sample, Silent(), executors.Serial())


def change(folder, name, column, alter):
    for file in folder.glob(f"cells/*/*/{name}"):
        table = pq.read_table(file)
        values = [alter(value) for value in table[column].to_pylist()]
        place = table.schema.get_field_index(column)
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type)), file)


def test_a_run_repeats_bit_for_bit_and_is_left_as_it_is(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    compared = again(finished, 4)
    assert len({comparison.spec for comparison in compared}) == 4
    assert all(comparison.identical and comparison.same for comparison in compared)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(("name", "column", "by", "same"), [
    ("reconstructions.parquet", "ssim", 5e-5, True), ("reconstructions.parquet", "ssim", 2e-4, False),
    ("training.parquet", "test_accuracy", 0.01, False), ("reconstructions.parquet", "victim", 1, False)])
def test_a_table_that_says_something_else_is_found(finished, name, column, by, same):
    change(finished, name, column, lambda value: value + by)
    for comparison in again(finished):
        assert not comparison.identical and comparison.same is same
        assert ("same " if same else "DIFFERENT") in comparison.text()


@pytest.mark.parametrize(("column", "alter", "told"), [
    ("better", lambda value: value - 1 if value else 1, ", 1 in the rank of a victim's own image"), ("victim", lambda value: value + 1, ", inf in the rank"),
    ("label_share", lambda value: 0.25, "0 in SSIM")])
def test_a_rank_that_differs_is_found_and_told(finished, column, alter, told):
    """And any other column, which alone makes no difference of results."""
    change(finished, "identifications.parquet", column, alter)
    for comparison in again(finished):
        assert not comparison.identical and comparison.same is (column == "label_share")
        assert told in comparison.text() and comparison.text().startswith("same " if comparison.same else "DIFFERENT ")


def test_data_that_changed_and_plugins_that_are_missing_are_refused(finished):
    manifest = json.loads((finished / "run.json").read_text())
    for section, message in ((("fingerprints", next(iter(manifest["determinants"]["fingerprints"]))), "is not that of the run"),
                             (("plugins", "mine.py"), "is not given; name it with --plugin")):
        changed = json.loads(json.dumps(manifest))
        changed["determinants"][section[0]][section[1]] = "0" * 64
        (finished / "run.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            reproducing.draw(finished, 1, CPU)
    with pytest.raises(InputError, match="--sample must be at least 1"):
        reproducing.draw(finished, 0, CPU)


def test_the_command(shapes, finished, capsys):
    assert execute(["reproduce", str(finished), "--sample", "1", "--seed", "4"]) == 0
    output = capsys.readouterr().out
    assert "identical  " in output and "1 of 1 cells are the same (to 0.0001 in test accuracy and SSIM; ranks exactly)" in output
    change(finished, "reconstructions.parquet", "ssim", lambda value: value + 0.1)
    assert execute(["reproduce", str(finished), "--sample", "1"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out
    manifest = results.read_manifest(finished)
    manifest["provenance"]["hardware"] = "an abacus"
    (finished / "run.json").write_text(json.dumps(manifest))
    assert execute(["reproduce", str(finished), "--sample", "1"]) == 1
    assert "leakboard: hardware was 'an abacus', is " in capsys.readouterr().err
    assert execute(["reproduce", str(finished / "nowhere")]) == 2


def test_a_failure_is_told(finished, monkeypatch):
    monkeypatch.setattr("benchmark.measure.measuring.train", lambda *arguments, **others: 1 / 0)
    (comparison,) = again(finished, 1)
    assert not comparison.same and "ZeroDivisionError" in comparison.text()
