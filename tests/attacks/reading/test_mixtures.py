"""What is read and searched of images that a defense mixes, flips or conceals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_cases import observation_of
from identification_cases import case_of
from torch import nn
from torch.nn import functional as F

from attacks import Analytic, InvertingGradients, create
from attacks.identification import Identifier
from attacks.objective.costs import Euclidean
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.mixtures import (
    Mixture,
    mixture_of,
    originals_of_read,
    read_coefficients,
    read_targets,
    unmixed,
    without_signs,
)
from attacks.score import score
from attacks.search.mixtures import MixtureMatcher, Seen
from defenses import Mixing
from defenses.support.convex import mixed


def wide() -> nn.Module:
    """So wide behind the pixels that each of four images has units of its own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 400), nn.ReLU(), nn.Linear(400, 5))


def of_distinct_classes(defense: str, *, rounds: int = 1):
    """Observations of four images of four classes each, by an unfair choice of the victims."""
    observation, x = observation_of(defense, wide, victims=40, batch_size=4, rounds=rounds)
    distinct = [place for place, labels in enumerate(observation.labels.tolist()) if len(set(labels)) == 4][:3]
    return observation.select(distinct), x[distinct]


def test_a_blind_attacker_knows_of_no_mixture():
    observation, _ = observation_of("mixup", "lenet", batch_size=3)
    assert mixture_of(observation.blind()) is None and observation.discloses
    assert mixture_of(observation) == Mixture(Mixing(3, 0.65), 3, 5)
    assert InvertingGradients().informed_by(observation)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("mixing", [Mixing(3, 0.65), Mixing(3, 0.65, flipped=True), Mixing(concealing=1)])
def test_the_derivatives_are_those_of_autograd(mixing, rounds):
    """Against the whole computation by torch.autograd in float64, of images and logits."""
    if mixing.concealing and rounds > 1:
        return
    observation, _ = observation_of("none", "lenet", batch_size=3, rounds=rounds, dtype=torch.float64)
    mixture = Mixture(mixing, 3, 5, rounds)
    objective = Objective(Euclidean(), terms=(TotalVariation(0.1),))
    seen = [Seen(one, objective) for one in observation.by_round()]
    matcher = MixtureMatcher(mixture, observation.labels, seen, seeds=[0, 1, 2], positions=[0, 1, 2], reloaded=False)
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(3, mixture.variables, 2, 8, 8, generator=generator, dtype=torch.float64)
    logits = torch.randn(3, *mixture.logit_shape, generator=generator, dtype=torch.float64)
    by_images, by_logits, found = matcher.step_with(images, [logits])
    parameters = list(observation.module.parameters())
    for victim in range(3):
        x, z = images[victim].clone().requires_grad_(), logits[victim].clone().requires_grad_()
        own = F.one_hot(observation.labels[victim], 5).double()
        cost = 0.0
        for number, one in enumerate(seen):
            place = slice(3 * number, 3 * number + 3)
            if mixing.concealing:
                given, targets = x, torch.cat([own, z.softmax(-1)])
            else:
                shares = z.softmax(-1)[place]
                given, targets = x[place] if mixing.flipped else torch.einsum("sb,bchw->schw", shares, x), shares @ own
            loss = -(targets * observation.module(given).log_softmax(1)).sum(1).mean()
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            cost = cost + sum((g - shared[victim]).square().sum()
                              for g, shared in zip(gradients, one.observation.shared.values(), strict=True)) / rounds
        if not mixing.flipped:
            cost = cost + 0.1 * sum(x[:3].diff(dim=d).abs().mean() for d in (-1, -2))
        torch.testing.assert_close(found[victim], cost.detach(), rtol=1e-5, atol=1e-9)
        for ours, theirs in zip((by_images[victim], by_logits[victim]), torch.autograd.grad(cost, (x, z)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-9)


def test_targets_are_read_from_the_last_layer():
    """Of images that are known, however they were mixed."""
    observation, x = observation_of("none", "mlp", batch_size=3, dtype=torch.float64)
    targets = torch.rand(3, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets /= targets.sum(-1, keepdim=True)
    losses = [-(t * observation.module(images).log_softmax(1)).sum(1).mean() for images, t in zip(x, targets, strict=True)]
    gradients = [torch.autograd.grad(loss, list(observation.module.parameters())) for loss in losses]
    shared = {name: torch.stack(own) for name, own in zip(observation.shared, zip(*gradients, strict=True), strict=True)}
    torch.testing.assert_close(read_targets(replace(observation, shared=shared), x), targets, rtol=1e-6, atol=1e-6)


def test_coefficients_follow_from_labels_and_images_from_coefficients():
    """By hand: of two images of one class only the mean is told."""
    shares = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.5, 0.4]]])
    images = torch.randn(1, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    mixes = torch.einsum("nsb,nbchw->nschw", shares, images)
    found = read_coefficients(shares @ torch.eye(5)[[0, 3, 4]], torch.tensor([[0, 3, 4]]))
    torch.testing.assert_close(found, shares)
    torch.testing.assert_close(unmixed(mixes, found), images, rtol=1e-4, atol=1e-5)
    alike = read_coefficients(shares @ torch.eye(5)[[0, 0, 4]], torch.tensor([[0, 0, 4]]))
    torch.testing.assert_close(alike[0, 0], torch.tensor([0.45, 0.45, 0.1]))


def test_absolute_values_of_many_mixes_tell_the_images_but_for_their_sign():
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-1, 1, 8)
    images = torch.stack([ramp[:, None] + ramp, ramp[:, None] - 2 * ramp])[None, :, None].expand(1, 2, 2, 8, 8)
    shares = torch.rand(1, 12, 2, generator=generator)
    found = without_signs(torch.einsum("nsb,nbchw->nschw", shares, images), shares)
    explained = torch.einsum("nsb,nbchw->nschw", shares, found).abs() - torch.einsum("nsb,nbchw->nschw", shares, images).abs()
    assert explained.abs().mean() < 0.05
    torch.testing.assert_close(without_signs(-images[:, :1], shares[:, :1, :1]), images[:, :1].abs())


def test_mixes_that_were_read_are_unmixed_by_the_labels_that_the_last_layer_tells():
    """From the client's own mixes, which are made again from its seed."""
    observation, x = of_distinct_classes("mixup")
    own = [mixed(images, F.one_hot(labels, 5).float(), 4, 0.65, torch.Generator().manual_seed(seed))[0]
           for images, labels, seed in zip(x, observation.labels, observation.victims, strict=True)]
    mixture = mixture_of(observation)
    found = originals_of_read(observation, mixture, torch.stack(own), observation.labels)
    torch.testing.assert_close(found, x, rtol=0, atol=0.02)


def test_one_flipped_image_is_read_but_for_its_signs():
    observation, x = observation_of("instahide", "mlp")
    found = Analytic().reconstruct(observation, seed=0).images
    torch.testing.assert_close(found, (0.25 * x.abs() + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


def test_images_beside_concealing_ones_are_those_within_the_box():
    observation, x = observation_of("dcs2(iterations=2, step_size=20)", wide, batch_size=1)
    found = Analytic().reconstruct(observation, seed=0).images
    torch.testing.assert_close(found, (x * 0.25 + 0.5).clamp(0, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("defense", "model", "batch_size", "method"), [
    ("mixup", "mlp", 4, "span"), ("mixup", "lenet", 4, "span"), ("instahide", "mlp", 1, "signless"), ("instahide", "lenet", 1, "rebuilt"),
    ("dcs2", "mlp", 1, "span"), ("dcs2", "lenet", 2, "span"), ("dcs2", "lenet", 3, "rebuilt"), ("mixup", "mlp", 1, "exact"),
    ("mixup", "lenet", 7, "rebuilt"), ("mixup", "lenet", 8, "whitened"), ("instahide", "lenet", 8, "whitened"), ("dcs2", "lenet", 4, "whitened")])
def test_how_candidates_are_compared(defense, model, batch_size, method):
    assert Identifier().method(case_of(defense, model, batch_size=batch_size).observation).name == method


@pytest.mark.parametrize(("defense", "model", "batch_size"), [
    ("mixup", "mlp", 4), ("instahide", "mlp", 1), ("dcs2", "mlp", 1), ("dcs2", "mlp", 4), ("dcs2", "lenet", 2), ("instahide", "lenet", 1)])
def test_who_was_there_is_found(defense, model, batch_size):
    case = case_of(defense, model, batch_size=batch_size, size=12)
    assert (case.ranks(Identifier().scores(case.observation, case.candidates, seed=0)) == 0).all()


def test_among_many_mixed_images_candidates_are_compared_as_if_none_was():
    """As by who does not know of it; and a candidate of the batch is still told from others."""
    case = case_of("mixup(k=2)", "lenet", batch_size=8, victims=8)
    scores = Identifier().scores(case.observation, case.candidates, seed=0)
    torch.testing.assert_close(scores, Identifier().scores(case.observation.blind(), case.candidates, seed=0), rtol=0, atol=0)
    assert case.ranks(scores).double().mean() < 2  # of six, 2.5 by chance


def test_rounds_of_mixes_add_up_and_are_not_averaged():
    case = case_of("mixup", "lenet", batch_size=3, rounds=2)
    apart = [Identifier().scores(one, case.candidates, seed=0) for one in case.observation.by_round()]
    torch.testing.assert_close(Identifier().scores(case.observation, case.candidates, seed=0), apart[0] + apart[1])


@pytest.mark.parametrize(("defense", "batch_size"), [("mixup", 3), ("instahide", 1), ("dcs2", 1)])
def test_of_originals_and_others_the_originals_explain_mixes_better(defense, batch_size, monkeypatch):
    monkeypatch.setattr("attacks.search.fitted._ITERATIONS", 40)
    observation, x = observation_of(defense, "mlp", batch_size=batch_size)
    found, others = (score(observation, images, observation.labels, 0) for images in (x, x.roll(1, 0)))
    assert (found < others).all()


def test_unmixing_moves_mixes_and_then_images():
    """More rounds and more iterations explain the gradients better; the cost is the mean over rounds at the images that are given."""
    observation, _ = of_distinct_classes("mixup", rounds=2)
    observation = observation.select([0])
    short, longer = (create(f"unmixing(iterations={count})").reconstruct(observation, seed=0) for count in (4, 40))
    assert longer.cost < short.cost and longer.images.shape == (1, 4, 2, 8, 8)


@pytest.mark.parametrize(("attack", "defense", "reason"), [
    ("unmixing", "none", "not known to be mixed"), ("unmixing", "dcs2", "beside others"), ("unmixing", "mixup", "one round"),
    ("see-through-gradients", "mixup", "no consensus"), ("recursive", "mixup", "not the client's")])
def test_obstacles(attack, defense, reason):
    observation, _ = observation_of(defense, "lenet", batch_size=2 if defense == "mixup" else 1)
    assert reason in create(attack).obstacle(observation)
