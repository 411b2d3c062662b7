from __future__ import annotations

import pytest
import torch
from attack_cases import observation_of
from conftest import MODELS
from torch import nn

from attacks import InvertingGradients, Observation
from attacks.labels import idlg_labels, known_or_inferred_labels
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
