from __future__ import annotations

import pytest
import torch
import torchvision
from model_cases import MODELS, batch, loader
from opacus import GradSampleModule, PrivacyEngine
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn import functional as F

from defenses import DPSGD, create


def make(defense: DPSGD, model: str = "lenet", **arguments):
    torch.manual_seed(0)
    module = MODELS[model]()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    private = defense.make_private(module=module, optimizer=optimizer, **{"data_loader": loader(), **arguments})
    private.module.train()
    return private


def deeper() -> nn.Module:
    """The last of maps of one pixel."""
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 6, 3, stride=4, padding=2, dilation=2, groups=2),
                         nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1), nn.Flatten(), nn.Linear(4, 5))


LAYOUTS = {
    "contiguous": lambda x: x, "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "of rows": lambda x: x.permute(0, 2, 3, 1).flatten(1).clone().view(-1, 8, 8, 2).permute(0, 3, 1, 2),  # as the benchmark's loader
    "turned": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3), "a part": lambda x: F.pad(x, (1, 2, 1, 2))[..., 1:-2, 1:-2]}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("model", [*MODELS, "deeper"])
def test_clipping_against_one_sample_at_a_time(model, model_layout, layout, monkeypatch):
    monkeypatch.setitem(MODELS, "deeper", deeper)
    clip = 0.03
    private = make(DPSGD(noise_multiplier=0.0, max_grad_norm=clip), model)
    private.module.to(memory_format=model_layout)
    for layer in private.module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    x, y = batch(4)
    expected = [torch.zeros_like(p) for p in private.module.parameters()]
    for i in range(len(x)):
        gradient = torch.autograd.grad(F.cross_entropy(private.module(x[i : i + 1]), y[i : i + 1]), list(private.module.parameters()))
        norm = torch.sqrt(sum(g.square().sum() for g in gradient)).item()
        assert norm > clip  # the sample is clipped, and by itself to that norm
        alone = private.shared_gradient(LAYOUTS[layout](x[i : i + 1]), y[i : i + 1])
        assert torch.sqrt(sum(g.square().sum() for g in alone.values())).item() == pytest.approx(clip, rel=1e-4)
        expected = [e + g * clip / norm / len(x) for e, g in zip(expected, gradient, strict=True)]
    shared = private.shared_gradient(LAYOUTS[layout](x), y)
    for gradient, reference in zip(shared.values(), expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-7)


def test_noisy_gradient_is_opacus_own():
    """The same weights, batch and noise generator through GradSampleModule and DPOptimizer give the same gradient."""
    x, y = batch(6)
    private = make(DPSGD(noise_multiplier=1.3, max_grad_norm=0.5))
    shared = private.shared_gradient(x, y, seed=11)
    torch.manual_seed(0)
    module = GradSampleModule(MODELS["lenet"]())
    optimizer = DPOptimizer(torch.optim.SGD(module.parameters(), lr=0.1), noise_multiplier=1.3, max_grad_norm=0.5,
                            expected_batch_size=6, generator=torch.Generator().manual_seed(11))
    F.cross_entropy(module(x), y).backward()
    optimizer.pre_step()
    for gradient, parameter in zip(shared.values(), module.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_noise_of_an_observed_batch_is_divided_by_its_size():
    """An observer of B images sees noise of standard deviation noise_multiplier * max_grad_norm / B."""
    private = make(DPSGD(noise_multiplier=2.0, max_grad_norm=3.0), "mlp")
    x, y = batch(2)
    draws = [private.shared_gradient(x, y)["1.weight"] for _ in range(40)]
    assert torch.stack(draws).std(0).mean().item() == pytest.approx(2.0 * 3.0 / 2, rel=0.03)


@pytest.mark.parametrize("delta", [1e-5, 1e-3])
@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_epsilon_is_that_of_the_privacy_engine(accountant, delta):
    """Also where the last batch is not full: a Poisson sample is then smaller than a batch on average."""
    private = make(DPSGD(noise_multiplier=1.1, accountant=accountant, delta=delta), data_loader=loader(25))
    for x, y in private.data_loader:
        private.backward(x, y)
        private.optimizer.step()
    engine = PrivacyEngine(accountant=accountant)
    module = MODELS["lenet"]()
    module, optimizer, data = engine.make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader(25), noise_multiplier=1.1,
        max_grad_norm=1.0)
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    assert len(data) == len(private.data_loader)
    assert private.delta == delta and private.privacy_spent() == pytest.approx(engine.get_epsilon(delta), rel=1e-9)
    assert private.privacy_spent(1e-6) == pytest.approx(engine.get_epsilon(1e-6), rel=1e-9)


@pytest.mark.parametrize(("accountant", "delta"), [("prv", 1e-5), ("rdp", 1e-3)])
def test_target_epsilon_is_met_by_the_planned_training_at_the_delta_asked_for(accountant, delta):
    private = make(DPSGD(target_epsilon=2.0, delta=delta, accountant=accountant), epochs=3)
    for _ in range(3):
        for x, y in private.data_loader:
            private.backward(x, y)
    assert 1.98 < private.privacy_spent() == private.privacy_spent(delta) <= 2.0  # Opacus searches to 0.01
    assert private.privacy_spent(delta / 10) > 2.1


def test_target_epsilon_needs_the_number_of_epochs():
    with pytest.raises(ValueError, match="planned number of epochs"):
        make(DPSGD(target_epsilon=2.0))


def test_nothing_spent_before_training_and_no_guarantee_without_noise():
    private = make(DPSGD(noise_multiplier=0.0))
    assert private.privacy_spent() == 0
    private.backward(*batch(3))
    assert private.privacy_spent() == float("inf")


def test_an_empty_poisson_sample_releases_noise_alone():
    private = make(DPSGD(noise_multiplier=1.0))
    private.backward(torch.empty(0, 2, 8, 8), torch.empty(0, dtype=torch.long))
    # 6 images are expected in a batch, so the noise has a standard deviation of 1 / 6.
    flat = torch.cat([p.grad.flatten() for p in private.module.parameters()])
    assert flat.std().item() == pytest.approx(1 / 6, rel=0.2)


def test_batches_are_poisson_samples():
    sizes = [len(y) for _ in range(50) for _, y in make(DPSGD()).data_loader]
    assert len(set(sizes)) > 3
    assert sum(sizes) / len(sizes) == pytest.approx(6, rel=0.2)


def test_batch_norm_is_replaced():
    module = make(DPSGD(), "batch-norm").module
    assert isinstance(module.norm, torch.nn.GroupNorm)


def test_residual_networks_can_be_trained():
    """torchvision's residual additions are in place, which Opacus' hooks forbid."""
    module = torchvision.models.resnet18(num_classes=5)
    private = DPSGD(noise_multiplier=0.0, max_grad_norm=1e6).make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader())
    private.module.train()
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    shared = private.shared_gradient(x, y)
    plain = torch.autograd.grad(F.cross_entropy(private.module(x), y), list(private.module.parameters()))
    for gradient, reference in zip(shared.values(), plain, strict=True):  # nothing is clipped, so it is the plain gradient
        torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-5)


def test_evaluation_mode_and_unknown_loaders_are_refused():
    private = make(DPSGD())
    private.module.eval()
    with pytest.raises(ValueError, match="training mode"):
        private.shared_gradient(*batch(2))
    module = MODELS["mlp"]()
    with pytest.raises(TypeError, match="cannot do so from list"):
        DPSGD().make_private(module=module, optimizer=torch.optim.SGD(module.parameters(), lr=1), data_loader=[])


@pytest.mark.parametrize("arguments", [
    {"noise_multiplier": -1}, {"max_grad_norm": 0}, {"target_epsilon": 0}, {"delta": 1}, {"accountant": "gdp"},
    {"noise_multiplier": 1.0, "target_epsilon": 1.0},
])
def test_bad_parameters_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|not both"):
        DPSGD(**arguments)


def test_only_one_member_of_a_composition_replaces_the_training():
    with pytest.raises(ValueError, match="named once"):
        create("dp-sgd+dp-sgd(noise_multiplier=2)")
