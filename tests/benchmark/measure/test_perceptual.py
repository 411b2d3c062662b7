"""LPIPS, with a stand-in for the package and for its weights, which no package ships."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from run_cases import grid_of, run

from benchmark.cli import execute
from benchmark.errors import InputError
from benchmark.measure import perceptual
from benchmark.store import results
from reports.site import write_report


class StandIn(torch.nn.Module):
    """Takes what the metric takes, and returns the mean absolute difference of what it was given."""

    def __init__(self, net_type, normalize):
        super().__init__()
        assert (net_type, normalize) == ("alex", True)

    def forward(self, original, reconstruction):
        assert original.shape == reconstruction.shape and original.shape[:2] == (1, 3)
        assert min(original.min(), reconstruction.min()) >= 0 and max(original.max(), reconstruction.max()) <= 1
        return (original - reconstruction).abs().mean()


@pytest.fixture
def package(monkeypatch):
    modules = {name: types.ModuleType(name) for name in ("torchmetrics", "torchmetrics.image", "torchmetrics.image.lpip")}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    modules["torchmetrics.image.lpip"].LearnedPerceptualImagePatchSimilarity = StandIn


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Torch's folder of weights, without any."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))


@pytest.fixture
def weights(hub):
    perceptual.weights().parent.mkdir(parents=True)
    perceptual.weights().touch()


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)


def test_the_weights_are_where_torchvision_looks_for_them(hub, tmp_path):
    assert perceptual.weights() == tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"


@pytest.fixture
def grid(shapes, tmp_path):
    (tmp_path / "grid.yaml").write_text(json.dumps({
        "datasets": [str(shapes)], "image_size": 31, "models": ["mlp"], "training": {"epochs": 0}, "attacks": ["inverting-gradients(iterations=1)"],
        "evaluation": {"victims": 2, "observed": ["single"], "candidates": 0, "lpips": True}}))
    return ["run", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "run"), "--device", "cpu"]


def refused(command, capsys, tmp_path):
    assert execute(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("leakboard: error: evaluation.lpips needs ") and not (tmp_path / "run").exists()
    return line


def test_without_the_package_it_is_refused(grid, capsys, tmp_path, without_package):
    assert 'pip install "leakboard[lpips]"' in refused(grid, capsys, tmp_path)


def test_without_the_weights_it_is_refused_and_nothing_is_downloaded(grid, capsys, tmp_path, package, hub, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("downloads"))
    assert "nothing is downloaded here" in refused(grid, capsys, tmp_path)


@pytest.mark.parametrize(("shape", "message"), [((3, 30, 40), "images of 3x30x40"), ((2, 40, 40), "grey or RGB"), ((1, 31, 31), None), ((3, 64, 31), None)])
def test_images_must_be_what_alexnet_takes(shape, message, package, weights):
    if message is None:
        perceptual.require("a", shape)
    else:
        with pytest.raises(InputError, match=message):
            perceptual.require("a", shape)


@pytest.mark.parametrize("side", [perceptual.SMALLEST, perceptual.SMALLEST - 1])
def test_the_smallest_image_is_that_of_which_alexnet_leaves_something(side):
    from torchvision.models import alexnet
    with torch.device("meta"):
        features, image = alexnet(weights=None).features[:12], torch.empty(1, 3, side, side)
        if side < perceptual.SMALLEST:
            with pytest.raises(RuntimeError, match="too small"):
                features(image)
        else:
            assert features(image).shape[2:] == (1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_given_as_rgb_within_range(channels, package):
    original, rebuilt = np.zeros((channels, 4, 4), dtype=np.float32), np.full((channels, 4, 4), 0.25, dtype=np.float32)
    assert perceptual.Perceptual(torch.device("cpu")).distance(original, rebuilt) == 0.25


def test_it_stands_in_the_table_of_reconstructions_and_in_the_report_where_it_was_asked_for(grid, tmp_path, package, weights):
    assert execute(grid) == 0
    (cell,) = results.read_run(tmp_path / "run").cells
    rows = cell.reconstructions.to_pandas()
    assert len(rows) == 2 and (rows["lpips"] > 0).all() and (rows["lpips"] < 1).all()
    site = tmp_path / "run" / "report"
    assert "<th scope=\"col\">LPIPS</th>" in next(site.glob("shapes-*.html")).read_text() and "| LPIPS |" in (site / "leaderboard.md").read_text()
    (attack, *_) = [a for a in json.loads((site / "leaderboard.json").read_text())["boards"][0]["entries"][0]["attacks"] if a["kind"] == "attack"]
    assert attack["lpips"]["mean"] == pytest.approx(rows["lpips"].mean())
    assert execute(grid) == 0  # the same run goes on


def test_elsewhere_it_is_absent_on_disk_and_in_reports(shapes, tmp_path):
    grid = grid_of(shapes, defenses=["none"], seeds=[0], attacks=["inverting-gradients(iterations=1)"], training={"epochs": 0},
                   evaluation={"checkpoints": [0], "victims": 2})
    run(grid, tmp_path / "run")
    (path,) = (tmp_path / "run").glob("cells/*/attack-*/reconstructions.parquet")
    assert "lpips" not in pd.read_parquet(path).columns
    (cell,) = results.read_run(tmp_path / "run").cells
    assert cell.reconstructions["lpips"].null_count == 2
    site = write_report([tmp_path / "run"], tmp_path / "site").parent
    assert "LPIPS" not in (site / "leaderboard.md").read_text() and "LPIPS" not in next(site.glob("shapes-*.html")).read_text()


def test_a_run_of_before_goes_on(shapes, tmp_path):
    """Its description knows nothing of LPIPS, and what was attacked without it is not attacked again."""
    grid = grid_of(shapes, defenses=["none"], seeds=[0], training={"epochs": 0}, evaluation={"checkpoints": [0], "victims": 2})
    run(grid, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    manifest = json.loads(path.read_text())
    del manifest["grid"]["evaluation"]["lpips"]
    path.write_text(json.dumps(manifest))
    assert run(grid, tmp_path / "run").kept == 1
    write_report([tmp_path / "run"], tmp_path / "site")
