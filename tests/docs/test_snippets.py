"""What the pages show runs: plugins, loops, grids and commands."""

from __future__ import annotations

import shlex

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from captured_cases import MEAN, STD, normalised, write_images
from docs_cases import DOCS, ROOT, block, command_lines

from benchmark import yaml_files
from benchmark.cli import app, execute
from benchmark.config import make_grid

AUDIT = "how-to/audit.md"
SMALL = ["--epochs", "1", "--checkpoint", "0", "--victims", "2", "--observed", "single", "--candidates", "0", "--no-tuning", "--seed", "0",
         "--device", "cpu"]


def run(out, *arguments):
    assert execute(["run", *SMALL, "--out", str(out), *map(str, arguments)]) == 0
    return pd.read_csv(out / "report" / "leaderboard.csv")


def test_the_defense_is_measured(shapes, tmp_path, clean_registry):
    source = block("how-to/add-a-defense.md", "# my_defense.py")
    (tmp_path / "my_defense.py").write_text(source)
    table = run(tmp_path / "run", "--plugin", tmp_path / "my_defense.py", "--dataset", shapes, "--model", "mlp", "--defense", "none",
                "--defense", "my-defense(norm=0.01)", "--attack", "inverting-gradients(iterations=2)")
    assert set(table["defense"]) == {"none", "my-defense(norm=0.01)"} and len(source.splitlines()) <= 26


def test_the_attack_is_run(shapes, tmp_path, clean_registry):
    (tmp_path / "my_attack.py").write_text(block("how-to/add-an-attack.md", "# my_attack.py"))
    table = run(tmp_path / "run", "--plugin", tmp_path / "my_attack.py", "--dataset", shapes, "--model", "mlp", "--defense", "none",
                "--defense", "pruning(p=0.9)", "--attack", "layer-by-layer(iterations=2)")
    attacked = table[table["kind"] == "attack"]
    assert attacked["attack"].str.startswith("layer-by-layer").all()
    # Who knows of pruning compares what was kept: another attack than that of who does not.
    assert set(attacked[attacked["defense"] == "pruning(p=0.9)"]["knowledge"]) == {"blind", "informed"}


def test_the_model_and_the_data_set_are_taken(tmp_path, clean_registry):
    for page, name in (("how-to/add-a-model.md", "my_model.py"), ("how-to/add-a-data-set.md", "my_data.py")):
        (tmp_path / name).write_text(block(page, f"# {name}"))
    labels = np.arange(40) % 2
    pixels = (np.random.default_rng(0).integers(0, 100, (40, 8, 8, 1)) + 100 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "scans.npz", pixels=pixels, labels=labels)
    table = run(tmp_path / "run", "--plugin", tmp_path / "my_model.py", "--plugin", tmp_path / "my_data.py", "--dataset", "scans",
                "--model", "narrow(width=8)", "--defense", "none", "--attack", "analytic", "--data-root", tmp_path)
    assert set(table["dataset"]) == {"scans"} and set(table["model"]) == {"narrow(width=8)"}


def test_the_loop_trains():
    exec(compile(block("how-to/train.md", "import torch\n"), "train.md", "exec"), found := {})
    assert found["observed"].keys() == dict(found["private"].module.named_parameters()).keys()


def test_the_grid_can_be_run():
    grid = yaml_files.parse(block("how-to/run-a-grid.md", "# my_grid.yaml", "yaml"), "the page")
    grid["datasets"] = ["mnist5k"]  # the paths are those of nobody
    assert len(make_grid(grid, "the page").defenses) == 6


def test_the_grid_with_clients_can_be_run():
    grid = make_grid(yaml_files.parse(block("how-to/federated-clients.md", "# clients.yaml", "yaml"), "the page"), "the page")
    assert grid.training.client.behind == 40 and grid.training.batch_size == 8


def pages():
    return sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_have_the_options_that_are_shown(page):
    group = typer.main.get_command(app)
    for line in command_lines(page):
        words = shlex.split(line, comments=True)
        if words[:1] == ["leakboard"] and "[" not in words[2:3]:
            group.commands[words[1]].make_context(words[1], words[2:])  # reads them, and runs nothing


def test_what_the_audit_captures_is_identified_and_rebuilt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = write_images(tmp_path / "suspects", [f"{place}.png" for place in range(8)], shape=(32, 32, 3))
    (tmp_path / "net.py").write_text(block(AUDIT, "# net.py"))
    namespaces = {}
    for name in ("capture.py", "net.py"):
        exec(compile(block(AUDIT, f"# {name}"), name, "exec"), namespaces.setdefault(name, {}))
    assert len(block(AUDIT, "# capture.py").splitlines()) <= 19 and "import torch\n" not in block(AUDIT, "# capture.py")
    namespaces["capture.py"]["capture"](namespaces["net.py"]["build"](), normalised(images[5])[None], torch.tensor([7]), MEAN, STD)
    identify, attack = (shlex.split(line)[1:] for line in command_lines(DOCS / AUDIT))
    assert execute(identify) == 0
    head, table = capsys.readouterr().out.split("\n\n")
    assert head.startswith("1 gradient of 1 image; the attacker is informed of none; 8 candidates, by the method exact (exact: ")
    assert table.startswith("victim 0, label 7: 5.png, ahead of the second by ") and table.splitlines()[2].split() == ["1", "0", "7", "5.png"]
    assert execute([*attack, "--attack", "inverting-gradients(iterations=2)"]) == 0
    assert "labels [7]\nimages: rebuilt" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "rebuilt").iterdir()] == ["victim-0-image-0.png"]
