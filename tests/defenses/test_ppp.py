"""PPP: PRECODE, with a perturbation before the bottleneck alone."""

from __future__ import annotations

import pytest
import torch
from model_cases import MODELS, batch, loader

import defenses


def shared(specification: str, model: str = "lenet") -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = MODELS[model]()
    private = defenses.create(specification).make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader())
    private.module.train()
    for layer in private.module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()
    return private.shared_gradient(*batch(2), seed=3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("perturbation", ["noise", "pruning"])
def test_only_what_comes_before_the_bottleneck_is_perturbed(model, perturbation):
    plain, perturbed = shared("precode", model), shared(f"ppp(strength=0.5, perturbation='{perturbation}')", model)
    behind = {name for name in plain if "bottleneck" in name or name.endswith(("classifier.classifier.weight", "classifier.classifier.bias"))}
    behind |= {name for name in plain if model != "batch-norm" and ".classifier." in name}
    assert len(behind) == 6
    for name, g in plain.items():
        assert torch.equal(g, perturbed[name]) is (name in behind), name
        if name not in behind and perturbation == "pruning":
            assert int((perturbed[name] == 0).sum()) >= g.numel() // 2


def test_noise_has_the_given_standard_deviation_and_pruning_the_given_share():
    plain = shared("precode", "mlp")["1.weight"]
    assert float((shared("ppp(strength=0.25)", "mlp")["1.weight"] - plain).std()) == pytest.approx(0.25, rel=0.05)
    assert torch.equal(shared("ppp(strength=0)", "mlp")["1.weight"], plain)


@pytest.mark.parametrize(("specification", "message"), [
    ("ppp(strength=-1)", "std"), ("ppp(strength=1.5, perturbation='pruning')", "p must be"), ("ppp(perturbation='blur')", "noise, pruning")])
def test_what_cannot_be_is_refused(specification, message):
    with pytest.raises(defenses.SpecificationError, match=message):
        defenses.create(specification)
