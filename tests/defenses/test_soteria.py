from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from model_cases import MODELS, batch
from torch import nn
from torch.func import jacrev

import defenses
from defenses import Batch, Facts, Kept, Release, Soteria, Step, Unknown
from defenses.evaluating import evaluating
from defenses.soteria import _exactly, _Representation


def made(defense: Soteria, module: nn.Module, count: int = 3, seed: int = 0) -> tuple[dict, dict, torch.Tensor]:
    """The plain gradient, what is made of it, and the images."""
    x, y = batch(count)
    x = x.to(next(module.parameters()))
    step = Step(module, Batch(x, y), count, torch.Generator().manual_seed(seed), {}, 0,
                lambda b: nn.functional.cross_entropy(module(b.images), b.targets, reduction="none"))
    plain = step.gradient(step.batch)
    return plain, defense.transform_gradients(plain, step), x


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("percentile", [1, 40, 60, 100])
def test_the_columns_are_those_that_numpy_s_percentile_finds(percentile, count):
    """By the whole Jacobian of each image, in float64."""
    torch.manual_seed(0)
    module = MODELS["lenet"]().double()
    plain, shared, x = made(Soteria(percentile, probes=0), module, count)
    ratios = 0
    for image in x:
        r = module[:3](image[None])[0].detach()
        jacobian = jacrev(lambda one: module[:3](one[None])[0])(image).flatten(1)
        ratios = ratios + (r.abs() / jacobian.norm(dim=1)).detach().numpy()
    kept = ratios <= np.percentile(ratios, 100 - percentile)
    assert torch.equal((shared["3.weight"] != 0).all(0), torch.from_numpy(kept)) and 0 < kept.sum() < len(kept)
    assert torch.equal(shared["3.weight"], plain["3.weight"] * torch.from_numpy(kept))
    assert all(torch.equal(shared[name], plain[name]) for name in plain if name != "3.weight")


def test_probes_tell_the_norms_of_the_derivatives():
    """A mean of k squares has a relative standard deviation of sqrt(2 / k): 2.2 % of the square for 4,096 probes."""
    torch.manual_seed(0)
    module = MODELS["lenet"]()
    x, y = batch(1)
    defense = Soteria(probes=4096)
    step = Step(module, Batch(x, y), 1, torch.Generator().manual_seed(0), {}, 0, lambda b: b.images.sum((1, 2, 3)))
    with evaluating(module):
        r, norms = _exactly(_Representation(module, "3"), x)
    torch.testing.assert_close(defense._ratios(step, "3"), (r.abs() / norms)[0], rtol=0.06, atol=0)
    few = Soteria(probes=16)._ratios(step, "3") * norms[0] / r[0].abs()
    assert 0.1 < (few.reciprocal() - 1).std() < 0.26  # 18 % are expected


def test_features_that_are_zero_are_the_last_to_be_zeroed():
    torch.manual_seed(0)
    module = MODELS["mlp"]()
    plain, shared, x = made(Soteria(50), module, 1)
    dead = (module[:3](x) == 0)[0]
    assert 0 < dead.sum() <= 6  # of 12 features 6 are zeroed
    assert ((shared["3.weight"] != plain["3.weight"]).any(0) & dead).sum() == 0
    assert (shared["3.weight"] != plain["3.weight"]).any(0).sum() == math.ceil(0.5 * 11)


def test_another_layer_can_be_named_and_must_be_there():
    torch.manual_seed(0)
    plain, shared, _ = made(Soteria(40, layer="1"), MODELS["mlp"](), 2)
    assert (shared["1.weight"] == 0).all(0).sum() == math.ceil(0.4 * 127) and torch.equal(shared["3.weight"], plain["3.weight"])
    for module, layer in ((MODELS["mlp"](), "2"), (nn.Sequential(nn.Conv2d(2, 5, 8), nn.Flatten()), "")):
        with pytest.raises(ValueError, match="linear layer"):
            Soteria(layer=layer).extend_model(module)


def test_the_model_is_left_in_its_mode_and_state():
    module = MODELS["batch-norm"]().train()
    module.drop.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [layer.training for layer in module.modules()]
    x, y = batch(3)
    Soteria()._ratios(Step(module, Batch(x, y), 3, torch.Generator(), {}, 0, lambda b: b.images), "classifier")
    assert modes == [layer.training for layer in module.modules()]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_release_tells_which_columns_were_zeroed():
    torch.manual_seed(0)
    module = MODELS["lenet"]()
    _, shared, _ = made(Soteria(40), module, 1)
    facts = Facts(1, 0, module, (2, 8, 8))
    told = Soteria(40).release({name: g[None] for name, g in shared.items()}, facts)
    (kept,) = told["3.weight"].stages
    assert isinstance(kept, Kept) and kept.threshold is None and torch.equal(kept.mask[0], shared["3.weight"] != 0)
    assert kept.count == int(kept.mask.sum())
    assert all(release == Release() for name, release in told.items() if name != "3.weight")
    assert isinstance(Soteria().release({"3.weight": None}, facts)["3.weight"].stages[0], Unknown)
    assert Soteria(0).release({"3.weight": None}, facts)["3.weight"] == Release()


@pytest.mark.parametrize("arguments", [{"percentile": 101}, {"percentile": -1}, {"probes": -1}, {"probes": 1.5}, {"layer": 3}])
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        defenses.Soteria(**arguments)
