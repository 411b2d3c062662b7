from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import defenses
from benchmark.config import Training
from benchmark.data import datasets
from benchmark.data.loaders import BatchLoader, LabelledImages
from benchmark.measure import training as training_module
from benchmark.measure.training import make_private, train

CPU = torch.device("cpu")


def trained(shapes, specification: str, epochs: int = 3, model: str = "mlp", seed: int = 0):
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    private = make_private(defenses.create(specification), dataset, model, Training(epochs=epochs, batch_size=8), seed)
    return private, list(train(private, dataset, epochs, seed))


@pytest.mark.parametrize("specification", defenses.registry.names())
def test_every_defense_trains_and_repeats(shapes, specification):
    (first, epochs), (second, again) = (trained(shapes, specification, model="lenet") for _ in range(2))
    assert [e.epoch for e in epochs] == [0, 1, 2, 3]
    # Of the first epoch: later the two colours can be so far apart that float32 rounds the loss to nothing.
    assert epochs[0].train_loss is None and epochs[1].train_loss > 0
    assert [(e.train_loss, e.test_accuracy, e.epsilon) for e in epochs] == [(e.train_loss, e.test_accuracy, e.epsilon) for e in again]
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (epochs[3].epsilon is not None) == (specification in ("dp-sgd", "dp-fedavg")) == (epochs[3].delta is not None)


def test_learns_what_is_there_to_learn(shapes):
    assert trained(shapes, "none", epochs=10)[1][-1].test_accuracy == 1.0


def test_accuracy_is_that_of_the_test_images(shapes):
    """Every test label is wrong, so that what is learned to the last image scores nothing."""
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    pixels, labels, mean, std = dataset.test.tensors()
    dataset = replace(dataset, test=LabelledImages(pixels, 1 - labels, mean, std))
    private = make_private(defenses.create("none"), dataset, "mlp", Training(epochs=10, batch_size=8), 0)
    assert list(train(private, dataset, 10, 0))[-1].test_accuracy == 0.0


def by_hand(dataset, module, batch_size):
    """A training in the order of the data set, whose steps move nothing."""
    return defenses.NoDefense().make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.0), data_loader=BatchLoader(dataset.train, batch_size))


def test_loss_is_the_mean_over_batches_of_any_size(shapes):
    """The batches have 20 and 12 images."""
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    torch.manual_seed(0)
    private = by_hand(dataset, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2)), 20)
    with torch.no_grad():
        losses = [F.cross_entropy(private.module(x), y).item() for x, y in private.data_loader]
    assert abs(sum(losses) / 2 - (20 * losses[0] + 12 * losses[1]) / 32) > 1e-3
    assert [epoch.train_loss for epoch in train(private, dataset, 2, 0)] == [None, *[pytest.approx(sum(losses) / 2, rel=1e-6)] * 2]


def test_clients_train_in_training_mode_and_are_tested_in_evaluation_mode(shapes):
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    modes = []

    class Recording(torch.nn.Linear):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x.flatten(1))

    list(train(by_hand(dataset, Recording(3 * 8 * 8, 2), 16), dataset, 2, 0))
    assert modes == [False, True, True, False, True, True, False]


@pytest.mark.parametrize("learning_rate", [1e-4, 1e-2])
def test_learning_rate_is_that_of_the_grid(shapes, learning_rate):
    """Adam's first step moves every weight by the learning rate, and all images in a batch are one step."""
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    private = make_private(defenses.create("none"), dataset, "mlp", Training(epochs=1, batch_size=32, learning_rate=learning_rate), 0)
    before = private.module[5].weight.detach().clone()
    list(train(private, dataset, 1, 0))
    assert (private.module[5].weight - before).abs().max().item() == pytest.approx(learning_rate, rel=1e-2)


def test_sgd_is_that_of_a_loop_by_hand(shapes):
    """With a momentum of 0.9, in the order of the loader, whose last batch of each epoch is smaller."""
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    private = make_private(defenses.create("none"), dataset, "lenet", Training(epochs=3, optimizer="sgd", learning_rate=0.05, batch_size=12), 0)
    module, order = copy.deepcopy(private.module), torch.Generator()
    order.set_state(private.data_loader.generator.get_state())
    velocity, losses = [torch.zeros_like(p) for p in module.parameters()], []
    for _ in range(3):
        of_epoch = []
        for indices in torch.randperm(32, generator=order).split(12):
            x, y = dataset.train.batch(indices)
            loss = F.cross_entropy(module(x), y)
            of_epoch.append(loss.item())
            with torch.no_grad():
                for p, v, g in zip(module.parameters(), velocity, torch.autograd.grad(loss, list(module.parameters())), strict=True):
                    v.mul_(0.9).add_(g)
                    p.sub_(0.05 * v)
        losses.append(sum(of_epoch) / 3)
    assert [epoch.train_loss for epoch in train(private, dataset, 3, 0)][1:] == pytest.approx(losses, rel=1e-4)
    for p, expected in zip(private.module.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-3, atol=1e-5)


def test_a_privacy_budget_is_planned_for_the_epochs_of_the_grid(shapes):
    epochs = trained(shapes, "precode+dp-sgd(target_epsilon=2.0, delta=1e-3, accountant='rdp')")[1]
    assert 1.98 < epochs[-1].epsilon <= 2.0 and epochs[-1].delta == 1e-3
    assert [epoch.epsilon for epoch in epochs] == sorted({epoch.epsilon for epoch in epochs}) and epochs[0].epsilon == 0


def test_defenses_see_the_same_batches(shapes):
    plain, other = (trained(shapes, specification)[1] for specification in ("none", "noise(std=0)"))
    assert [(e.train_loss, e.test_accuracy) for e in plain] == [(e.train_loss, e.test_accuracy) for e in other]


def test_seeds_draw_their_own_noise(shapes):
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    x, y = dataset.train.batch(torch.arange(8))
    noise = []
    for seed in (0, 1):
        both = [make_private(defenses.create(s), dataset, "mlp", Training(), seed) for s in ("none", "noise(std=1)")]
        for private in both:
            private.backward(x, y)
        plain, noisy = (private.module[5].weight.grad for private in both)
        noise.append(noisy - plain)
    assert noise[0].std().item() == pytest.approx(1, rel=0.1)
    assert abs(torch.corrcoef(torch.stack([n.flatten() for n in noise]))[0, 1].item()) < 0.1  # 2,048 entries: standard error 0.022


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
@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize(("specification", "model", "epochs", "prototype"), [
    ("none", "lenet", 10, 0.44), ("precode", "lenet", 10, 0.33), ("none", "mlp", 5, 0.44), ("precode", "mlp", 5, 0.40)])
def test_accuracy_on_cifar10_is_that_of_the_prototype(specification, model, epochs, prototype):
    """Adam 1e-3, batches of 64, the 12,000 images of the development subset; the test error's standard error is 0.009."""
    dataset = datasets.load(datasets.find("cifar10"), CPU)
    private = make_private(defenses.create(specification), dataset, model, Training(epochs=epochs), 0)
    assert list(train(private, dataset, epochs, 0))[-1].test_accuracy == pytest.approx(prototype, abs=0.04)
