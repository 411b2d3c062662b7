from __future__ import annotations

import pytest
import torch

import defenses
from benchmark import datasets
from benchmark import training as training_module
from benchmark.config import Training
from benchmark.training import make_private, train

CPU = torch.device("cpu")


def trained(shapes, specification: str, epochs: int = 3, model: str = "mlp", seed: int = 0):
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    private = make_private(defenses.create(specification), dataset, model, Training(epochs=epochs, batch_size=8), seed)
    return private, list(train(private, dataset, epochs, seed))


@pytest.mark.parametrize("specification", defenses.registry.names())
def test_every_defense_trains_and_repeats(shapes, specification):
    (first, epochs), (second, again) = (trained(shapes, specification) for _ in range(2))
    assert [e.epoch for e in epochs] == [0, 1, 2, 3]
    assert epochs[0].train_loss is None and epochs[3].train_loss > 0
    assert [(e.train_loss, e.test_accuracy, e.epsilon) for e in epochs] == [(e.train_loss, e.test_accuracy, e.epsilon) for e in again]
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (epochs[3].epsilon is not None) == (specification == "dp-sgd") == (epochs[3].delta is not None)


def test_learns_what_is_there_to_learn(shapes):
    assert trained(shapes, "none", epochs=10)[1][-1].test_accuracy == 1.0


def test_defenses_start_from_the_same_weights(shapes):
    plain, other = (trained(shapes, s, epochs=0)[0].module.state_dict() for s in ("none", "precode"))
    assert torch.equal(plain["1.weight"], other["1.weight"])
    assert torch.equal(plain["5.weight"], other["5.classifier.weight"])


def test_training_leaves_the_global_random_state(shapes):
    state = torch.get_rng_state()
    trained(shapes, "precode")
    assert torch.equal(state, torch.get_rng_state())


def test_accuracy_counts_correct_classes(shapes):
    dataset = datasets.load(datasets.find(str(shapes)), CPU)

    class Always(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 1.0]).expand(len(x), 2)

    assert training_module.test_accuracy(Always(), dataset.test, 0) == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("specification", "model", "epochs", "prototype"), [
    ("none", "lenet", 10, 0.44), ("precode", "lenet", 10, 0.33), ("none", "mlp", 5, 0.44), ("precode", "mlp", 5, 0.40)])
def test_accuracy_on_cifar10_is_that_of_the_prototype(specification, model, epochs, prototype):
    """Adam 1e-3, batches of 64, the 12,000 images of the development subset; the test error's standard error is 0.009."""
    dataset = datasets.load(datasets.find("cifar10"), CPU)
    private = make_private(defenses.create(specification), dataset, model, Training(epochs=epochs), 0)
    assert list(train(private, dataset, epochs, 0))[-1].test_accuracy == pytest.approx(prototype, abs=0.04)
