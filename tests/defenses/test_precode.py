from __future__ import annotations

import math

import pytest
import torch
import torchvision
from model_cases import MODELS, batch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from defenses import PRECODE, VariationalBottleneck, client_loss
from defenses.precode import bottlenecks
from defenses.support.last_linear import last_linear


def test_divergence_is_that_of_torch_distributions_in_bits():
    torch.manual_seed(0)
    bottleneck = VariationalBottleneck(7, 4, dtype=torch.float64)
    h = torch.randn(3, 7, dtype=torch.float64)
    bottleneck(h)
    mu, s = bottleneck.encoder(h).chunk(2, dim=1)
    expected = kl_divergence(Normal(mu, F.softplus(s)), Normal(0, 1)).sum(1) / math.log(2)
    torch.testing.assert_close(bottleneck.take_divergence(), expected, rtol=1e-12, atol=0)


def test_output_decodes_the_sample_of_the_given_noise():
    bottleneck = VariationalBottleneck(7, 4)
    h, bottleneck.epsilon = torch.randn(3, 7), torch.randn(3, 4)
    mu, s = bottleneck.encoder(h).chunk(2, dim=1)
    torch.testing.assert_close(bottleneck(h), bottleneck.decoder(mu + F.softplus(s) * bottleneck.epsilon))


def test_keeps_sampling_in_evaluation():
    module = PRECODE(4).extend_model(MODELS["mlp"]()).eval()
    x, _ = batch(2)
    assert not torch.equal(module(x), module(x))


def test_loss_is_cross_entropy_plus_beta_times_divergence():
    torch.manual_seed(0)
    defense = PRECODE(4, beta=0.25)
    module = defense.extend_model(MODELS["mlp"]())
    (bottleneck,) = bottlenecks(module)
    bottleneck.epsilon = torch.randn(2, 4)
    x, y = batch(2)
    loss = client_loss(defense, module, x, y)
    logits = module(x)
    torch.testing.assert_close(loss, F.cross_entropy(logits, y, reduction="none") + 0.25 * bottleneck.take_divergence())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121", "vit_b_32"])
def test_extends_torchvision_models(name):
    size = 224 if name.startswith("vit") else 32
    module = torchvision.models.get_model(name, weights=None, num_classes=5)
    extended = PRECODE(8).extend_model(module)
    (bottleneck,) = bottlenecks(extended)
    assert extended.eval()(torch.randn(2, 3, size, size)).shape == (2, 5)
    assert bottleneck.decoder.out_features == bottleneck.encoder.in_features


def test_finds_the_layer_by_data_flow_not_by_registration():
    assert last_linear(MODELS["batch-norm"]())[0] == "classifier"


def test_a_model_that_cannot_be_traced_is_read_in_order():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.second(self.first(x) if x.sum() > 0 else x)

    assert last_linear(Branching())[0] == "second"


def test_a_linear_layer_alone_and_one_before_softmax_are_found():
    assert last_linear(nn.Linear(3, 2))[0] == ""
    assert last_linear(nn.Sequential(nn.Linear(3, 2), nn.Dropout(), nn.Softmax(1)))[0] == "0"
    assert isinstance(PRECODE(2).extend_model(nn.Linear(3, 2))(torch.randn(1, 3)), torch.Tensor)


def test_a_model_that_ends_otherwise_is_refused():
    with pytest.raises(ValueError, match="must end in a linear layer, but Sequential ends in Conv2d"):
        PRECODE().extend_model(nn.Sequential(nn.Linear(3, 2), nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize("arguments", [{"bottleneck_size": 0}, {"bottleneck_size": 2.5}, {"beta": -1}])
def test_bad_parameters_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        PRECODE(**arguments)
