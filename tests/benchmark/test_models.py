from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmark import models
from benchmark.config import make_grid
from benchmark.errors import InputError

#: Of all registered models; a family is tested by one of its members.
NAMES = [name for name in models.registry.names() if ":" not in name]


@given(name=st.sampled_from(NAMES), channels=st.integers(1, 4), height=st.integers(1, 33), width=st.integers(1, 33),
       classes=st.integers(2, 12))
def test_any_channels_size_and_classes(name, channels, height, width, classes):
    module = models.build(name, (channels, height, width), classes)
    assert module(torch.zeros(2, channels, height, width)).shape == (2, classes)


@pytest.mark.parametrize("specification", [*NAMES, "torchvision:resnet18"])
def test_every_model_follows_torchs_generator_and_its_label_makes_it_again(specification):
    model, built = models.create(specification), []
    assert model.summary and model.paper and models.create(model.label) == model
    for _ in range(2):
        torch.manual_seed(0)
        built.append(models.build(specification, (3, 32, 32), 10).state_dict())
    models.check(specification, (3, 32, 32), 10)
    assert all(torch.equal(first, second) for first, second in zip(*(weights.values() for weights in built), strict=True))


def test_sizes_of_the_papers():
    """Parameters by hand: LeNet 912 + 3,612 + 3,612 + 7,690; CNN one of its convolutions more; MLP 3,146,752 + 1,049,600 + 10,250."""
    count = {name: sum(p.numel() for p in models.build(name, (3, 32, 32), 10).parameters()) for name in ("lenet", "cnn", "mlp")}
    assert count == {"lenet": 912 + 3612 + 3612 + 7690, "cnn": 912 + 3 * 3612 + 7690, "mlp": 3_146_752 + 1_049_600 + 10_250}


@pytest.mark.parametrize(("specification", "label", "activation"), [
    ("lenet", "lenet", nn.Sigmoid), ("lenet(activation=sigmoid)", "lenet", nn.Sigmoid),
    ("lenet(activation=tanh)", "lenet(activation='tanh')", nn.Tanh), ("lenet(activation='relu')", "lenet(activation='relu')", nn.ReLU)])
def test_a_lenet_is_labelled_by_an_activation_other_than_its_own(specification, label, activation):
    assert models.create(specification).label == label
    layers = [type(layer) for layer in models.build(specification, (1, 8, 8), 3)]
    assert layers == [*3 * (nn.Conv2d, activation), nn.Flatten, nn.Linear]


@pytest.mark.parametrize(("specification", "label", "width", "activation"), [
    ("cnn", "cnn", 12, nn.ReLU), ("cnn(activation=relu)", "cnn", 12, nn.ReLU), ("cnn(width=12)", "cnn", 12, nn.ReLU),
    ("cnn(activation=sigmoid, width=5)", "cnn(width=5, activation='sigmoid')", 5, nn.Sigmoid)])
def test_a_cnn_is_labelled_by_what_is_not_its_own_and_maps_a_quarter_of_the_sides_to_scores(specification, label, width, activation):
    assert models.create(specification).label == label
    layers = models.build(specification, (3, 9, 8), 4)
    assert [type(layer) for layer in layers] == [*4 * (nn.Conv2d, activation), nn.Flatten, nn.Linear]
    assert [(layer.in_channels, layer.out_channels, layer.stride) for layer in layers[:8:2]] == [
        (3, width, (2, 2)), (width, width, (2, 2)), (width, width, (1, 1)), (width, width, (1, 1))]
    assert layers[-1].in_features == width * 3 * 2  # nine pixels become five, and then three


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_models_take_any_channels(channels):
    module = models.build("torchvision:resnet18", (channels, 28, 28), 7).eval()
    assert module(torch.zeros(2, channels, 28, 28)).shape == (2, 7)


@dataclass(frozen=True)
class Narrow(models.Model):
    name: ClassVar[str] = "narrow"

    width: int = 4
    returns: str = "scores"

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def build(self, image_shape, classes):
        entries = image_shape[0] * image_shape[1] * image_shape[2]
        return {"scores": nn.Sequential(nn.Flatten(), nn.Linear(entries, self.width), nn.Linear(self.width, classes)),
                "pixels": nn.Identity(), "nothing": None}[self.returns]


@pytest.fixture
def narrow():
    models.registry.register(Narrow)
    yield
    del models.registry._classes["narrow"]


def test_a_grid_names_models_with_parameters_in_one_way(narrow):
    grid = make_grid({"models": ["narrow( width = 8 )", "narrow(width=8)", "narrow", "lenet", "mlp", "torchvision:resnet18"]}, "test")
    assert grid.models == ("narrow(width=8)", "narrow", "lenet", "mlp", "torchvision:resnet18")
    assert models.build(grid.models[0], (1, 2, 2), 3)[1].out_features == 8


@pytest.mark.parametrize(("name", "message"), [
    ("lnet", r"unknown model 'lnet'; did you mean 'lenet'\? \(known: mlp, lenet, cnn, torchvision:NAME, narrow\)"),
    ("torchvision:rsnet18", "^unknown torchvision model 'rsnet18'; did you mean 'resnet18'"),
    ("torchvision", "did you mean 'torchvision:NAME'"), ("torchvision:", "unknown torchvision model ''"),
    ("torchvision:resnet18(width=3)", r"unknown parameter of model torchvision:resnet18 'width' \(it has none\)"),
    ("torchvision:alexnet", "does not take images of 3x32x32"), ("torchvision:vit_b_32", None), ("torchvision:vit_b_16", None),
    ("lenet(width=3)", "unknown parameter of model lenet 'width'"), ("lenet(activation=tanh)", None),
    ("lenet(activation=tan)", "activation must be one of sigmoid, tanh, relu, got 'tan'"),
    ("lenet(activation=[tanh, relu])", "activation takes one value here, got .'tanh', 'relu'.; only the defenses of a grid take lists"),
    ("cnn(width=0)", "width must be a whole number >= 1, got 0"), ("cnn(width=7.5)", "width must be a whole number >= 1, got 7.5"), ("cnn(width=3)", None),
    ("cnn(activation=tan)", "activation must be one of sigmoid, tanh, relu, got 'tan'"),
    ("narrow(widht=3)", "did you mean 'width'"),
    ("narrow(width=0)", "width must be at least 1, got 0"), ("narrow(width=7)", None), ("le net", "expected NAME or NAME"),
    ("narrow(returns='pixels')", r"must return class scores of shape \[batch, 10\]"),
    ("narrow(returns='else')", "cannot be built for images of 3x32x32: 'else'"),
    ("narrow(returns='nothing')", "cannot be built for images of 3x32x32")])
def test_checking_computes_nothing_and_says_what_is_wrong(name, message, narrow):
    state = torch.get_rng_state()
    if message is None:
        models.check(name, (3, 32, 32), 10)
    else:
        with pytest.raises(InputError, match=message):
            models.check(name, (3, 32, 32), 10)
    assert torch.equal(state, torch.get_rng_state())
