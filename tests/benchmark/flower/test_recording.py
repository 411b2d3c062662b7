"""What a server of Flower receives, as files for audits, without its engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

pytest.importorskip("flwr", reason="needs Flower; make flower has it")

from flower_cases import STEP_SIZE, answer, build, client, context, equal, failure, gradient, request, told
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg, Strategy

from benchmark.captured import model_file, observation_file
from benchmark.errors import InputError
from benchmark.flower.exchange import Gradients, Weights
from benchmark.flower.fed_sgd import FedSGD
from benchmark.flower.recording import Recording

ABOUT = {"batch_size": 4, "image_shape": (2, 8, 8), "mean": [0.5, 0.4], "std": [0.25, 0.2]}
CPU = torch.device("cpu")
MODEL = "from flower_cases import build\n"


class Fixed(FedAvg):
    """Sends to nodes that are given, instead of asking a grid."""

    def __init__(self, nodes, **options):
        super().__init__(**options)
        self.nodes = nodes

    def configure_train(self, server_round, arrays, config, grid):
        return [request(arrays, server_round, node) for node in self.nodes]


class FixedSGD(FedSGD, Fixed):
    pass


def round_of(strategy: Strategy, module, exchange, round_=1):
    """One round, of which the replies come in the reverse order."""
    requests = strategy.configure_train(round_, ArrayRecord(module.state_dict()), ConfigRecord(), None)
    replies = [client(exchange, seed=10 * round_ + m.metadata.dst_node_id)(m, context()) for m in requests]
    for m, reply in zip(requests, replies, strict=True):
        assert reply.metadata.src_node_id == m.metadata.dst_node_id
    arrays, metrics = strategy.aggregate_train(round_, iter(reversed(replies)))
    return dict(arrays.to_torch_state_dict()), metrics, {m.metadata.dst_node_id: told(r) for m, r in zip(requests, replies, strict=True)}


def read(folder: Path, tmp_path: Path):
    (tmp_path / "model.py").write_text(MODEL)
    module = model_file.load(f"{tmp_path / 'model.py'}:build", folder / "weights.safetensors", None, CPU)
    return observation_file.read(folder / "observation.safetensors", module, None, CPU)


def test_gradients_are_recorded_bit_for_bit_round_by_round(tmp_path):
    exchange, module = Gradients(), build()
    strategy = Recording(FixedSGD(nodes=[9, 4, 6], step_size=0.5), tmp_path / "new" / "record", build, exchange, **ABOUT)
    for round_ in (1, 2):
        weights, _, replies = round_of(strategy, module, exchange, round_)
        folder = tmp_path / "new" / "record" / f"round-{round_}"
        assert folder.joinpath("clients.txt").read_text() == "4\n6\n9\n"
        observation, classes = read(folder, tmp_path)
        for place, node in enumerate((4, 6, 9)):
            assert equal({name: g[place] for name, g in observation.shared.items()}, replies[node])
        assert equal(dict(observation.module.state_dict()), dict(module.state_dict())) and classes == 5
        assert observation.batch_size == 4 and observation.image_shape == (2, 8, 8) and observation.labels is None
        assert observation.mean.tolist() == pytest.approx([0.5, 0.4]) and observation.std.tolist() == pytest.approx([0.25, 0.2])
        module.load_state_dict(weights)
    assert sorted(p.name for p in (tmp_path / "new" / "record").iterdir()) == ["round-1", "round-2"]


def test_the_strategy_is_unchanged_by_the_record(tmp_path):
    for exchange, make in ((Weights(STEP_SIZE), lambda: Fixed([1, 2])), (Gradients(), lambda: FixedSGD(nodes=[1, 2], step_size=0.5))):
        alone = round_of(make(), build(), exchange)
        recorded = round_of(Recording(make(), tmp_path / type(exchange).__name__, build, exchange, **ABOUT), build(), exchange)
        assert equal(alone[0], recorded[0]) and alone[1] == recorded[1] == {"loss": 0.5}


def test_weights_are_recorded_as_gradients_up_to_rounding(tmp_path):
    round_of(Recording(Fixed([3, 5]), tmp_path / "record", build, Weights(STEP_SIZE), **ABOUT), build(), Weights(STEP_SIZE))
    observation, _ = read(tmp_path / "record" / "round-1", tmp_path)
    for place, node in enumerate((3, 5)):
        for name, g in gradient(build(), 10 + node).items():
            assert torch.allclose(observation.shared[name][place], g, rtol=0, atol=1e-6)


def test_the_file_of_an_update_of_several_steps_says_so(tmp_path):
    exchange, module = Weights(STEP_SIZE, 3), build()
    _, _, replies = round_of(Recording(Fixed([3]), tmp_path, build, exchange, **ABOUT), module, exchange)
    with safe_open(tmp_path / "round-1" / "observation.safetensors", framework="pt") as file:
        assert file.metadata()["local_steps"] == "3" and file.metadata()["local_step_size"] == "0.1"
        expected = (module.state_dict()["1.weight"] - replies[3]["1.weight"]) / 0.3
        assert torch.allclose(file.get_tensor("1.weight")[0], expected, rtol=0, atol=1e-6)


def test_clients_that_fail_are_left_out_and_all_that_fail_are_an_error(tmp_path):
    strategy = Recording(Fixed([1, 2]), tmp_path, build, Gradients(), **ABOUT)
    first, second = strategy.configure_train(1, ArrayRecord(build().state_dict()), ConfigRecord(), None)
    strategy.aggregate_train(1, [failure(first), client(Gradients())(second, context())])
    assert (tmp_path / "round-1" / "clients.txt").read_text() == "2\n"
    with pytest.raises(InputError, match=r"^no client replied in round 2: it ran out of memory$"):
        strategy.aggregate_train(2, [failure(first), failure(second)])
    assert strategy.aggregate_train(3, []) == (None, None)  # a round without training
    assert [p.name for p in tmp_path.iterdir()] == ["round-1"]


def test_a_reply_of_something_else_leaves_no_half_of_a_round(tmp_path):
    strategy = Recording(Fixed([1]), tmp_path, build, Gradients(), **ABOUT)
    (message,) = strategy.configure_train(1, ArrayRecord(build().state_dict()), ConfigRecord(), None)
    with pytest.raises(InputError, match=r"^a client's reply is not what was agreed on: '1.bias' is not there, expected of shape \[12\]$"):
        strategy.aggregate_train(1, [answer({"1.weight": gradient(build())["1.weight"]}, message)])
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_recorded_into(tmp_path):
    (tmp_path / "used" / "round-3").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for name, message in (("used", "holds the rounds of another federation; record into a new folder"), ("file", "cannot write to ")):
        with pytest.raises(InputError, match=message):
            Recording(Fixed([1]), tmp_path / name, build, Gradients(), **ABOUT)


def test_fed_sgd_is_one_step_by_the_weighted_mean():
    module, strategy = build(), FixedSGD(nodes=[1, 2], step_size=0.5)
    requests = strategy.configure_train(1, ArrayRecord({**module.state_dict(), "kept": torch.ones(2)}), ConfigRecord(), None)
    arrays, _ = strategy.aggregate_train(1, [answer(gradient(module, node), m, examples=examples)
                                             for node, m, examples in zip((1, 2), requests, (1.0, 3.0), strict=True)])
    found = dict(arrays.to_torch_state_dict())
    one, two = gradient(module, 1), gradient(module, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for name, p in module.named_parameters():
        p.grad = one[name] / 4 + 3 * two[name] / 4
    optimizer.step()
    assert torch.equal(found.pop("kept"), torch.ones(2)) and list(found) == list(module.state_dict())
    assert all(torch.allclose(found[name], p, rtol=0, atol=1e-7) and found[name].dtype == p.dtype for name, p in module.state_dict().items())
    with pytest.raises(ValueError, match="step_size"):
        FedSGD(step_size=0)
