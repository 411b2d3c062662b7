"""The gradients of single images against autograd's, one image after another, in float64."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from attack_cases import observation_of, observation_through
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import Residual
from model_cases import MODELS
from torch import nn
from torch.nn import functional as F

from attacks import Observation
from attacks.engine.per_image import PerImage
from attacks.engine.rows import OuterRows
from benchmark import models
from defenses import Defense, client_loss
from defenses.stochastic import samples_of_codes, sampling


def of_each(observation: Observation, images: torch.Tensor, labels: torch.Tensor, samples=None, codes=()) -> dict[str, torch.Tensor]:
    """What autograd says, [K, n] by parameter name."""
    layers = list(observation.stochastic.values())
    parameters = {name: p for name, p in observation.module.named_parameters() if p.requires_grad}
    rows = []
    for i in range(len(images)):
        one = None if samples is None else [own[i : i + 1] for own in samples]
        if codes:
            one = [taken.detach() for taken in samples_of_codes(
                layers, [code[i : i + 1] for code in codes], lambda i=i: observation.module(images[i : i + 1]))]
        with sampling(layers, one):
            loss = client_loss(observation.defense, observation.module, images[i : i + 1], labels[i : i + 1]).sum()
        rows.append(torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True))
    return {name: torch.stack([row[place].flatten() for row in rows]) for place, name in enumerate(parameters)}


def images_of(observation: Observation, count: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(count, *observation.image_shape, generator=generator).to(observation.mean),
            torch.randint(classes, (count,), generator=generator))


def check(observation: Observation, structured: bool = True, **arguments) -> dict:
    """The rows equal autograd's, made from the layers where that is possible, and nothing is left behind."""
    images, labels = images_of(observation)
    compute = PerImage(observation)
    random = torch.get_rng_state()
    assert compute.bytes_per_image() > 0
    found, expected = compute(images, labels, **arguments), of_each(observation, images, labels, **arguments)
    assert found.keys() == expected.keys() == observation.shared.keys()
    assert (compute._layers is not None) is structured
    for name, rows in found.items():
        assert len(rows) == len(images) and not any(t.requires_grad for t in rows.tensors)
        torch.testing.assert_close(rows.entries(None), expected[name], rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
    assert torch.equal(random, torch.get_rng_state()) and all(p.grad is None for p in observation.module.parameters())
    return found


def with_any_gradients(module: nn.Module, shape: tuple[int, int, int]) -> Observation:
    """An observation whose gradients nobody looks at."""
    shared = {name: p.detach()[None] for name, p in module.double().eval().named_parameters() if p.requires_grad}
    return Observation(module=module, shared=shared, batch_size=1, image_shape=shape, mean=torch.zeros(shape[0]).double(),
                       std=torch.ones(shape[0]).double(), labels=torch.zeros(1, 1).long())


def through(module: nn.Module, shape: tuple[int, int, int]) -> Observation:
    torch.manual_seed(0)
    for parameter in module.parameters():  # norms start at one and zero, which would hide a wrong factor
        nn.init.normal_(parameter, std=0.5)
    return observation_through(module, shape, victims=1)


@given(kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
       padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
       groups=st.sampled_from([1, 2]), bias=st.booleans(), size=st.tuples(st.integers(8, 11), st.integers(8, 11)))
def test_convolutions(kernel, stride, padding, dilation, groups, bias, size):
    first = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups, bias)
    second = nn.Conv2d(4, 4, 2, 1, 1, groups=2 * groups, bias=bias)  # with groups of one channel
    check(through(nn.Sequential(first, nn.Sigmoid(), second, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)), (2, *size)))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("side", [4, 8])
def test_lenets_of_all_activations(activation, side):
    check(through(models.build(f"lenet(activation={activation})", (2, side, side), 3), (2, side, side)))


def test_convolutions_over_few_positions_are_not_formed():
    module = nn.Sequential(nn.Conv2d(3, 24, 2, 2), nn.Tanh(), nn.Conv2d(24, 20, 3, 1, 1), nn.Tanh(), nn.Flatten(), nn.Linear(80, 3))
    found = check(through(module, (3, 4, 4)))
    assert isinstance(found["2.weight"], OuterRows) and found["2.weight"].a.shape == (5, 4, 24 * 9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [3, 40])
def test_linear_layers_over_positions(bias, width):
    """The rows of pixels of all channels, which are two dimensions of positions."""
    tokens = nn.Sequential(nn.Linear(4, width, bias), nn.Tanh(), nn.Linear(width, 4, bias), nn.Flatten(), nn.Linear(2 * 2 * 4, 3, bias))
    check(through(tokens, (2, 2, 4)))


def test_large_linear_layers_are_not_formed():
    module = nn.Sequential(nn.Flatten(2), nn.Linear(64, 48), nn.Tanh(), nn.Flatten(), nn.Linear(96, 40), nn.Tanh(), nn.Linear(40, 3))
    found = check(through(module, (2, 8, 8)))
    assert [found[name].a.shape[1] for name in ("1.weight", "4.weight")] == [2, 1]  # positions


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("norm", [
    lambda affine: nn.BatchNorm2d(4, eps=0.1, affine=affine), lambda affine: nn.GroupNorm(2, 4, eps=0.1, affine=affine),
    lambda affine: nn.LayerNorm([4, 3, 3], eps=0.1, elementwise_affine=affine), lambda affine: nn.LayerNorm(3, eps=0.1, elementwise_affine=affine),
    lambda affine: nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(4, eps=0.1, affine=affine)),
], ids=["batch", "group", "layer", "last dimension", "one dimension"])
def test_norms(norm, affine):
    norm = norm(affine)
    for layer in norm.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    check(through(nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), norm, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3)), (2, 6, 6)))


class Signs(nn.Module):
    def __init__(self, padding: int | None):
        super().__init__()
        self.embedding, self.last = nn.Embedding(2, 3, padding_idx=padding), nn.Linear(12, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.last((self.embedding((x > 0).long()) * torch.tanh(x)[..., None]).flatten(1))


@pytest.mark.parametrize("padding", [None, 0])
def test_embeddings(padding):
    check(through(Signs(padding), (1, 2, 2)))


class Idle(nn.Module):
    """One layer does not run, and nothing depends on the output of another."""

    def __init__(self):
        super().__init__()
        self.never, self.unheard, self.last = nn.Linear(4, 4), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        self.unheard(x.flatten(1))
        return self.last(x.flatten(1))


@pytest.mark.parametrize("model", [Residual(), Idle()], ids=["written into", "idle"])
def test_layers_whose_outputs_are_used_otherwise(model):
    found = check(with_any_gradients(model, (2, 2, 2)))
    if isinstance(model, Idle):
        assert not any(found[f"{layer}.{child}"].entries(None).any() for layer in ("never", "unheard") for child in ("weight", "bias"))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.shared(torch.tanh(self.shared(x.flatten(1))))))


class ByFunction(nn.Module):
    """Uses the weight of a layer without calling the layer, on what it has computed or on the image itself."""

    def __init__(self, image: bool):
        super().__init__()
        self.image, self.first, self.last = image, nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = x.flatten(1)
        own = torch.tanh(self.first(x))
        return self.last(own + torch.tanh(F.linear(x if self.image else own, self.first.weight)))


class PositionsFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(2).permute(2, 0, 1))).permute(1, 0, 2).flatten(1))


def tied() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))
    module[3].weight = module[1].weight
    return module


def frozen() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    module[1].weight.requires_grad_(False)
    return module


@pytest.mark.parametrize(("module", "reason"), [
    (Twice(), "runs more than once"), (tied(), "shared between layers, or frozen"), (ByFunction(False), "in other ways than its layers do"),
    (ByFunction(True), "in other ways than its layers do"), (PositionsFirst(), "does not see the images in its first dimension"),
    (nn.Sequential(nn.Conv2d(2, 2, 1, padding_mode="reflect"), nn.Flatten(), nn.Linear(8, 3)), "no rule for the layer 0 (Conv2d)"),
    (nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 2, 1), nn.Flatten(), nn.Linear(8, 3)), "no rule for the layer 1 (Conv1d)"),
], ids=["twice", "tied", "by function", "by function of the image", "positions first", "padded by reflection", "one dimension"])
def test_other_models_are_right_in_the_general_way(module, reason, caplog):
    with caplog.at_level(logging.INFO, "leakboard"):
        check(through(module, (2, 2, 2)), structured=False)
    assert caplog.text.count("gradients of candidates are formed") == 1 and reason in caplog.text


def test_frozen_parameters_have_no_rows():
    assert "1.weight" not in check(with_any_gradients(frozen(), (2, 2, 2)), structured=False)


@pytest.mark.parametrize("knowledge", ["blind", "informed"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("defense", ["none", "precode", "cvb", "dropout"])
def test_models_and_their_regularizers(defense, model, knowledge):
    """An informed attacker adds the divergence of PRECODE's code to the loss, a blind one does not; batch norm keeps its statistics."""
    observation, _ = observation_of(defense, model, dtype=torch.float64)
    if knowledge == "blind":
        observation = observation.blind()
    generator = torch.Generator().manual_seed(4)
    samples = observation.samples_of([torch.randn(5, *shape, generator=generator, dtype=torch.float64) for shape in observation.sample_shapes])
    buffers = {name: value.clone() for name, value in observation.module.named_buffers()}
    check(observation, samples=samples)
    check(observation)
    if samples:
        check(observation, codes=[2 * draw for draw in samples])
    assert all(torch.equal(value, buffers[name]) for name, value in observation.module.named_buffers())


def test_the_regularizer_matters():
    observation, _ = observation_of("precode", "lenet", dtype=torch.float64)
    images, labels = images_of(observation)
    informed, blind = (PerImage(one)(images, labels) for one in (observation, observation.blind()))
    names = [name for name in informed if "encoder" in name]
    assert names and all(not torch.allclose(informed[name].entries(None), blind[name].entries(None)) for name in names)


def test_a_regularizer_that_reads_parameters_takes_the_general_way(caplog):
    @dataclass(frozen=True)
    class Decay(Defense):
        name: ClassVar[str] = "decay"

        def regularizer(self, module):
            return 0.1 * sum(p.square().sum() for p in module.parameters())

    observation, _ = observation_of("none", "lenet", dtype=torch.float64)
    object.__setattr__(observation, "defense", Decay())
    with caplog.at_level(logging.INFO, "leakboard"):
        check(observation, structured=False)
    assert "may read parameters" in caplog.text


def test_some_layers_alone():
    observation, _ = observation_of("none", "batch-norm", dtype=torch.float64)
    images, labels = images_of(observation)
    found, expected = PerImage(observation, ["norm", "classifier"])(images, labels), of_each(observation, images, labels)
    assert found.keys() == {"norm.weight", "norm.bias", "classifier.weight", "classifier.bias"}
    for name, rows in found.items():
        torch.testing.assert_close(rows.entries(None), expected[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("specification", ["lenet", "mlp", pytest.param("torchvision:resnet18", marks=pytest.mark.slow)])
def test_models_of_the_benchmark(specification):
    torch.manual_seed(0)
    shape = (3, 32, 32) if "resnet" in specification else (1, 12, 12)
    check(with_any_gradients(models.build(specification, shape, 10), shape))
