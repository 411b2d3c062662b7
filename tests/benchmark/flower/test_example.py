"""The example of Flower, on Flower's own engine: four clients, three rounds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("flwr", reason="needs Flower; make flower has it")
pytest.importorskip("ray", reason="needs Ray; make flower has it")

import defenses
from benchmark.captured import model_file, observation_file
from benchmark.cli import execute
from defenses import NoDefense, shared_update
from defenses.private import simulated_gradient
from defenses.support.seeds import derive

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "flower"
SEED, IMAGES, CLIENTS, ROUNDS = 0, 16, 4, 3


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Runs a federation under a defense, once; its folder, and the accuracy after each round."""
    done = {}

    def run(specification):
        if specification not in done:
            out = tmp_path_factory.mktemp("federation") / "out"
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
            ended = subprocess.run([sys.executable, str(EXAMPLE / "app.py"), specification, str(out), str(SEED)], env=environment,
                                   capture_output=True, text=True, timeout=600)
            assert ended.returncode == 0, ended.stdout + ended.stderr
            accuracies = re.findall(r"^round \d: test accuracy (.*)$", ended.stdout, re.MULTILINE)
            done[specification] = out, list(map(float, accuracies)), ended.stdout.splitlines()[-1]
        return done[specification]

    return run


@pytest.fixture(scope="module")
def batches():
    """The images and labels of a client in a round."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        import model
    finally:
        sys.path.remove(str(EXAMPLE))
    assert (model.BATCH, model.CLIENTS) == (IMAGES, CLIENTS)
    yield model.batch
    del sys.modules["model"]


def recorded(out, number, defense):
    folder = out / f"round-{number}"
    module = model_file.load(f"{EXAMPLE / 'model.py'}:build", folder / "weights.safetensors", defense, torch.device("cpu"))
    return module.train(), observation_file.read(folder / "observation.safetensors", module, defense, torch.device("cpu"))[0].shared


def through_the_mod(defense, module, client, round_, x, y):
    gradient = simulated_gradient(NoDefense(), module, x, y, seed=0)
    generator = torch.Generator().manual_seed(derive("flower", SEED, client, round_ - 1))
    return shared_update(defense, module, gradient, generator=generator, round_=round_ - 1)


def in_the_training(defense, module, client, round_, x, y):
    torch.manual_seed(derive("client", SEED, client, round_))
    private = defense.make_private(module=module, optimizer=torch.optim.SGD(module.parameters()),
                                   data_loader=DataLoader(TensorDataset(x, y), batch_size=len(x)))
    ((x, y),) = private.data_loader
    private.backward(x, y)
    return {name: p.grad for name, p in module.named_parameters()}


def clients_of(out, number, specification, released, batches):
    """The client behind each victim of a round, by what it released, bit for bit."""
    defense = defenses.create(specification)
    module, shared = recorded(out, number, defense)
    assert out.joinpath(f"round-{number}", "clients.txt").read_text().count("\n") == CLIENTS
    found = []
    for victim in range(CLIENTS):
        own = [client for client in range(CLIENTS)
               if all(torch.equal(g, shared[name][victim])
                      for name, g in released(defense, module, client, number, *batches(client, number)).items())]
        assert len(own) == 1, (number, victim, own)
        found += own
    assert sorted(found) == list(range(CLIENTS))
    return found


@pytest.mark.parametrize(("specification", "released"), [
    ("none", through_the_mod), ("noise(std=0.01)", through_the_mod), ("dp-sgd(noise_multiplier=30)", in_the_training)])
def test_what_the_server_recorded_is_what_the_defense_released(specification, released, federation, batches):
    out, accuracies, _ = federation(specification)
    assert len(accuracies) == ROUNDS + 1 and sorted(p.name for p in out.glob("round-*")) == ["round-1", "round-2", "round-3"]
    for number in range(1, ROUNDS + 1):
        clients_of(out, number, specification, released, batches)


@pytest.mark.parametrize("specification", ["none", "noise(std=0.01)"])
def test_accuracy_rises(specification, federation):
    _, accuracies, _ = federation(specification)
    assert accuracies[0] < 0.2 and accuracies == sorted(accuracies) and accuracies[-1] > 0.4


@pytest.mark.parametrize(("specification", "released", "least", "most"), [
    ("none", through_the_mod, 14, 16), ("dp-sgd(noise_multiplier=30)", in_the_training, 0, 4)])
def test_the_audit_tells_the_images_of_undefended_clients_and_not_those_under_dp_sgd(
        specification, released, least, most, federation, batches, capsys):
    """Of the 16 likeliest among 200 suspects those behind the gradient, in the mean over all clients and rounds; by chance 1.3."""
    out, _, command = federation(specification)
    hits = []
    for number in range(1, ROUNDS + 1):
        clients = clients_of(out, number, specification, released, batches)
        assert command.startswith("leakboard identify ")
        arguments = [part.strip('"').replace("round-1", f"round-{number}") for part in command.split()[1:]]
        assert execute([*arguments, "--device", "cpu"]) == 0
        _, *tables = capsys.readouterr().out.split("\n\n")
        assert len(tables) == CLIENTS
        for client, table in zip(clients, tables, strict=True):
            likeliest = [int(Path(line.split()[3]).stem) for line in table.splitlines()[2:2 + IMAGES]]
            first = IMAGES * (CLIENTS * (number - 1) + client)
            hits.append(sum(first <= place < first + IMAGES for place in likeliest))
    assert least <= sum(hits) / len(hits) <= most, hits
