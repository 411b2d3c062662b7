"""A defense, an attack, a model and a data set of a user's own, each in a file."""

from __future__ import annotations

import pytest
from run_cases import CPU

from benchmark import plugins
from benchmark.cli import execute
from benchmark.config import make_grid
from benchmark.run import runner
from benchmark.store import results

FILES = {"my_defense": """
from dataclasses import dataclass
from defenses import Defense

@dataclass(frozen=True)
class Scaled(Defense):
    name = "scaled"
    summary = "a multiple of the gradient"
    factor: float = 0.5

    def transform_gradients(self, gradients, step):
        return {name: self.factor * g for name, g in gradients.items()}
""", "my_attack": """
from dataclasses import dataclass
import torch
from attacks import Attack, Reconstruction

@dataclass(frozen=True)
class Grey(Attack):
    name = "grey"
    summary = "images of one value, whatever was observed"
    value: float = 0.5

    def reconstruct(self, observation, *, seed, progress=None):
        n, b = len(observation), observation.batch_size
        return Reconstruction(torch.full((n, b, *observation.image_shape), self.value), torch.zeros(n, b, dtype=torch.long), torch.zeros(n))
""", "my_model": """
from dataclasses import dataclass
from torch import nn
from benchmark.models import Model

@dataclass(frozen=True)
class Narrow(Model):
    name = "narrow"
    summary = "two linear layers"
    width: int = 64

    def build(self, image_shape, classes):
        c, h, w = image_shape
        return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, self.width), nn.ReLU(), nn.Linear(self.width, classes))
""", "my_data": """
from dataclasses import dataclass
import numpy as np
from benchmark.data import DatasetBuilder, DecodedImages, split_by_class

@dataclass(frozen=True)
class Shades(DatasetBuilder):
    name = "shades"
    summary = "dark and bright images"
    count: int = 30

    def decode(self, data_root):
        labels = np.arange(self.count) % 2
        pixels = np.random.default_rng(0).integers(0, 100, (self.count, 8, 8, 1)) + 100 * labels[:, None, None, None]
        pixels, is_test = pixels.astype(np.uint8), split_by_class(labels)
        return DecodedImages(("dark", "bright"), pixels[~is_test], labels[~is_test], pixels[is_test], labels[is_test])
"""}
OPTIONS = ["--dataset", "shades(count=40)", "--model", "narrow( width = 8 )", "--defense", "none", "--defense", "scaled(factor=0.25)",
           "--attack", "grey", "--epochs", "1", "--victims", "2", "--observed", "single", "--candidates", "0", "--no-tuning", "--seed", "0", "--threads", "1"]


@pytest.fixture
def files(tmp_path):
    for name, source in FILES.items():
        (tmp_path / f"{name}.py").write_text(source)
    return {name: tmp_path / f"{name}.py" for name in FILES}


def test_one_of_each_is_run_by_the_command_and_shown(files, tmp_path, capsys, clean_registry):
    given = [argument for path in files.values() for argument in ("--plugin", str(path))]
    assert execute(["run", *given, *OPTIONS, "--out", str(tmp_path / "run")]) == 0
    assert "2 cells finished, 0 kept, 0 failed" in capsys.readouterr().out
    read = results.read_run(tmp_path / "run")
    training, rebuilt, _ = results.joined(read.cells)
    assert set(training[["dataset", "model"]].itertuples(index=False, name=None)) == {("shades(count=40)", "narrow(width=8)")}
    assert set(training["defense"]) == {"none", "scaled(factor=0.25)"} and set(rebuilt["attack"]) == {"grey(value=0.5)"}
    board = (tmp_path / "run" / "report" / "leaderboard.md").read_text()
    assert all(name in board for name in ("shades(count=40)", "narrow(width=8)", "scaled(factor=0.25)", "grey(value=0.5)"))
    assert execute(["list", *given]) == 0
    output = capsys.readouterr().out
    assert all(f"  {entry}\n" in output for entry in ("scaled(factor=0.5)", "grey(value=0.5)", "narrow(width=64)", "shades(count=30)"))
    clean_registry()
    assert execute(["list"]) == 0 and "narrow" not in capsys.readouterr().out
    assert execute(["reproduce", str(tmp_path / "run"), "--sample", "1", *given]) == 0
    assert "1 of 1 cells are the same" in capsys.readouterr().out


@pytest.mark.parametrize(("changed", "line", "other", "keys", "pixels"), [
    ("my_model", "nn.ReLU()", "nn.Tanh()", True, False), ("my_defense", "self.factor * g", "g", True, False),
    ("my_data", "default_rng(0)", "default_rng(1)", True, True), ("my_data", "dark and bright", "bright and dark", False, False),
    ("my_attack", "torch.full", "torch.full ", False, False)])
def test_a_changed_file_makes_other_cells_where_it_makes_other_models(files, clean_registry, changed, line, other, keys, pixels):
    found = []
    for _ in range(2):
        loaded = [plugins.read(path) for path in files.values()]
        grid = make_grid({"datasets": ["shades"], "models": ["narrow"], "defenses": ["scaled"], "attacks": ["grey"],
                          "evaluation": {"victims": 2, "observed": ["single"]}}, "test")
        found.append(runner.identify(grid, CPU, plugins=loaded))
        clean_registry()
        files[changed].write_text(FILES[changed].replace(line, other))
    before, after = found
    assert (before.cells.keys() != after.cells.keys()) == keys
    assert (before.depends_on["fingerprints"] != after.depends_on["fingerprints"]) == pixels
    assert (before.attacks.keys() != after.attacks.keys()) == (changed == "my_attack")
