"""L-BFGS of many victims at once, and the attacks that use it."""

from __future__ import annotations

import pytest
import torch
from attack_cases import observation_of

from attacks import DLG, IDLG
from attacks.engine.matcher import GradientMatcher
from attacks.engine.tracing import Unsuitable
from attacks.objective.costs import Euclidean
from attacks.objective.objective import Objective
from attacks.search.lbfgs import LBFGS
from benchmark.measure.metrics import compare
from defenses import client_loss


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


def optimizer_of(points: torch.Tensor) -> LBFGS:
    """Of points [S, n] in the place of images."""
    return LBFGS(points.clone(), (), [(torch.tensor(-1.0), torch.tensor(1.0))])


def descend(optimizer: LBFGS, steps: int, size: float = 0.3) -> None:
    for _ in range(steps):
        x = optimizer.images.clone().requires_grad_()
        optimizer.step(torch.autograd.grad(rosenbrock(x).sum(), x)[0], (), torch.full((len(x),), size, dtype=torch.float64))


def test_each_row_takes_the_steps_of_torch_optim_lbfgs(monkeypatch):
    monkeypatch.setattr("attacks.search.lbfgs._HISTORY", 5)
    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = optimizer_of(start)
    theirs = [row.clone().requires_grad_() for row in start]
    optimizers = [torch.optim.LBFGS([row], lr=0.3, max_iter=1, history_size=5, tolerance_change=0, tolerance_grad=0) for row in theirs]
    for _ in range(25):
        descend(ours, 1)
        for row, optimizer in zip(theirs, optimizers, strict=True):
            def closure(row=row, optimizer=optimizer):
                optimizer.zero_grad()
                loss = rosenbrock(row)
                loss.backward()
                return loss

            optimizer.step(closure)
    torch.testing.assert_close(ours.images, torch.stack([row.detach() for row in theirs]), rtol=1e-6, atol=1e-8)


def test_a_slot_that_begins_anew_knows_nothing_of_the_one_before():
    start = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, alone = optimizer_of(start[:3]), optimizer_of(start)
    descend(ours, 7)
    ours.restart(1, start[3], ())
    descend(ours, 9)
    ours.keep([1, 2])
    descend(ours, 3)
    descend(alone, 12)
    assert torch.equal(ours.images[0], alone.images[3])
    descend(alone, 7)
    assert torch.equal(ours.images[1], alone.images[2])


def test_of_all_iterates_the_lowest_is_found():
    optimizer = optimizer_of(torch.ones(2, 3))
    for objectives in ([3.0, 3.0], [1.0, torch.nan], [2.0, 5.0]):
        optimizer.look(torch.tensor(objectives))
        if objectives[0] == 1.0:
            lowest = optimizer.images.clone()
        optimizer.step(torch.ones(2, 3), (), torch.ones(2, dtype=torch.float64))
    images, _, objective = optimizer.found(0)
    assert torch.equal(images, lowest[0]) and objective == 1.0
    images, _, objective = optimizer.found(1)
    assert torch.equal(images, torch.ones(3)) and objective == 3.0


def test_a_row_that_is_not_finite_does_not_move_nor_disturb_the_others():
    points = torch.ones(2, 3)
    optimizer, alone = optimizer_of(points), optimizer_of(points[:1])
    for _ in range(4):
        derivative = torch.stack([2 * optimizer.images[0], torch.full((3,), torch.nan)])
        optimizer.step(derivative, (), torch.ones(2, dtype=torch.float64))
        alone.step(2 * alone.images, (), torch.ones(1, dtype=torch.float64))
    assert torch.equal(optimizer.images[0], alone.images[0]) and torch.equal(optimizer.images[1], points[1])


@pytest.mark.parametrize("model", ["lenet", "mlp", "batch-norm"])
@pytest.mark.parametrize("general", [False, True])
def test_derivatives_by_images_and_labels_against_double_backward(model, general, monkeypatch):
    if general:
        def unsuitable(*arguments):
            raise Unsuitable("asked for")

        monkeypatch.setattr("attacks.engine.matcher.StructuredStep", unsuitable)
    observation, _ = observation_of("none", model, batch_size=2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 2, 2, 8, 8, generator=generator, dtype=torch.float64)
    logits = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    matcher = GradientMatcher(observation, observation.labels, Objective(Euclidean()), seeds=range(3))
    by_image, by_logits, cost = matcher.step_with(x, [logits])
    for victim in range(3):
        image, given = x[victim].clone().requires_grad_(), logits[victim].clone().requires_grad_()
        loss = client_loss(observation.defense, observation.module, image, given.softmax(-1)).mean()
        gradient = torch.autograd.grad(loss, list(observation.module.parameters()), create_graph=True)
        expected = sum((g - o[victim]).square().sum() for g, o in zip(gradient, observation.shared.values(), strict=True))
        derivatives = torch.autograd.grad(expected, (image, given))
        torch.testing.assert_close(cost[victim], expected.detach(), rtol=1e-9, atol=1e-12)
        for found, derivative in zip((by_image, by_logits), derivatives, strict=True):
            torch.testing.assert_close(found[victim], derivative, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cls", [DLG, IDLG])
def test_an_undefended_client_of_a_small_network_is_inverted(cls):
    observation, x = observation_of("none", "lenet", labels_known=False, dtype=torch.float64)
    found = cls(iterations=300, restarts=2).reconstruct(observation, seed=0)
    known, _ = observation_of("none", "lenet", dtype=torch.float64)
    assert torch.equal(found.labels, known.labels)
    originals = (x * 0.25 + 0.5).numpy()
    similarity = [compare(originals[victim], found.images[victim].numpy())[0].ssim for victim in range(3)]
    assert sorted(similarity)[1] > 0.6, similarity


def test_dlg_goes_on_with_fewer_victims_where_memory_is_missing(monkeypatch, caplog):
    observation, _ = observation_of("none", "lenet", victims=7, dtype=torch.float64)
    attack = DLG(iterations=5, restarts=2)
    expected, calls = attack.reconstruct(observation, seed=0), []
    step = GradientMatcher.step_with

    def limited(matcher, images, others):
        if len(images) > 4:
            raise MemoryError
        return step(matcher, images, others)

    monkeypatch.setattr(GradientMatcher, "step_with", limited)
    found = attack.reconstruct(observation, seed=0, progress=lambda done, total: calls.append((done, total)))
    assert "goes on with 4 victims at once" in caplog.text and calls[-1] == (5, 5) and calls == sorted(calls)
    torch.testing.assert_close(found.images, expected.images, rtol=0, atol=1e-9)


def test_small_distances_are_minimised_like_large_ones():
    """The squared distances of a model with the usual initial weights are about 1e-6, those of curvature far below."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(1, 12, 12, generator=generator, dtype=torch.float64) / 4 + torch.eye(12, dtype=torch.float64)
    goal = torch.randn(1, 12, 1, generator=generator, dtype=torch.float64)

    def end(scale: float) -> torch.Tensor:
        found = LBFGS(torch.zeros(1, 1, 1, 1, 12, dtype=torch.float64), (), [(torch.tensor(-1.0), torch.tensor(1.0))])
        for _ in range(60):
            residual = matrix @ (found.images.view(1, 12, 1) - goal)
            found.look(scale * residual.square().sum((1, 2)))
            found.step((scale * 2 * matrix.mT @ residual).view(1, 1, 1, 1, 12), (), torch.ones(1, dtype=torch.float64))
        return found.found(0)[0].view(1, 12, 1)

    for scale in (1.0, 1e-8, 1e-16):
        torch.testing.assert_close(end(scale), goal, rtol=0, atol=1e-6)
