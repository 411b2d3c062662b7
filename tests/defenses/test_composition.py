from __future__ import annotations

import pytest
import torch
from model_cases import MODELS, batch, loader

import defenses

#: DP-SGD that neither clips nor adds noise, so that its gradient is the plain one.
HARMLESS = "dp-sgd(noise_multiplier=0, max_grad_norm=1e6)"


def shared(specification: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = MODELS["mlp"]()
    private = defenses.create(specification).make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader())
    private.module.train()
    return private.shared_gradient(*batch(4), seed=3)


@pytest.mark.parametrize("members", [
    "precode(beta=0.25)+noise(std=0)", "noise(std=0)+precode(beta=0.25)", f"precode(beta=0.25)+{HARMLESS}", f"{HARMLESS}+precode(beta=0.25)",
    f"noise(std=0)+{HARMLESS}+precode(beta=0.25)"])
def test_a_member_beside_harmless_ones_does_what_it_does_alone(members):
    """Its model, its regularizer and its gradient, wherever it stands; DP-SGD computes per sample, which rounds otherwise."""
    alone, together = shared("precode(beta=0.25)"), shared(members)
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("before", ["", f"{HARMLESS}+"])
def test_gradients_are_changed_first_to_last(before):
    pruned_last, noisy_last = (shared(before + s)["1.weight"] for s in ("noise(std=1)+pruning(p=0.5)", "pruning(p=0.5)+noise(std=1)"))
    assert (pruned_last == 0).float().mean() == 0.5
    assert (noisy_last != 0).all()
