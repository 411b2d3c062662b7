"""Models with attention, whose fused kernels have no second derivative, against double backward through products of matrices."""

from __future__ import annotations

import layer_cases
import pytest
import torch
from attack_cases import reference
from layer_cases import check
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

SHAPE = (2, 8, 8)


class Tokens(nn.Module):
    """Four patches of 4 x 4 pixels, each a token of the given width."""

    def __init__(self, width):
        super().__init__()
        self.embed = nn.Linear(32, width)

    def forward(self, x):
        return self.embed(F.unfold(x, 4, stride=4).mT)


class Written(nn.Module):
    """Attention of two heads made of linear layers, as timm's transformers have it."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Multihead(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]


def transformer(attention: nn.Module) -> nn.Module:
    return nn.Sequential(Tokens(8), attention, nn.Flatten(), nn.Linear(32, 3))


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")


def vision_transformer() -> nn.Module:
    module = VisionTransformer(image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    module.conv_proj = nn.Conv2d(2, 8, 4, 4)
    return module


def in_products(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **others):
    assert attn_mask is None and not dropout_p and not is_causal
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


@pytest.mark.parametrize(("made", "structured"), [
    (lambda: transformer(Written()), True), (lambda: transformer(Multihead()), False), (lambda: transformer(encoder()), False),
    (vision_transformer, False)], ids=["linear layers", "MultiheadAttention", "TransformerEncoderLayer", "torchvision's"])
def test_second_derivatives_through_attention(made, structured, monkeypatch):
    def plainly(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "scaled_dot_product_attention", in_products)
            return reference(*arguments)

    monkeypatch.setattr(layer_cases, "reference", plainly)
    check(made(), SHAPE, structured=structured)
    assert torch.backends.cuda.flash_sdp_enabled(), "fused kernels are put back"
