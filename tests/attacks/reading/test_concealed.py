"""An image and a concealing one beside it, told apart in the gradient of both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_cases import observation_of
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from attacks import create
from attacks.engine.matcher import GradientMatcher
from attacks.methods.recursive import of_first_layers
from attacks.reading.concealed import inputs_beside
from attacks.reading.layers import last_features
from attacks.reading.recursion import read_backwards

DCS2 = "dcs2(iterations=2, step_size=20)"


def wide() -> nn.Module:
    """Two images have more equations than unknowns in each layer."""
    return nn.Sequential(nn.Conv2d(2, 16, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh(), nn.Flatten(),
                         nn.Linear(256, 5))


@given(seed=st.integers(0, 200), classes=st.integers(4, 12), width=st.integers(3, 40), soft=st.booleans())
def test_the_inputs_of_two_images_are_told_apart_by_the_target_of_one(seed, classes, width, soft):
    """Against the inputs, with the gradient by autograd: of another class, or of a mixed one, and whatever the size of the inputs."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(width, classes).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / width**0.5)
    inputs = torch.randn(1, 2, width, generator=generator, dtype=torch.float64) * 10 ** float(torch.rand(1, generator=generator) - 0.5)
    targets = F.one_hot(torch.tensor([0, 1]), classes).double()
    if soft:
        targets[1] = 0.3 * targets[0] + 0.7 * targets[1]
    loss = F.cross_entropy(layer(inputs[0]), targets)
    weight, bias = torch.autograd.grad(loss, (layer.weight, layer.bias))
    found, errors = inputs_beside(weight[None], bias[None], layer, targets[:1])
    torch.testing.assert_close(found, inputs, rtol=0, atol=1e-5 * float(inputs.abs().max()))
    torch.testing.assert_close(errors[0], 0.5 * (layer(inputs[0]).softmax(-1) - targets).detach(), rtol=0, atol=1e-6)


def test_both_images_are_read_backwards():
    observation, x = observation_of(DCS2, wide, dtype=torch.float64)
    links, known = read_backwards(observation, 0, 4000)
    assert not links and known.value.shape == (len(x), 2, *x.shape[2:])
    torch.testing.assert_close(known.value[:, :1], x, rtol=0, atol=1e-3)
    assert known.value[:, 1].abs().mean() > 1.5 * x.abs().mean()  # the concealing image, in no range of pixels
    found = create("recursive(matched=0)").reconstruct(observation, seed=0).images
    torch.testing.assert_close(found, (x * 0.25 + 0.5).clamp(0, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("matched", [1, 2])
def test_the_original_beside_the_concealing_image_is_a_minimum(matched):
    observation, x = observation_of(DCS2, wide, dtype=torch.float64)
    images = read_backwards(observation, 0, 4000)[1].value
    links, known = read_backwards(observation, matched, 4000)
    first, labels, objective = of_first_layers(observation, links, known, 0.0)
    assert first.batch_size == 1 and labels.shape == (len(x), 1)
    assert objective.layers == (("2",) if matched == 2 else None)  # not the layer that sees the pixels, but where there is no other
    matcher = GradientMatcher(replace(first, labels=None, batch_size=2), labels.expand(-1, 2), objective, seeds=range(len(x)))
    assert matcher.step(images)[1].abs().max() < 1e-5 < 1e-2 < matcher.step(images.roll(1, 0))[1].min()


@pytest.mark.parametrize("attack", ["recursive(iterations=20)", "feature-matching(iterations=20)"])
def test_who_knows_of_the_concealing_image_searches_for_both_and_gives_the_clients(attack):
    observation, x = observation_of(DCS2, wide)
    found = create(attack).reconstruct(observation, seed=0)
    assert found.images.shape == x.shape and found.images.min() >= 0 and found.images.max() <= 1


@pytest.mark.parametrize(("defense", "batch_size", "labels", "reason"), [
    (DCS2, 2, True, "not of 2"), (DCS2, 1, False, "label of the client's image"), (f"{DCS2}+noise(std=0.001)", 1, True, "as it was computed"),
    (f"{DCS2}+pruning(p=0.5)", 1, True, "as it was computed")])
def test_obstacles(defense, batch_size, labels, reason):
    observation, _ = observation_of(defense, wide, batch_size=batch_size)
    observation = observation if labels else replace(observation, labels=None)
    assert reason in last_features(observation) and reason in create("recursive").obstacle(observation)
    assert reason in create("feature-matching").obstacle(observation)
