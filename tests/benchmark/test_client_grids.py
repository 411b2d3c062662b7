"""Grids with clients: their training, what is observed of it, and what they may say."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from run_cases import grid_of, run

from benchmark.config import make_grid
from benchmark.data import datasets
from benchmark.errors import InputError

CLIENT = {"images": 6, "batch_size": 2, "local_steps": 2, "local_step_size": 0.1, "participants": 2}


def content(**options):
    return {"datasets": ["x"], "training": {"epochs": 1}, **options}


def test_a_client_belongs_to_the_training_and_gives_the_batch_size():
    grid = make_grid(content(client=CLIENT), "grid")
    assert grid.training.client.images == 6 and grid.training.batch_size == 2 and grid.training.observed_images == 4
    assert make_grid(content(client=CLIENT, tuning={"step_sizes": [0.1]}), "grid").tuning.batch_sizes == (2,)
    assert "client" not in make_grid(content(), "grid").training.model_dump()


@pytest.mark.parametrize(("options", "text"), [
    ({"client": CLIENT, "training": {"batch_size": 3}}, "training.batch_size cannot be given beside client.batch_size, got 3"),
    ({"client": CLIENT, "tuning": {"batch_sizes": [3]}}, r"tuning.batch_sizes cannot be given beside client.batch_size, got \[3\]"),
    ({"client": {**CLIENT, "batch_size": 7}}, "batch_size must be at most images = 6, got 7"),
    ({"client": {**CLIENT, "steps": 7}}, "unknown key 'client.steps'"),
    ({"client": {"images": 6}}, "batch_size"),
    ({"client": 3}, "client"),
])
def test_what_a_grid_may_say(options, text):
    with pytest.raises(InputError, match=text):
        make_grid(content(**options), "grid")


def test_one_client_and_one_step_train_as_without_clients(shapes, tmp_path):
    """Bit for bit: accuracy, loss and what is identified."""
    size, count = 4, len(datasets.load(datasets.find(str(shapes)), torch.device("cpu")).train)
    tables = []
    for name, options in (("plain", {"training": {"epochs": 2, "batch_size": size}}),
                          ("client", {"training": {"epochs": 2}, "client": {"images": count, "batch_size": size}})):
        grid = grid_of(shapes, defenses=["none", "noise(std=0.1)"], seeds=[0], attacks=[], **options,
                       evaluation={"checkpoints": [-1], "victims": 2, "candidates": 3})
        assert run(grid, tmp_path / name).failed == 0
        tables.append(training_of(tmp_path / name))
    pd.testing.assert_frame_equal(*tables)


def test_local_steps_are_observed_as_updates_and_attacks_say_so(shapes, tmp_path):
    grid = grid_of(shapes, defenses=["none", "dp-sgd(noise_multiplier=1.0)"], seeds=[0], client=CLIENT, training={"epochs": 2},
                   attacks=["inverting-gradients(iterations=2)"],
                   evaluation={"checkpoints": [-1], "victims": 2, "candidates": 0, "observed": ["as-trained", "single"]})
    outcome = run(grid, tmp_path / "run")
    assert outcome.failed == 0
    told = [path.read_text() for path in (tmp_path / "run").rglob("*.json")]
    assert any("updates of 2 local steps were shared, and it takes them for gradients" in text for text in told)
    epsilon = training_of(tmp_path / "run").set_index(["defense", "epoch"])["epsilon"]
    assert epsilon["dp-sgd(noise_multiplier=1.0)", 2] > epsilon["dp-sgd(noise_multiplier=1.0)", 1] > 0


def test_behind_a_sum_are_the_images_of_as_many_clients(shapes, tmp_path):
    """Each of so many takes part in every round, however few were asked for."""
    client = {"images": 4, "batch_size": 2}
    grid = grid_of(shapes, defenses=["none", "noise(std=0.01)+secure-sum(clients=4)", "dp-fedavg+secure-sum(clients=3)"], seeds=[0],
                   client=client, training={"epochs": 1}, attacks=["inverting-gradients(iterations=2)"],
                   evaluation={"checkpoints": [-1], "victims": 2, "candidates": 3, "public": 4, "observed": ["as-trained", "single"]})
    assert run(grid, tmp_path / "run").failed == 0
    frames = {name: pd.concat([pd.read_parquet(path) for path in (tmp_path / "run").rglob(f"{name}.parquet")])
              for name in ("training", "identifications")}
    sizes = frames["identifications"].groupby(["defense", "observed"])["batch_size"].unique().map(list).to_dict()
    summed = {"none": 1, "noise(std=0.01)+secure-sum(clients=4)": 4, "dp-fedavg(noise_multiplier=1.0)+secure-sum(clients=3)": 3}
    assert sizes == {(name, mode): [count * images] for name, count in summed.items() for mode, images in (("as-trained", 2), ("single", 1))}
    rounds = frames["training"].query("epoch == 1").set_index("defense")["rounds"]
    assert rounds.to_dict() == {name: -(-16 // count) for name, count in summed.items()}  # 16 batches of 2 images


def training_of(folder):
    frames = [pd.read_parquet(path) for path in sorted(folder.rglob("training.parquet"))]
    return pd.concat(frames).drop(columns=["seconds", "step_memory", "sent_bytes"]).sort_values(["defense", "epoch"]).reset_index(drop=True)


@pytest.mark.parametrize(("client", "text"), [
    ({**CLIENT, "participants": 7}, "7 participants in a round, and 5 clients of 6 of the 32 training images"),
    ({**CLIENT, "images": 64, "batch_size": 8}, "client.images = 64 leaves no client any: there are 32 training images"),
])
def test_clients_that_the_data_do_not_have(shapes, tmp_path, client, text):
    with pytest.raises(InputError, match=text):
        run(grid_of(shapes, client=client, training={"epochs": 1}, seeds=[0]), tmp_path / "run")


def test_sums_of_clients_that_there_are_not(shapes, tmp_path):
    with pytest.raises(InputError, match="8 participants in a round, and 5 clients of 6 of the 32 training images"):
        run(grid_of(shapes, defenses=["secure-sum(clients=[2, 8])"], client=CLIENT, training={"epochs": 1}, seeds=[0]), tmp_path / "run")
    with pytest.raises(InputError, match=r"secure-sum\(clients=16\) sums over clients, and there are none"):
        make_grid(content(defenses=["secure-sum"]), "grid")
    with pytest.raises(InputError, match="a secure sum of one client hides nothing"):
        make_grid(content(defenses=["secure-sum(clients=1)"], client=CLIENT), "grid")
