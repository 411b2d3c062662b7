"""The rule of each kind of layer against plain double backward in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import BATCHES, COSTS, VICTIMS, as_they_are, check
from torch import nn

from attacks.engine.layers.blocked_convolution import BlockedConvolution
from attacks.engine.layers.patch_convolution import PatchConvolution
from attacks.engine.layers.turned_convolution import TurnedConvolution
from attacks.objective.costs import Cosine, Euclidean
from benchmark import models


@settings(max_examples=60)
@given(batch=BATCHES, victims=VICTIMS, kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
       stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
       groups=st.sampled_from([1, 2]), bias=st.booleans(), size=st.tuples(st.integers(8, 11), st.integers(8, 11)), cost=COSTS)
def test_convolutions(batch, victims, kernel, stride, padding, dilation, groups, bias, size, cost):
    first = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups, bias)
    second = nn.Conv2d(4, 2 * groups, 2, 1, 1, groups=groups, bias=bias)
    module = nn.Sequential(first, nn.Sigmoid(), second, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * groups, 3))
    check(module, (2, *size), batch_size=batch, victims=victims, cost=cost)


@settings(max_examples=60)
@given(batch=BATCHES, victims=VICTIMS, channels=st.integers(2, 24), kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
       size=st.tuples(st.integers(2, 8), st.integers(2, 8)), stride=st.integers(1, 2), dilation=st.integers(1, 2), cost=COSTS,
       dense=st.booleans())
def test_convolutions_over_few_positions(batch, victims, channels, kernel, size, stride, dilation, cost, dense):
    """Whose gradients are not formed, with taps that only ever meet the padding, factored where their rank is small."""
    first = nn.Conv2d(3, channels, 2, 2)
    padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
    second = nn.Conv2d(channels, 20, kernel, stride, padding, dilation)
    module = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 3))
    with as_they_are(dense):
        check(module, (3, *size), batch_size=batch, victims=victims, cost=cost)


@settings(max_examples=60)
@given(batch=BATCHES, victims=VICTIMS, channels=st.integers(1, 4), kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
       stride=st.integers(2, 3), padding=st.tuples(st.integers(0, 3), st.integers(0, 3)), size=st.tuples(st.integers(7, 12), st.integers(7, 12)), cost=COSTS)
def test_strided_convolutions_of_few_channels(batch, victims, channels, kernel, stride, padding, size, cost):
    """Which are computed on blocks of pixels."""
    first = nn.Conv2d(channels, 3, kernel, stride, padding)
    assert BlockedConvolution.helps(first) is (channels * stride**2 <= 16)
    module = nn.Sequential(first, nn.Sigmoid(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    check(module, (channels, *size), batch_size=batch, victims=victims, cost=cost)


@settings(max_examples=20)
@given(activation=st.sampled_from(["sigmoid", "tanh", "relu"]), batch=BATCHES, victims=VICTIMS,
       size=st.tuples(st.integers(4, 9), st.integers(4, 9)), cost=COSTS, dense=st.booleans())
def test_lenets_of_all_activations(activation, batch, victims, size, cost, dense):
    with as_they_are(dense):
        check(models.build(f"lenet(activation={activation})", (2, *size), 3), (2, *size), batch_size=batch, victims=victims,
              cost=cost)


@pytest.mark.parametrize(("victims", "forward"), [(1, PatchConvolution), (2, TurnedConvolution)])
def test_small_convolutions_of_a_victim_alone_are_products_with_patches(victims, forward):
    first, second = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 5, 3, 2, 1)
    module = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(80, 3))
    matcher = check(module, (3, 8, 8), victims=victims, batch_size=2)
    forwards = {layer: rule.forward for _, layer, rule in matcher.step_of_slots._layers}
    assert type(forwards[first]) is forward
    if victims == 1:
        assert isinstance(forwards[second], BlockedConvolution) and type(forwards[second].convolve) is forward
    else:
        assert forwards[second] is None


def test_large_convolutions_are_left_to_the_library():
    layer = nn.Conv2d(64, 64, 3, 1, 1)
    for side, helps in ((8, True), (32, False)):
        shape = torch.Size((1, 64, side, side))
        assert PatchConvolution.helps(layer, shape, shape) is helps


@given(batch=BATCHES, bias=st.booleans(), tokens=st.booleans(), cost=COSTS)
def test_linear_layers_also_over_positions(batch, bias, tokens, cost):
    """Applied to rows of pixels, a linear layer sees several positions of each image."""
    first = [nn.Linear(5, 4, bias), nn.Tanh(), nn.Flatten()] if tokens else [nn.Flatten(), nn.Linear(2 * 4 * 5, 12, bias), nn.Tanh()]
    check(nn.Sequential(*first, nn.Linear(2 * 4 * 4 if tokens else 12, 3, bias)), (2, 4, 5), batch_size=batch, cost=cost)


MASKED = st.sampled_from([Cosine(), Euclidean(), Cosine(per_layer=True)])


@given(batch=BATCHES, affine=st.booleans(), cost=COSTS)
def test_norms(batch, affine, cost):
    norm = nn.BatchNorm2d(4, affine=affine)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    for layer in (norm, nn.GroupNorm(2, 4, affine=affine), nn.LayerNorm([4, 3, 3], elementwise_affine=affine)):
        module = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), layer, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3))
        check(module, (2, 6, 6), batch_size=batch, cost=cost)


@given(batch=BATCHES, padded=st.booleans())
def test_embeddings(batch, padded):
    """Of the signs of pixels, as far as an image model may use one; the image counts through a second way."""
    class Signs(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.last = nn.Embedding(2, 3, padding_idx=0 if padded else None), nn.Linear(12, 3)

        def forward(self, x):
            x = x.flatten(1)
            return self.last((self.embedding((x > 0).long()) * torch.tanh(x)[..., None]).flatten(1))

    check(Signs(), (1, 2, 2), batch_size=batch)
