from __future__ import annotations

import copy
import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from model_cases import MODELS, batch
from torch import nn

from defenses import DroppedFeatures
from defenses.dropout import DroppedLinear
from defenses.stochastic import sampling, stochastic_layers


def layer_of(p: float, features: int = 6, dtype: torch.dtype = torch.float64) -> DroppedLinear:
    torch.manual_seed(0)
    return DroppedLinear(nn.Linear(features, 3, dtype=dtype), p)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_a_client_drops_as_torch_does(p):
    """The same layer with torch's dropout before it, under the mask that torch drew."""
    layer, h = layer_of(p), torch.rand(4, 6, dtype=torch.float64) + 0.1
    dropped = nn.functional.dropout(h, p, training=True)
    with sampling([layer], [(dropped != 0).double()]):
        torch.testing.assert_close(layer(h), layer.linear(dropped), rtol=1e-12, atol=0)


@pytest.mark.parametrize("p", [0.2, 0.75])
def test_a_share_of_the_features_is_dropped_in_training_and_none_in_evaluation(p):
    layer, h = layer_of(p, 1000), torch.ones(50, 1000, dtype=torch.float64)
    entered = []
    layer.linear.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    layer.train()(h)
    kept = entered[-1] != 0
    assert abs(kept.double().mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / kept.numel())
    assert torch.equal(entered[-1][kept], torch.full_like(entered[-1][kept], 1 / (1 - p)))
    layer(h)
    assert not torch.equal(entered[-1] != 0, kept)  # drawn anew
    layer.eval()(h)
    assert torch.equal(entered[-1], h)
    with sampling([layer]):  # the mean of what is sampled
        layer.train()(h)
    assert torch.equal(entered[-1], h)


@given(p=st.floats(0.05, 0.95), seed=st.integers(0, 100))
def test_masks_made_of_noise_keep_the_share_that_is_expected(p, seed):
    layer = layer_of(p)
    masks = layer.drawn(torch.randn(2, 5000, generator=torch.Generator().manual_seed(seed)))
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert abs(masks.mean() - layer.expected) < 6 * math.sqrt(p * (1 - p) / masks.numel())


def test_how_improbable_a_mask_is_by_hand():
    layer = layer_of(0.25)
    masks = torch.tensor([[[1.0, 1, 1, 0]], [[1.0, 0, 0, 0]], [[0.5, 0.5, 0.5, 0.5]]])
    torch.testing.assert_close(layer.improbability(masks), torch.tensor([0.0, 0.5, 0.25]))


def test_a_code_is_replayed_as_what_was_kept_of_any_features():
    layer, h = layer_of(0.5), torch.rand(2, 6, dtype=torch.float64) + 0.1
    code = 3 * torch.tensor([[1.0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1]], dtype=torch.float64)
    with sampling([layer], codes=[code]):
        torch.testing.assert_close(layer(h), layer.linear(2 * h * (code != 0)), rtol=1e-12, atol=0)


def test_a_code_tells_the_features_that_were_kept():
    layer, h = DroppedLinear(torch.nn.Linear(6, 2), 0.25), torch.randn(3, 6)
    kept = torch.tensor([[1, 0, 1, 1, 0, 1.0]]).expand(3, 6)
    features, where = layer.told(h * kept / 0.75)
    torch.testing.assert_close(features, h * kept)
    assert torch.equal(where, kept.bool())


def test_what_is_within_the_errors_of_a_reading_was_dropped():
    code = torch.tensor([[0.02, 0.5, -0.02, -0.5]])
    assert layer_of(0.5).denoised(code, torch.full_like(code, 0.01)).tolist() == [[0, 0.5, 0, -0.5]]


@pytest.mark.parametrize("model", MODELS)
def test_nothing_dropped_is_no_defense(model):
    module = MODELS[model]()
    assert DroppedFeatures(p=0).extend_model(module) is module and not stochastic_layers(module)


@pytest.mark.parametrize("model", MODELS)
def test_the_parameters_stay_and_evaluation_is_that_of_the_plain_model(model):
    plain = MODELS[model]().eval()
    extended = DroppedFeatures(p=0.5).extend_model(copy.deepcopy(plain)).eval()
    x, _ = batch(3)
    assert torch.equal(extended(x), plain(x))
    assert [p.shape for p in extended.parameters()] == [p.shape for p in plain.parameters()]


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32"])
def test_extends_torchvision_models(name):
    size = 224 if name.startswith("vit") else 32
    extended = DroppedFeatures().extend_model(torchvision.models.get_model(name, weights=None, num_classes=5))
    assert extended.train()(torch.randn(2, 3, size, size)).shape == (2, 5) and len(stochastic_layers(extended)) == 1


@pytest.mark.parametrize("p", [-0.1, 1, 1.5, "half"])
def test_bad_parameters_are_refused(p):
    with pytest.raises(ValueError, match="p must be"):
        DroppedFeatures(p=p)
