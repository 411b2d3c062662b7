"""Concealing images, against their objective by autograd and torch's own Adam."""

from __future__ import annotations

import copy

import pytest
import torch
from model_cases import MODELS, batch
from torch.nn import functional as F

import defenses
from defenses import DCS2, Batch, Step, Unknown, client_loss
from defenses.evaluating import evaluating


def made(defense: DCS2, model: str = "lenet", count: int = 3, seed: int = 0) -> tuple[torch.nn.Module, Batch, Batch, Step]:
    torch.manual_seed(0)
    module, own = MODELS[model](), Batch(*batch(count))
    step = Step(module, own, count, torch.Generator().manual_seed(seed), {}, 0, lambda given: client_loss(defense, module, *given))
    return module, own, defense.transform_batch(own, step), step


def flat_gradient(module, images, targets, **options):
    loss = F.cross_entropy(module(images), targets)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()), **options)])


def reference(defense: DCS2, module, own: Batch, begin: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The search with torch.optim.Adam and its schedule."""
    images = begin.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=defense.step_size)
    aim, outputs = flat_gradient(module, *own), module(own.images).detach()
    for number in range(defense.iterations):
        for group in optimizer.param_groups:
            group["lr"] = defense.step_size * 0.1 ** sum(number >= defense.iterations * part // 8 for part in (3, 5, 7))
        gradient = flat_gradient(module, images, labels, create_graph=True)
        away = torch.stack([(a - b).norm() for a, b in zip(images, own.images, strict=True)]).mean()
        differ = torch.stack([(a - b).norm() / b.norm() for a, b in zip(module(images), outputs, strict=True)]).mean()
        objective = (1 - gradient @ aim / (gradient.norm() * aim.norm()) + torch.exp(-defense.distance * away)
                     + defense.output * (differ - defense.tolerance))
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        if away > defense.enough:
            break
    return images.detach()


@pytest.mark.parametrize("enough", [500.0, 12.0])
def test_the_search_is_that_of_the_objective(enough):
    defense = DCS2(iterations=8, step_size=0.3, enough=enough, output=0.5, distance=0.05)
    module, own, found, _ = made(defense)
    begin = made(DCS2(iterations=0))[2].images[3:]
    concealing = ((found.targets[3:] - 0.3 * F.one_hot(own.targets, 5)) / 0.7).argmax(1)
    expected = reference(defense, module, own, begin, concealing)
    torch.testing.assert_close(found.images[3:], expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.images[:3], own.images)


def test_labels_are_mixed_by_their_share():
    _, own, (_, targets), _ = made(DCS2(iterations=0, share=0.7))
    assert torch.equal(targets[:3], F.one_hot(own.targets, 5).float())
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert (targets[3:].gather(1, own.targets[:, None]) >= 0.3 - 1e-6).all()


def test_a_gradient_that_descends_is_left_and_another_projected():
    """By hand: what is left of -2 g + h, for h at right angles to g, is h."""
    defense = DCS2(iterations=1)
    module, own, found, step = made(defense)
    step = copy.copy(step)
    object.__setattr__(step, "batch", found)
    loss = F.cross_entropy(module(own.images), own.targets)
    g = dict(zip([name for name, _ in module.named_parameters()], torch.autograd.grad(loss, list(module.parameters())), strict=True))
    other = {name: torch.randn_like(values) for name, values in g.items()}
    along = sum((other[name] * g[name]).sum() for name in g) / sum(values.square().sum() for values in g.values())
    h = {name: other[name] - along * g[name] for name in g}
    projected = defense.transform_gradients({name: h[name] - 2 * g[name] for name in g}, step)
    kept = defense.transform_gradients({name: h[name] + 2 * g[name] for name in g}, step)
    for name in g:
        torch.testing.assert_close(projected[name], h[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(kept[name], h[name] + 2 * g[name], rtol=1e-4, atol=1e-5)


def test_the_search_brings_gradients_together_and_images_apart():
    _, own, begun, _ = made(DCS2(iterations=0))
    module, _, found, _ = made(DCS2(iterations=30, step_size=0.3))
    aim = flat_gradient(module, *own)
    near = [F.cosine_similarity(flat_gradient(module, images[3:], ((targets[3:] - 0.3 * F.one_hot(own.targets, 5)) / 0.7)), aim, dim=0)
            for images, targets in (begun, found)]
    far = [(images[3:] - own.images).norm() for images, _ in (begun, found)]
    assert near[1] > near[0] and far[1] > far[0]


def test_batch_norm_and_dropout_are_left_alone():
    module = MODELS["batch-norm"]().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    layers = {name: layer.training for name, layer in module.named_modules()}
    with evaluating(module):
        assert not any(layer.training for layer in module.modules())
        module(batch(3)[0])
    assert {name: layer.training for name, layer in module.named_modules()} == layers
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_nothing_is_told_of_the_projection():
    told = DCS2().release({"weight": None}, defenses.Facts(1, 0, MODELS["lenet"](), (2, 8, 8)))
    assert isinstance(told["weight"].stages[0], Unknown)


@pytest.mark.parametrize("text", ["dcs2(iterations=-1)", "dcs2(step_size=0)", "dcs2(share=2)", "dcs2(distance=-1)", "dcs2(enough=0)"])
def test_parameters_out_of_range(text):
    with pytest.raises(defenses.SpecificationError):
        defenses.create(text)
