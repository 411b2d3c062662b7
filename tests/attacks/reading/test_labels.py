from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_cases import observation_of
from model_cases import MODELS
from torch import nn

import attacks
from attacks import InvertingGradients, Observation
from attacks.reading import labels
from attacks.reading.labels import idlg_labels, known_or_inferred_labels
from attacks.score import score
from defenses import NoDefense


@pytest.mark.parametrize("defense", ["none", "precode", "pruning(p=0.3)", "dp-sgd(noise_multiplier=0)"])
@pytest.mark.parametrize("model", ["lenet", "mlp", "batch-norm"])
def test_labels_of_single_images_are_inferred(defense, model):
    known, _ = observation_of(defense, model, victims=12)
    unknown, _ = observation_of(defense, model, victims=12, labels_known=False)
    assert torch.equal(idlg_labels(unknown), known.labels)


def test_without_a_bias_the_rows_of_the_weight_tell():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3, bias=False))
    x, y = torch.randn(5, 1, 8), torch.arange(5) % 3
    shared = [torch.autograd.grad(nn.functional.cross_entropy(module(x[i]), y[i : i + 1]), list(module.parameters())) for i in range(5)]
    names = [name for name, _ in module.named_parameters()]
    observation = Observation(
        module=module, shared={n: torch.stack([g[i] for g in shared]) for i, n in enumerate(names)}, batch_size=1,
        image_shape=(1, 1, 8), mean=torch.zeros(1), std=torch.ones(1), labels=None, defense=NoDefense())
    assert idlg_labels(observation).flatten().tolist() == y.tolist()


@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("defense", ["none", "precode"])
@pytest.mark.parametrize("bias", [True, False])
def test_labels_of_batches_are_inferred_with_their_counts(defense, batch_size, bias, monkeypatch):
    def lenet() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(48, 5, bias=bias))

    monkeypatch.setitem(MODELS, "lenet", lenet)
    known, _ = observation_of(defense, "lenet", victims=20, batch_size=batch_size)
    unknown, _ = observation_of(defense, "lenet", victims=20, batch_size=batch_size, labels_known=False)
    if defense == "precode" and not bias:
        return  # the features behind a bottleneck are not of one sign, and their sums tell little
    assert known_or_inferred_labels(unknown).tolist() == known.labels.sort(1).values.tolist()


def batches(bias: bool = True, victims: int = 24, batch_size: int = 4, alike: bool = False, seed: int = 0) -> tuple[Observation, torch.Tensor]:
    """Batches, in float64, of images that have nothing of noise, and a model that expects some classes of them more than others."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5, bias=bias)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = 2 + 0.3 * torch.randn((victims, 1 if alike else batch_size, 1, 1, 8), generator=generator, dtype=torch.float64)
    x, y = x.expand(-1, batch_size, -1, -1, -1), torch.randint(5, (victims, batch_size), generator=generator)
    names = [name for name, _ in module.named_parameters()]
    shared = [torch.autograd.grad(nn.functional.cross_entropy(module(x[i]), y[i]), list(module.parameters())) for i in range(victims)]
    return Observation(
        module=module, shared={n: torch.stack([g[i] for g in shared]) for i, n in enumerate(names)}, batch_size=batch_size,
        image_shape=(1, 1, 8), mean=torch.zeros(1).double(), std=torch.ones(1).double(), labels=None, defense=NoDefense()), y


def counts(y: torch.Tensor) -> torch.Tensor:
    return nn.functional.one_hot(y, 5).sum(1).double()


def right(inferred: torch.Tensor, y: torch.Tensor) -> float:
    """The share of labels that are inferred right, as often as each comes up."""
    return float(torch.minimum(counts(inferred), counts(y)).sum() / y.numel())


def test_counts_of_images_that_are_alike_solve_the_system():
    """Then a row of the weight's gradient is that of the bias times the embedding, exactly."""
    observation, y = batches(alike=True)
    found = labels._counts_by_embeddings(observation, counts(y))
    torch.testing.assert_close(found, counts(y), rtol=0, atol=1e-9)


def test_counts_are_the_least_squares_of_ilrg_drawn_to_the_prior():
    """Against the equations of the paper, written out, solved by a pseudo-inverse."""
    observation, y = batches(victims=3)
    prior = counts(y).flip(1)
    found = labels._counts_by_embeddings(observation, prior)
    weight, bias = (observation.module[3].state_dict()[name].numpy() for name in ("weight", "bias"))

    def probabilities(embedding: np.ndarray) -> np.ndarray:
        likely = np.exp(weight @ embedding + bias)
        return likely / likely.sum()

    for victim in range(3):
        rows, b = (observation.shared[f"3.{name}"][victim].numpy() for name in ("weight", "bias"))
        mean = rows[b > 0].sum(0) / b[b > 0].sum()
        equations, values = [[1.0] * 5], [4.0]
        by_class = []
        for j in range(5):
            ridge = (probabilities(mean)[j] / 2) ** 2
            by_class.append(probabilities((b[j] * rows[j] + ridge * mean) / (b[j] ** 2 + ridge)))
        for c in range(5):
            equations.append([by_class[j][c] - (c == j) for j in range(5)])
            values.append(4 * b[c])
            equations.append([np.sqrt(4 / 5) * (c == j) for j in range(5)])
            values.append(np.sqrt(4 / 5) * float(prior[victim, c]))
        np.testing.assert_allclose(found[victim].numpy(), np.linalg.pinv(np.array(equations)) @ np.array(values), atol=1e-9)


@pytest.mark.parametrize(("batch_size", "least"), [(2, 0.95), (4, 0.8), (8, 0.8)])
def test_the_gradient_tells_what_noise_does_not(batch_size, least, monkeypatch):
    """Of images unlike noise the model expects other classes than of noise."""
    observation, y = batches(batch_size=batch_size)
    both = right(known_or_inferred_labels(observation), y)
    monkeypatch.setattr(labels, "_counts_by_embeddings", lambda _, prior: prior)
    assert both > max(least, right(known_or_inferred_labels(observation), y) + 0.05)


@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_gradients_of_zeros_and_of_no_numbers_have_labels_all_the_same(broken):
    observation, _ = batches(victims=2)
    shared = {name: torch.full_like(g, broken) for name, g in observation.shared.items()}
    inferred = known_or_inferred_labels(replace(observation, shared=shared, rounds=()))
    assert inferred.shape == (2, 4) and bool(((inferred >= 0) & (inferred < 5)).all())


def test_a_model_that_ends_otherwise_has_no_labels_to_infer():
    observation, _ = observation_of("none", "lenet", labels_known=False)
    object.__setattr__(observation, "module", nn.Sequential(nn.Flatten(), nn.Linear(128, 3), nn.LayerNorm(3)))
    assert "labels cannot be inferred: the model must end in a linear layer" in InvertingGradients().obstacle(observation)
    with pytest.raises(ValueError, match="cannot be inferred"):
        known_or_inferred_labels(observation)


def test_observation_checks_its_shapes():
    observation, _ = observation_of("none", "lenet")
    with pytest.raises(ValueError, match=r"wrong: \['0.bias'\]"):
        Observation(**{**observation.__dict__, "shared": {**observation.shared, "0.bias": torch.zeros(3)}})
    with pytest.raises(ValueError, match="labels must be"):
        Observation(**{**observation.__dict__, "labels": torch.zeros(3, 2, dtype=torch.long)})


@pytest.mark.parametrize("model", ["lenet", "mlp"])
@pytest.mark.parametrize("specification", [
    "inverting-gradients(iterations=4)", "feature-matching(iterations=4)", "idlg(iterations=4)", "dlg(iterations=4)", "analytic",
    "see-through-gradients(iterations=4)"])
def test_labels_that_are_probabilities_are_matched_as_such(specification, model):
    """One-hot ones give what class indices give, and the labels that are returned are classes."""
    observation, x = observation_of("none", model, dtype=torch.float64)
    probable = replace(observation, labels=nn.functional.one_hot(observation.labels, 5).double())
    attack = attacks.create(specification)
    if attack.obstacle(observation):
        assert model == "lenet" and specification == "analytic"
        return
    one, other = (attack.reconstruct(o, seed=0) for o in (observation, probable))
    torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-9)
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(score(observation, x, observation.labels, 0), score(observation, x, probable.labels, 0))
