"""Figures: they show what their data says, and say it to who cannot see them."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from report_cases import write_cells

from benchmark.specification import AS_TRAINED, SINGLE
from benchmark.store.results import read_run
from reports.board_files import draw_board
from reports.drawing import Palette
from reports.families import is_safe
from reports.heat_map import heat_maps
from reports.labels import spread
from reports.leaderboard import build
from reports.tradeoff_data import ASR, TOP1, facts, points, strength
from reports.tradeoff_figure import _wide, tradeoff_figure

SVG = "{http://www.w3.org/2000/svg}"
FAMILIES = [("none", None, ["none"]), ("noise(std)", "std", ["noise(std=0.1)", "noise(std=0.01)"]), ("dp-sgd(target_epsilon)", "target_epsilon", ["dp-sgd(target_epsilon=3.0)"])]
#: Accuracy, SSIM and rank of every victim (-1), how many candidates are before it, and epsilon.
MEASURED = {"none": (0.9, 0.9, 0, None), "noise(std=0.1)": (0.5, 0.1, 90, None), "noise(std=0.01)": (0.8, 0.7, 0, None),
            "dp-sgd(target_epsilon=3.0)": (0.7, 0.1, 150, 2.97)}


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    """Four defenses in three families, two modes, two checkpoints, tuned; the second trial of each is chosen, one diverged."""
    cells = {("digits", "lenet", name, 0): {
        "accuracies": [0.1, 0.3, accuracy], "training": {"epsilon": [epsilon] * 3, "delta": [epsilon and 1e-5] * 3},
        "attacks": {(epoch, "a", "informed", mode): [ssim] * 64 for mode in (AS_TRAINED, SINGLE) for epoch in (0, 2)},
        "identifications": {(epoch, "informed", mode): {"better": [better] * 64, "mu": [epsilon and 1.0] * 64} for mode in (AS_TRAINED, SINGLE) for epoch in (0, 2)}}
        for name, (accuracy, ssim, better, epsilon) in MEASURED.items()}
    trials = {("digits", "lenet", name): [(1e-3, 8, 0.5, 0.5), (1e-2, 8, 0.6, 0.5), (1e-1, 8, 0.9, float("nan")), (1e-3, 64, 0.4, 0.5)] for name in MEASURED}
    run = write_cells(tmp_path_factory.mktemp("figures") / "run", cells, epochs=2, attacks=["a"], victims=64, candidates=200, families=FAMILIES,
                      observed=(AS_TRAINED, SINGLE), trials=trials)
    return build([read_run(run)])[0]


@pytest.fixture(scope="module")
def palette():
    return Palette([(name, defenses) for name, _, defenses in FAMILIES], ["none"])


def test_the_points_are_those_of_the_board(section):
    board, data = section.board, points(section.board)
    assert sorted(data["defense"]) == sorted([*MEASURED] * 2) and set(data["measure"]) == {ASR, TOP1} and set(data["observed"]) == {AS_TRAINED}
    for row in data.itertuples():
        entry = next(entry for entry in board.entries if entry.defense == row.defense)
        seen = entry.seen(AS_TRAINED)
        leakage = seen.worst_case.asr if row.measure == ASR else seen.identified.compared.rate
        assert (row.leakage, row.leakage_low, row.leakage_high) == (leakage.mean, leakage.low, leakage.high)
        assert row.test_accuracy == entry.accuracy.mean and row.safe == is_safe(board, entry, AS_TRAINED)
        assert row.undefended == (row.defense == "none") and row.chance_accuracy == 0.1
        assert row.safe_up_to == (0.05 if row.measure == ASR else pytest.approx(0.06))
        assert row.epsilon == pytest.approx(2.97) if row.defense.startswith("dp") else np.isnan(row.epsilon)
    assert dict(zip(data["defense"], data["safe"], strict=True))["dp-sgd(target_epsilon=3.0)"]


def test_what_is_drawn_is_the_data_beside_it(section, palette, tmp_path):
    (tmp_path / "assets").mkdir()
    drawn = tradeoff_figure(section.board, palette, tmp_path, "assets/x")
    written = pd.read_csv(tmp_path / "assets" / "x.csv", keep_default_na=False, na_values=[""], dtype={"strength": str})
    written = written.fillna({"submission": "", "strength": ""})
    pd.testing.assert_frame_equal(written, points(section.board), check_dtype=False)
    assert drawn.wide.data and not drawn.narrow.data
    for axes, measure in zip(_wide(section.board, palette, written, [ASR, TOP1]).axes, (ASR, TOP1), strict=True):
        shown = np.concatenate([collection.get_offsets() for collection in axes.collections if isinstance(collection, PathCollection)])
        rows = written[written["measure"] == measure]
        assert sorted(map(tuple, shown)) == sorted(map(tuple, rows[["leakage", "test_accuracy"]].to_numpy()))


def test_every_figure_has_text_a_description_and_its_data(section, palette, tmp_path):
    (tmp_path / "assets").mkdir()
    files = draw_board(section, palette, tmp_path, "page")
    pictures = [picture.drawn for picture in (*files.curves, *files.pools)] + [files.tradeoff.wide, files.tradeoff.narrow]
    assert {picture.file for picture in pictures} == {f"assets/page-{name}" for name in (
        "accuracy", "epochs", "as-trained-ssim", "single-ssim", "as-trained-pools", "single-pools", "tradeoff", "tradeoff-narrow")}
    for picture in pictures:
        root = ElementTree.parse(tmp_path / f"{picture.file}.svg").getroot()
        named = {root.find(f"{SVG}title").get("id"), root.find(f"{SVG}desc").get("id")}
        assert root.get("role") == "img" and set(root.get("aria-labelledby").split()) == named
        assert root.find(f"{SVG}desc").text == picture.description and len(picture.description) > 60
        texts = {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
        assert len(texts) > 5 and any("noise" in text for text in texts)
        assert picture.width < 1300 and (picture.data is (tmp_path / f"{picture.file}.csv").exists())
        assert picture.data or picture is files.tradeoff.narrow
    for name in ("tradeoff", "tradeoff-narrow"):
        texts = {"".join(text.itertext()) for text in ElementTree.parse(tmp_path / "assets" / f"page-{name}.svg").getroot().iter(f"{SVG}text")}
        assert {"ε 3", "0.1", "0.01", "safe", "undefended 0.900", "none", "dp-sgd(target_epsilon)"} <= texts
    assert files.tradeoff.narrow.width <= 370


def test_the_facts_are_told(section):
    told = facts(section.board)
    assert "dp-sgd(target_epsilon) is safe at 0.700 (dp-sgd(target_epsilon=3.0))" in told
    assert "undefended model reaches a test accuracy of 0.900 and leaks 100 % of its images to reconstruction, 100 % to identification" in told


def test_strengths_are_found_in_labels_and_parameters(section):
    family = next(family for family in section.board.families if family.parameter == "std")
    members = section.board.members(family)
    assert [strength(family, entry) for entry in members] == ["0.1", "0.01"]
    from dataclasses import replace
    hidden = replace(members[0], defense="precode+noise", parameters={"parts": [{"beta": 1.0}, {"std": 0.25}]})
    assert strength(family, hidden) == "0.25"
    assert strength(family, replace(hidden, parameters={})) == "precode+noise"


def test_heat_maps_mark_what_was_chosen_and_name_what_diverged(section):
    entry = next(entry for entry in section.board.entries if entry.defense == "none")
    (heat_map,) = heat_maps(entry)
    assert (heat_map.defense, heat_map.optimizer, heat_map.batch_sizes) == ("none", "Adam", [8, 64])
    assert [(step, [(cell.text, cell.chosen) for cell in cells]) for step, cells in heat_map.rows] == [
        ("0.001", [("0.500", False), ("0.400", False)]), ("0.01", [("0.600", True), ("not run", False)]), ("0.1", [("diverged", False), ("not run", False)])]
    levels = [cell.level for _, cells in heat_map.rows for cell in cells]
    assert levels == [pytest.approx(0.5), 0.0, 1.0, None, None, None]


@given(st.lists(st.floats(0, 100), max_size=20), st.floats(0.1, 20))
def test_names_are_spread_within_bounds_and_in_order(wanted, gap):
    places = spread(wanted, gap, 0, 100)
    apart = min(gap, 100 / max(len(wanted) - 1, 1))
    assert len(places) == len(wanted) and all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    assert (np.diff(sorted(places)) >= apart - 1e-6).all()
    assert [places[i] for i in np.argsort(wanted, kind="stable")] == sorted(places)


def test_a_board_without_attacks_has_no_tradeoff(tmp_path, palette):
    run = write_cells(tmp_path / "run", {("digits", "lenet", "none", 0): {"accuracies": [0.1, 0.5], "attacks": {}}}, epochs=1, attacks=[], victims=2)
    files = draw_board(build([read_run(run)])[0], palette, tmp_path, "page") if (tmp_path / "assets").mkdir() is None else None
    assert files.tradeoff is None and [picture.drawn.file for picture in files.curves] == ["assets/page-accuracy"] and files.pools == []


def test_boards_are_drawn_alike_in_processes_of_their_own(tmp_path, monkeypatch):
    from reports import site
    from reports.site import write_report
    cells = {("digits", model, "none", seed): {"accuracies": [0.1, 0.5], "attacks": {(0, "a", "both"): [0.7, 0.2]}} for model in ("lenet", "mlp") for seed in range(2)}
    run = write_cells(tmp_path / "run", cells, epochs=1, attacks=["a"], victims=2)
    one = write_report([run], tmp_path / "one").parent
    monkeypatch.setattr(site, "_CELLS_EACH", 1)
    monkeypatch.setattr(site.joblib, "cpu_count", lambda: 2)
    two = write_report([run], tmp_path / "two").parent
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)
