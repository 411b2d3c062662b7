"""Reading what is on disk: whatever it is, it ends in success or a one-line error."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_cases import grid_of, run

from benchmark.errors import InputError
from benchmark.store import results
from reports.gallery import Pictures
from reports.leaderboard import build
from reports.submission import record


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "run"
    run(grid_of(shapes, seeds=[0], attacks=["inverting-gradients(iterations=1)", "likelihood(iterations=1)"]), folder)
    return folder


def read(folder):
    """All that a report reads."""
    found = results.read_run(folder)
    for section in build([found]):
        pictures = Pictures(section)
        (folder / "out" / "assets").mkdir(parents=True, exist_ok=True)
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


def test_keys_of_cells_do_not_lead_out_of_the_folder(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    manifest = json.loads((finished / "run.json").read_text())
    manifest["cells"]["../../../secret"] = next(iter(manifest["cells"].values()))
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"run\.json: cells.*should match pattern"):
        results.read_run(tmp_path / "run")
