"""Mixup and InstaHide: convex combinations, and signs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import batch, small_lenet
from torch.nn import functional as F

import defenses
from defenses import Batch, Facts, Mixing, Step, client_loss
from defenses.support.convex import coefficients, mixed
from defenses.support.targets import class_count, probabilities


def transformed(specification: str, count: int = 6, seed: int = 0) -> tuple[Batch, Batch]:
    """A batch, and what the defense makes of it."""
    defense, module, own = defenses.create(specification), small_lenet(), Batch(*batch(count))
    step = Step(module, own, count, torch.Generator().manual_seed(seed), {}, 0, lambda given: client_loss(defense, module, *given))
    return own, defense.transform_batch(own, step)


@given(count=st.integers(1, 8), k=st.integers(1, 6), largest=st.floats(0.05, 1), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_coefficients_are_convex_and_within_their_bound(count, k, largest, seed):
    found = coefficients(count, k, largest, torch.zeros(1), torch.Generator().manual_seed(seed))
    assert found.shape == (count, k) and (found >= -1e-6).all()
    torch.testing.assert_close(found.sum(1), torch.ones(count))
    assert found.max() <= max(largest, 1 / k) + 1e-6


def test_coefficients_are_uniform_within_their_bound():
    """Of two, each is uniform between 0.35 and 0.65; of four, those of a plain rejection from the simplex."""
    generator = torch.Generator().manual_seed(0)
    two = coefficients(4000, 2, 0.65, torch.zeros(1), generator)[:, 0]
    quantiles = torch.quantile(two, torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(quantiles, torch.tensor([0.38, 0.5, 0.62]), atol=0.01, rtol=0)
    four = coefficients(4000, 4, 0.65, torch.zeros(1), generator)
    plain = torch.distributions.Dirichlet(torch.ones(4)).sample((40000,))
    plain = plain[plain.amax(1) <= 0.65]
    torch.testing.assert_close(four.square().sum(1).mean(), plain.square().sum(1).mean(), atol=0.005, rtol=0)


@given(count=st.integers(1, 7), k=st.integers(1, 5), seed=st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_each_image_is_in_k_mixes_of_distinct_images(count, k, seed):
    """On images that are the rows of an identity, mixes are their own coefficients."""
    images, targets = mixed(torch.eye(count), torch.eye(count), k, 0.99, torch.Generator().manual_seed(seed))
    assert torch.equal(images, targets)
    assert ((images > 0).sum(0) == min(k, count)).all() and ((images > 0).sum(1) == min(k, count)).all()
    assert (images.diagonal() > 0).all()


def test_labels_are_mixed_as_images_are():
    own, (images, targets) = transformed("mixup(k=3)")
    shares = torch.linalg.lstsq(own.images.flatten(1).T, images.flatten(1).T).solution.T
    torch.testing.assert_close(targets, shares @ F.one_hot(own.targets, 5).float(), rtol=1e-4, atol=1e-5)
    assert ((shares > 1e-4).sum(1) == 3).all() and (shares <= 0.65 + 1e-4).all()


def test_what_is_shared_is_the_gradient_of_the_mixes():
    module = small_lenet()
    private = defenses.create("mixup").make_private(module=module, optimizer=torch.optim.SGD(module.parameters(), lr=1), data_loader=None)
    x, y = batch(4)
    shared = private.shared_gradient(x, y, seed=3)
    images, targets = mixed(x, F.one_hot(y, 5).float(), 4, 0.65, torch.Generator().manual_seed(3))
    loss = -(targets * module(images).log_softmax(1)).sum(1).mean()
    for (name, _), g in zip(module.named_parameters(), torch.autograd.grad(loss, list(module.parameters())), strict=True):
        torch.testing.assert_close(shared[name], g)


def test_one_image_is_left_as_it_is_but_for_its_signs():
    own, (images, targets) = transformed("mixup", 1)
    assert torch.equal(images, own.images) and torch.equal(targets.argmax(1), own.targets)
    own, (images, _) = transformed("instahide", 1)
    assert torch.equal(images.abs(), own.images.abs()) and not torch.equal(images, own.images)


def test_signs_are_fair_and_drawn_for_each_mix():
    own, (images, targets) = transformed("instahide(k=1)", 200)
    flipped = images != own.images
    assert torch.equal(images.abs(), own.images.abs()) and torch.equal(targets.argmax(1), own.targets)
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.02)
    agree = (flipped[:-1] == flipped[1:]).float().mean()
    assert agree == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("specification", "batch_size", "expected"), [
    ("mixup", 1, None), ("mixup", 2, Mixing(2, 0.65)), ("mixup(k=3, largest=0.2)", 8, Mixing(3, 1 / 3)),
    ("instahide", 1, Mixing(1, 1.0, flipped=True)), ("instahide", 8, Mixing(4, 0.65, flipped=True)), ("dcs2", 3, Mixing(concealing=1)),
    ("none", 8, None), ("mixup+noise(std=0.1)", 8, Mixing(4, 0.65)), ("precode+noise", 8, None)])
def test_what_a_defense_says_of_the_images(specification, batch_size, expected):
    assert defenses.create(specification).mixing(Facts(batch_size, 0, small_lenet(), (2, 8, 8))) == expected


def test_two_that_mix_do_not_compose():
    with pytest.raises(defenses.SpecificationError, match="only one of the defenses may mix images"):
        defenses.create("mixup+instahide")


@pytest.mark.parametrize("text", ["mixup(k=0)", "mixup(largest=0)", "mixup(largest=1.5)", "instahide(k=0)", "instahide(largest=2)"])
def test_parameters_out_of_range(text):
    with pytest.raises(defenses.SpecificationError):
        defenses.create(text)


def test_targets_that_are_probabilities_already_stay():
    targets = torch.rand(3, 5)
    assert probabilities(targets, small_lenet(), targets) is targets and class_count(small_lenet()) == 5
