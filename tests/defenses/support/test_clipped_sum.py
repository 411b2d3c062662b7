"""Clipped sums against gradients of one sample at a time, in float64; and what is left to Opacus."""

from __future__ import annotations

import pytest
import torch
import torchvision
from model_cases import MODELS, batch
from torch import nn
from torch.nn import functional as F

from defenses import DPSGD, Batch, Defense, Step, create
from defenses.client import client_loss
from defenses.support import clipped_sum as support
from defenses.support.clipped_sum import clipped_sum


class Sequence(nn.Module):
    """A linear layer over several positions of an image, a layer norm, and a layer that is there and not run."""

    def __init__(self, flattened: int = 2) -> None:
        super().__init__()
        self.flattened = flattened
        self.over_rows, self.norm, self.unused = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(3, 3)
        self.out = nn.Linear(2 * 8 * 6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.norm(self.over_rows(x.flatten(1, self.flattened)))).flatten(1))


def convolutions() -> nn.Module:
    """Strides, dilations, paddings and filters that differ by side; groups; no bias; a group norm."""
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 5), stride=(2, 1), padding=(1, 0), bias=False), nn.GroupNorm(2, 4), nn.Tanh(),
        nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))


COVERED = {
    **MODELS, "sequence": Sequence, "grid": lambda: Sequence(1), "convolutions": convolutions,
    "resnet": lambda: nn.Sequential(torchvision.models.resnet.BasicBlock(2, 2, norm_layer=lambda c: nn.GroupNorm(1, c)), nn.Flatten(),
                                    nn.Linear(128, 5)),
}


def built(name, defense=None):
    torch.manual_seed(0)
    module = COVERED[name]()
    module(batch()[0])
    module = (defense or DPSGD()).extend_model(module).double().train()
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return module


def expected_of(module, defense, x, y, clip):
    """Each sample by itself, by autograd."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    total, norms = {name: torch.zeros_like(p) for name, p in parameters.items()}, []
    for i in range(len(x)):
        torch.manual_seed(1)
        loss = client_loss(defense, module, x, y)[i]  # as a whole, so that what the model samples is the same
        gradient = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        norms.append(torch.sqrt(sum(g.square().sum() for g in gradient)))
        total = {name: t + g * min(1.0, clip / (norms[-1] + 1e-6)) for (name, t), g in zip(total.items(), gradient, strict=True)}
    return total, torch.stack(norms)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias",)])
@pytest.mark.parametrize("defense", ["dp-sgd", "precode(bottleneck_size=3, beta=0.1)+dp-sgd"])
@pytest.mark.parametrize("model", COVERED)
def test_against_one_sample_at_a_time(model, defense, frozen, channels_last):
    defense = create(defense)
    module = built(model, defense)
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm))]
    for name in frozen:
        getattr(layers[0], name).requires_grad_(False) if getattr(layers[0], name) is not None else None
    x, y = batch()
    x = x.double().contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    _, norms = expected_of(module, defense, x, y, 1.0)
    clip = norms.median().item()
    assert norms.min() < clip < norms.max()  # some samples are clipped, and some not
    expected, _ = expected_of(module, defense, x, y, clip)
    torch.manual_seed(1)
    summed, losses = clipped_sum(module, lambda: client_loss(defense, module, x, y), clip)
    assert summed.keys() == expected.keys()
    for name, total in summed.items():
        torch.testing.assert_close(total, expected[name], rtol=1e-10, atol=1e-12, msg=name)
    torch.manual_seed(1)
    assert torch.equal(losses, client_loss(defense, module, x, y))


def test_norms_do_not_depend_on_how_many_patches_are_taken_at_once(monkeypatch):
    module, (x, y) = built("convolutions"), batch()
    found = []
    for patches in (1, 2**11, 2**30):
        monkeypatch.setitem(support._PATCHES, "cpu", patches)
        found.append(clipped_sum(module, lambda: client_loss(None, module, x.double(), y), 0.1)[0])
    for other in found[1:]:
        for name, total in found[0].items():
            torch.testing.assert_close(other[name], total, rtol=1e-12, atol=1e-15)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(128, 128), nn.Linear(128, 128)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x.flatten(1))))


class Twice(Tied):
    def forward(self, x):
        return self.first(torch.tanh(self.first(x.flatten(1))))


class Functional(nn.Module):
    """Uses the weights of a layer beside running it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(128, 5)

    def forward(self, x):
        return self.first(x.flatten(1)) + F.linear(x.flatten(1), self.first.weight)


class Instead(Functional):
    """Uses the weights of a layer without running it."""

    def forward(self, x):
        return F.linear(x.flatten(1), self.first.weight)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x.flatten(1))


class Overwritten(Functional):
    """Writes into what a layer returned."""

    def forward(self, x):
        return self.first(x.flatten(1)).sin_()


class Decayed(Defense):
    def regularizer(self, module):
        return 0.1 * sum(p.square().sum() for p in module.parameters())


@pytest.mark.parametrize(("module", "defense"), [
    (Tied(), None), (Twice(), None), (Functional(), None), (Instead(), None), (Overwritten(), None), (Scaled(128, 5), None),
    (nn.Sequential(nn.Conv2d(2, 3, 3, padding="same"), nn.Flatten(), nn.LazyLinear(5)), None),
    (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.LazyLinear(5)), None),
    (nn.Sequential(nn.Flatten(), torch.nn.utils.parametrizations.weight_norm(nn.Linear(128, 5))), None),
    (nn.Sequential(nn.Flatten(), nn.Linear(128, 5)), Decayed())])
def test_where_norms_of_layers_do_not_add_up_so_nothing_is_told(module, defense):
    x, y = batch()
    module(x)
    assert clipped_sum(module, lambda: client_loss(defense, module, x, y), 1.0) is None


def test_another_precision_within_the_step_is_left_to_opacus():
    module, (x, y) = built("mlp").float(), batch()

    def losses():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return client_loss(None, module, x, y)

    assert clipped_sum(module, losses, 1.0) is None


@pytest.mark.parametrize("model", [name for name in COVERED if name != "grid"])  # Opacus takes one row of positions
def test_opacus_gives_the_same(model, monkeypatch):
    module, (x, y) = built(model).float(), batch()
    for name in ("unused.weight", "unused.bias"):  # of a layer that is not run Opacus knows no norm
        if name in dict(module.named_parameters()):
            module.get_parameter(name).requires_grad_(False)

    def gradient():
        step = Step(module, Batch(x, y), len(x), torch.Generator().manual_seed(3), {}, 0,
                    lambda batch, replaced=None: client_loss(None, replaced or module, *batch))
        return DPSGD(noise_multiplier=0.5, max_grad_norm=0.7).batch_gradient(Batch(x, y), step)

    gradients, loss = gradient()
    gradients = {name: g.clone() for name, g in gradients.items()}
    monkeypatch.setattr("defenses.support.clipped_sum.clipped_sum", lambda *arguments: None)
    by_opacus, loss_by_opacus = gradient()
    torch.testing.assert_close(loss, loss_by_opacus)
    for name, g in by_opacus.items():
        torch.testing.assert_close(gradients[name], g, rtol=1e-4, atol=1e-6)


class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2 * 8 * 8, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.last(torch.tanh(self.first(torch.dropout(x.flatten(1), 0.5, True))))


def test_what_is_left_to_opacus_draws_the_same_random_numbers(monkeypatch):
    """By a loss that reads a parameter, which shows after the model has run."""
    torch.manual_seed(0)
    module, (x, y) = Drops(), batch()

    def losses(replaced=None):
        return client_loss(None, replaced or module, x, y) + 0.1 * module.first.weight.square().sum()

    def gradient():
        torch.manual_seed(1)
        step = Step(module, Batch(x, y), len(x), torch.Generator().manual_seed(3), {}, 0, lambda batch, replaced=None: losses(replaced))
        gradients, _ = DPSGD(noise_multiplier=0.0).batch_gradient(Batch(x, y), step)
        return {name: g.clone() for name, g in gradients.items()}, torch.get_rng_state()

    assert clipped_sum(module, losses, 1.0) is None
    tried, state = gradient()
    monkeypatch.setattr("defenses.support.clipped_sum.clipped_sum", lambda *arguments: None)
    alone, state_alone = gradient()
    assert torch.equal(state, state_alone) and all(torch.equal(g, alone[name]) for name, g in tried.items())
