"""Under autocast the forward pass is of mixed precision, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from model_cases import batch, loader
from torch import nn

import defenses
from defenses import Defense


class Noted(torch.autograd.Function):
    """Passes on, and notes where autocast is in force."""

    seen: ClassVar[dict[str, bool]] = {}

    @staticmethod
    def forward(ctx, x):
        Noted.seen["forward"] = torch.is_autocast_enabled("cpu")
        return x.clone()

    @staticmethod
    def backward(ctx, by_output):
        Noted.seen["backward"] = torch.is_autocast_enabled("cpu")
        return by_output


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(128, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.last(torch.relu(Noted.apply(self.first(x.flatten(1)))))


@dataclass(frozen=True)
class LowRank(Defense):
    """Multiplies matrices of gradients, as compression does."""

    name: ClassVar[str] = "low-rank"

    def transform_gradients(self, gradients, step):
        return {name: g @ torch.eye(g.shape[-1]) for name, g in gradients.items()}


def gradient_of(defense: Defense, precision: torch.dtype | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = Net()
    private = defense.make_private(module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader(), epochs=1)
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        private.backward(*batch())
        assert torch.is_autocast_enabled("cpu") is (precision is not None)
    return {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_backward_pass_is_outside(precision):
    """Its operations have the types of the forward ones; torch's releases differ in what they make of them under autocast."""
    gradients = gradient_of(defenses.create("none"), precision)
    assert Noted.seen == {"forward": True, "backward": False}
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    exact = gradient_of(defenses.create("none"), None)
    assert not torch.equal(gradients["last.weight"], exact["last.weight"])  # it was of mixed precision
    for name, g in gradients.items():
        torch.testing.assert_close(g, exact[name], rtol=0.05, atol=0.02 * exact[name].abs().max().item())


def test_what_a_defense_does_to_gradients_is_done_in_their_precision():
    """A product with the identity changes nothing in float32, and rounds every entry in bfloat16."""
    plain, multiplied = (gradient_of(defense, torch.bfloat16) for defense in (defenses.create("none"), LowRank()))
    for name, g in plain.items():
        assert multiplied[name].dtype == torch.float32 and torch.equal(multiplied[name], g)
