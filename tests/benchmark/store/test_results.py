"""Reading what is on disk: whatever it is, it ends in success or a one-line error."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_cases import grid_of, run

from benchmark.errors import InputError
from benchmark.specification import CellSpec
from benchmark.store import recording, results
from benchmark.store.result_files import read_images
from benchmark.store.tables import IDENTIFICATIONS
from reports.gallery import Pictures
from reports.leaderboard import build
from reports.submission import record


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "run"
    run(grid_of(shapes, seeds=[0], attacks=["inverting-gradients(iterations=1)", "likelihood(iterations=1)"],
                training={"epochs": 1}, tuning={"step_sizes": [1e-2], "batch_sizes": [8]},
                evaluation={"checkpoints": [0], "victims": 3, "observed": [2, "as-trained"], "candidates": 5}), folder)
    return folder


def read(folder):
    """All that a report reads."""
    found = results.read_run(folder)
    for section in build([found]):
        (folder / "out" / "assets").mkdir(parents=True, exist_ok=True)
        for mode in section.board.observed:
            pictures = Pictures(section, mode)
            for entry in section.board.entries:
                pictures.of_defense(entry, folder / "out", "x")
            pictures.of_board(folder / "out", "x")
    record(found)


def places(value, path=()):
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


junk = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.just([]), st.just({}), st.just("../../x"))


@given(data=st.data())
def test_any_change_of_a_json_file(finished, data):
    files = sorted(path.relative_to(finished) for path in finished.rglob("*.json"))
    name = data.draw(st.sampled_from(files))
    before = (finished / name).read_text()
    content = json.loads(before)
    path = data.draw(st.sampled_from(list(places(content))))
    value, target = data.draw(junk), content
    for key in path[:-1]:
        target = target[key]
    if not path:
        content = value
    elif isinstance(target, dict) and data.draw(st.booleans()):
        del target[path[-1]]
    else:
        target[path[-1]] = value
    (finished / name).write_text(json.dumps(content))
    try:
        read(finished)
    except InputError as error:
        assert str(finished) in str(error)
    finally:
        (finished / name).write_text(before)


@settings(max_examples=200)  # most damage to a zip file is found by its checksum; some is not
@given(data=st.data())
def test_any_change_of_the_bytes_of_a_file(finished, data):
    files = sorted(path.relative_to(finished) for path in finished.rglob("*") if path.suffix in (".json", ".parquet", ".npz"))
    name = data.draw(st.sampled_from(files))
    before = (finished / name).read_bytes()
    at, what = data.draw(st.integers(0, len(before) - 1)), data.draw(st.binary(max_size=4))
    (finished / name).write_bytes(data.draw(st.sampled_from([before[:at], before[:at] + what + before[at + len(what):], what])))
    try:
        read(finished)
    except InputError as error:
        assert str(finished) in str(error)
    finally:
        (finished / name).write_bytes(before)


@pytest.mark.parametrize(("column", "value"), [
    ("better", 5), ("better", -1), ("better", None), ("tied", 4), ("tied", -1), ("tied", 2**31 - 1), ("candidates", 1), ("candidates", None),
    ("mu", -1.0), ("mu", 0.0), ("label_share", 1.5), ("method", None), ("exact", None), ("victim", None), ("seconds", None),
    ("knowledge", "clairvoyant")])
def test_a_row_that_is_no_rank(finished, tmp_path, column, value):
    shutil.copytree(finished, tmp_path / "run")
    file = min((tmp_path / "run").glob("cells/*/*/identifications.parquet"))
    rows = pq.read_table(file).to_pylist()
    rows[-1] = {**rows[-1], **({"better": 1, "tied": 1} if column in ("tied", "candidates") else {}), column: value}
    pq.write_table(pa.Table.from_pylist(rows, schema=IDENTIFICATIONS), file)
    with pytest.raises(InputError, match=rf"{file.name}: .*the command of the run sets it aside and measures it again"):
        results.read_run(tmp_path / "run")
    assert list(results.damage(file.parents[1])) == [file.parent.name]


def test_what_was_written_is_read(tmp_path):
    """With what there is not in every row."""
    cell = {"dataset": "d", "model": "m", "defense": "none", "seed": 0}
    rows = [{**cell, "defense_params": "{}", "checkpoint_epoch": 0, "observed": "2", "batch_size": 2, "knowledge": knowledge, "method": "cosine", "exact": False, "victim": 0,
             "candidates": 9, "better": 3, "tied": 1, "label_share": share, "mu": mu, "seconds": 0.5}
            for knowledge, share, mu in (("blind", None, None), ("informed", 0.5, 0.1))]
    obstacles = [{"checkpoint_epoch": 4, "knowledge": "blind", "reason": "x"}]
    recording.write_trained(tmp_path, "a" * 20, info={**cell, "checkpoints": [], "seconds": 1.0}, training=[], weights={})
    recording.write_identified(tmp_path, "a" * 20, "b" * 20, info={"observed": "2", "candidates": 9, "inapplicable": obstacles, "seconds": 2.0}, identifications=rows)
    found, missing = results.find_cell(tmp_path, "a" * 20, [], ["b" * 20])
    assert missing == [] and found.unidentified == [{"observed": "2", **obstacle} for obstacle in obstacles] and results.damage(found.folder) == {}
    assert results.with_tables(found, CellSpec(**cell)).identifications.to_pylist() == rows
    assert results.find_cell(tmp_path, "a" * 20, ["c" * 20], ["d" * 20])[1] == ["c" * 20, "d" * 20]
    assert len(results.with_tables(results.find_cell(tmp_path, "a" * 20, [])[0], CellSpec(**cell)).identifications) == 0
    with pytest.raises(InputError, match="rows of seed 0, expected 1"):
        results.with_tables(found, CellSpec(**{**cell, "seed": 1}))
    next(iter(found.identified.values()))["observed"] = "3"
    with pytest.raises(InputError, match="rows of observed '2', expected '3'"):
        results.with_tables(found, CellSpec(**cell))


@pytest.mark.parametrize("array", [
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.empty((0, 1, 3, 8, 8), np.uint8),
    np.array(7, np.int16), np.arange(5, dtype=">f4")], ids=["bytes", "by columns", "none", "one number", "other byte order"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_are_read_as_numpy_reads_them(tmp_path, save, array):
    save(tmp_path / "images.npz", **{"original": array, "epoch 0 both analytic": array})
    found = read_images(tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz") as expected:
        assert list(found) == expected.files
        for name, of in found.items():
            np.testing.assert_array_equal(of, expected[name], strict=True)


@pytest.mark.parametrize("content", [
    b"", b"text", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x09\x00\x76\x00" + b" " * 0x76,
    pytest.param("cut", id="fewer bytes than the shape says"), pytest.param("objects", id="objects")])
def test_an_images_file_that_holds_something_else_is_one_line(tmp_path, content):
    if isinstance(content, str):
        np.save(tmp_path / "a.npy", np.array([{}]) if content == "objects" else np.zeros(9, np.uint8), allow_pickle=True)
        content = (tmp_path / "a.npy").read_bytes()[: None if content == "objects" else -1]
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as archive:
        archive.writestr("original.npy", content)
    with pytest.raises(InputError, match=r"images\.npz is not a readable images file"):
        read_images(tmp_path / "images.npz")


def test_keys_of_cells_do_not_lead_out_of_the_folder(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    manifest = json.loads((finished / "run.json").read_text())
    manifest["cells"]["../../../secret"] = next(iter(manifest["cells"].values()))
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"run\.json: cells.*should match pattern"):
        results.read_run(tmp_path / "run")
