from __future__ import annotations

import pytest
import torch
import torchvision
from model_cases import MODELS, batch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from defenses import CVB, client_loss
from defenses.cvb import ConvolutionalBottleneck
from defenses.stochastic import samples_of_codes, sampling, stochastic_layers
from defenses.support.first_block import first_block


def bottleneck_of(channels: int = 3, size: int = 4) -> ConvolutionalBottleneck:
    torch.manual_seed(0)
    return ConvolutionalBottleneck(channels, size, 5, dtype=torch.float64)


def test_output_and_divergence_by_convolutions_written_out():
    bottleneck = bottleneck_of()
    h, epsilon = torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.randn(2, 4, 6, 7, dtype=torch.float64)
    weight, decoder = bottleneck.encoder.weight, bottleneck.decoder.weight[:, :, 0, 0]
    padded = F.pad(h, (2, 2, 2, 2))
    patches = padded.unfold(2, 5, 1).unfold(3, 5, 1)
    mu, s = (torch.einsum("bchwij,kcij->bkhw", patches, part) for part in (weight[:4], weight[4:]))
    sigma = torch.log1p(s.exp())
    expected = torch.einsum("ck,bkhw->bchw", decoder, mu + sigma * epsilon)
    with sampling([bottleneck], [epsilon]):
        torch.testing.assert_close(bottleneck(h), expected, rtol=1e-9, atol=1e-12)
        divergence = bottleneck.take_divergence()
    of_entries = kl_divergence(Normal(mu, sigma), Normal(0, 1))
    torch.testing.assert_close(divergence, of_entries.sum((1, 2, 3)) / (6 * 7), rtol=1e-9, atol=0)


def test_a_code_that_is_replayed_is_the_sample_of_the_noise_that_made_it():
    """Of other features it is that of other noise, whose derivative by the features is that of (z - mu) / sigma."""
    bottleneck, h = bottleneck_of(), torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    epsilon = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    mu, s = bottleneck.encoder(h).chunk(2, 1)
    code = (mu + F.softplus(s) * epsilon).detach()
    with sampling([bottleneck], [epsilon]):
        sampled = bottleneck(h)
    with sampling([bottleneck], codes=[code]):
        torch.testing.assert_close(bottleneck(h), sampled, rtol=1e-9, atol=1e-12)
    (taken,) = samples_of_codes([bottleneck], [code], lambda: bottleneck(h))
    torch.testing.assert_close(taken, epsilon, rtol=1e-9, atol=1e-12)
    towards = torch.randn_like(h)

    def noise(h):
        mu, s = bottleneck.encoder(h).chunk(2, 1)
        return (code - mu) / F.softplus(s)

    (found,) = torch.autograd.grad(taken.square().sum(), h)
    difference = sum(sign * noise(h + sign * 1e-6 * towards).square().sum() for sign in (1, -1)) / 2e-6
    torch.testing.assert_close((found * towards).sum(), difference, rtol=1e-6, atol=1e-9)
    assert bottleneck.code is bottleneck.taken is None


@pytest.mark.parametrize(("channels", "size"), [(12, 8), (16, 8), (64, 32), (3, 8)])
def test_the_code_has_half_of_the_channels_at_least_eight(channels, size):
    extended = CVB().extend_model(nn.Sequential(nn.Conv2d(2, channels, 3), nn.Flatten(), nn.Linear(4, 2)))
    (bottleneck,) = stochastic_layers(extended).values()
    assert bottleneck.decoder.in_channels == size and bottleneck.encoder.out_channels == 2 * size
    assert bottleneck.encoder.kernel_size == (5, 5) and bottleneck.encoder.bias is None and bottleneck.decoder.kernel_size == (1, 1)


def test_loss_is_cross_entropy_plus_beta_times_divergence():
    defense = CVB(beta=0.25)
    module = defense.extend_model(MODELS["lenet"]())
    (bottleneck,) = stochastic_layers(module).values()
    x, y = batch(2)
    with sampling([bottleneck], [torch.randn(2, 8, 4, 4)]):
        loss = client_loss(defense, module, x, y)
        logits = module(x)
        torch.testing.assert_close(loss, F.cross_entropy(logits, y, reduction="none") + 0.25 * bottleneck.take_divergence())


def test_keeps_sampling_in_evaluation():
    module = CVB().extend_model(MODELS["lenet"]()).eval()
    x, _ = batch(2)
    assert not torch.equal(module(x), module(x))


def test_the_block_ends_where_the_authors_networks_end_it():
    assert first_block(MODELS["lenet"]())[0] == "1"  # behind the activation
    assert first_block(torchvision.models.resnet18())[0] == "maxpool"
    assert first_block(MODELS["batch-norm"]())[0] == "norm"  # a function follows
    assert first_block(nn.Conv2d(1, 2, 3))[0] == ""


def test_an_activation_that_is_used_twice_does_not_end_the_block():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()

        def forward(self, x):
            return self.relu(self.second(self.relu(self.first(x))))

    assert first_block(Shared())[0] == "first"


def test_a_model_that_cannot_be_traced_is_read_in_order():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act = nn.Conv2d(2, 4, 3), nn.ReLU()

        def forward(self, x):
            return self.act(self.first(x)) if x.sum() > 0 else x

    assert first_block(Branching())[0] == "first"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_extends_torchvision_models(name):
    size = 224 if name.startswith("vit") else 32
    extended = CVB().extend_model(torchvision.models.get_model(name, weights=None, num_classes=5))
    assert extended.eval()(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_a_model_without_convolution_is_refused():
    with pytest.raises(ValueError, match=r"must have a convolution of images .*, but Sequential has none"):
        CVB().extend_model(MODELS["mlp"]())


@pytest.mark.parametrize("arguments", [{"beta": -1}, {"kernel_size": 4}, {"kernel_size": 0}, {"kernel_size": 2.5}])
def test_bad_parameters_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        CVB(**arguments)
