from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark import models
from benchmark.errors import InputError


@given(name=st.sampled_from(["mlp", "lenet"]), channels=st.integers(1, 4), height=st.integers(1, 33), width=st.integers(1, 33),
       classes=st.integers(2, 12))
def test_any_channels_size_and_classes(name, channels, height, width, classes):
    module = models.build(name, (channels, height, width), classes)
    assert module(torch.zeros(2, channels, height, width)).shape == (2, classes)


def test_sizes_of_the_papers():
    """Parameters by hand: LeNet 912 + 3,612 + 3,612 + 7,690; MLP 3,146,752 + 1,049,600 + 10,250."""
    count = {name: sum(p.numel() for p in models.build(name, (3, 32, 32), 10).parameters()) for name in ("lenet", "mlp")}
    assert count == {"lenet": 912 + 3612 + 3612 + 7690, "mlp": 3_146_752 + 1_049_600 + 10_250}


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_models_take_any_channels(channels):
    module = models.build("torchvision:resnet18", (channels, 28, 28), 7).eval()
    assert module(torch.zeros(2, channels, 28, 28)).shape == (2, 7)


@pytest.mark.parametrize(("name", "message"), [
    ("lnet", "did you mean 'lenet'"), ("torchvision:rsnet18", "did you mean 'resnet18'"),
    ("torchvision:alexnet", "does not take images of 3x32x32"), ("torchvision:vit_b_32", None), ("torchvision:vit_b_16", None)])
def test_checking_computes_nothing_and_says_what_is_wrong(name, message):
    state = torch.get_rng_state()
    if message is None:
        models.check(name, (3, 32, 32), 10)
    else:
        with pytest.raises(InputError, match=message):
            models.check(name, (3, 32, 32), 10)
    assert torch.equal(state, torch.get_rng_state())
