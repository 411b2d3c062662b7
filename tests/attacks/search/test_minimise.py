"""Slots, early ends, lack of memory and recorded steps change how long an attack takes, never what becomes of a victim."""

from __future__ import annotations

import logging

import graph_stand_in
import pytest
import torch
from attack_cases import observation_of

import attacks
from attacks.engine import recorded
from attacks.engine.slots import filled
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.search import minimise as minimise_module
from attacks.search.minimise import minimise
from attacks.search.problem import Problem, Start
from attacks.search.schedule import Schedule
from attacks.search.signed_adam import SignedAdam
from attacks.search.width import choose_width
from defenses.support.seeds import VictimNoise


def problem_of(defense: str = "none", model: str = "lenet", *, victims: int = 5, schedule: Schedule | None = None,
               objective: Objective | None = None) -> Problem:
    observation, _ = observation_of(defense, model, victims=victims, dtype=torch.float64)
    return Problem(observation, observation.labels, objective or Objective(terms=(TotalVariation(1e-3),)),
                   schedule or Schedule(8, 0.1, 1200), 7)


def found_of(problem: Problem, width: int, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The best images and objectives, with so many victims at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attacks.search.minimise.choose_width", lambda problem, waiting: width)
        return minimise(problem, **options).best()[:2]


@pytest.mark.parametrize("model", ["lenet", "mlp"])
@pytest.mark.parametrize("defense", ["none", "noise", "precode"])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_waiting_victims_take_slots_without_a_change(defense, model, width):
    """Also for restarts, which wait with the others, and for the streams of PRECODE's noise."""
    problem = problem_of(defense, model)
    expected, expected_cost = found_of(problem, 10, restarts=2)
    images, cost = found_of(problem, width, restarts=2)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(cost, expected_cost, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [2, 5])
def test_a_victim_leaves_and_the_others_do_not_notice(monkeypatch, width):
    monkeypatch.setattr(minimise_module, "_LOOK_EVERY", 3)
    expected, _ = found_of(problem_of(schedule=Schedule(24, 0.1, 1200)), 5)
    problem, calls = problem_of(schedule=Schedule(24, 0.1, 3)), []
    for gradient in problem.observation.shared.values():
        gradient[2] = torch.nan  # never makes progress
    images, cost = found_of(problem, width, progress=lambda done, total: calls.append((done, total)))
    left = cost.isnan()
    assert left.tolist() == [False, False, True, False, False]
    torch.testing.assert_close(images[~left], expected[~left], rtol=0, atol=1e-9)
    assert calls[-1] == (24, 24) and calls == sorted(calls)


def test_a_stalled_victim_goes_through_the_step_sizes_and_leaves(monkeypatch):
    monkeypatch.setattr(minimise_module, "_LOOK_EVERY", 5)
    problem = problem_of(schedule=Schedule(1000, 0.1, 10))
    for gradient in problem.observation.shared.values():
        gradient[2] = torch.nan  # never makes progress
    evaluations = []
    step = Problem.matcher

    def counting(self, starts, *, reloaded):
        matcher = step(self, starts, reloaded=reloaded)
        plain = matcher.step
        matcher.step = lambda images: (evaluations.append(len(images)), plain(images))[1]
        return matcher

    monkeypatch.setattr(Problem, "matcher", counting)
    images, cost = found_of(problem, 8)
    # Four step sizes, at each of which ten iterations without progress are noticed within another five.
    assert evaluations[0] == 8 and evaluations.index(4) <= 4 * 15 + 5
    assert torch.isfinite(images).all() and cost.isnan().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(("defense", "attack"), [
    ("none", "inverting-gradients(iterations=60)"), ("precode", "feature-matching(iterations=60)"), ("noise", "likelihood(iterations=60)"),
    ("pruning", "inverting-gradients(iterations=60)"), ("precode", "inverting-gradients(iterations=60)"), ("none", "dlg(iterations=20)"),
    ("none", "feature-matching(iterations=60)"), ("none", "see-through-gradients(iterations=60)")])
@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_victims_are_the_same_bit_for_bit_at_any_even_width(monkeypatch, model, defense, attack):
    """In float32, where signed steps would blow up a difference in the last digit."""
    observation, _ = observation_of(defense, model, victims=10)
    attack = attacks.create(attack)
    found = []
    for width in (4, 8, 12):
        monkeypatch.setattr("attacks.search.minimise.choose_width", lambda problem, waiting, width=width: width)
        found.append(attack.reconstruct(observation, seed=0))
    monkeypatch.undo()
    found.append(attack.reconstruct(observation, seed=0))
    for other in found[1:]:
        assert torch.equal(other.images, found[0].images) and torch.equal(other.cost, found[0].cost)


@pytest.mark.parametrize(("defense", "model"), [("none", "lenet"), ("precode", "lenet"), ("pruning", "mlp")])
def test_two_and_three_victims_of_many_images_are_those_of_more(defense, model):
    """They take as many slots, since the rows of products are images, of which there are a multiple of four."""
    observation, _ = observation_of(defense, model, victims=8, batch_size=16)
    attack = attacks.create("inverting-gradients(iterations=25)")
    images = attack.reconstruct(observation, seed=0).images
    for count in (2, 3):
        assert torch.equal(attack.reconstruct(observation.select(range(count)), seed=0).images, images[:count])


@pytest.mark.parametrize(("count", "width", "images", "slots"), [
    (3, 8, 1, 4), (5, 8, 1, 8), (3, 2, 1, 3), (1, 8, 64, 1), (2, 8, 64, 2), (3, 8, 6, 4), (5, 8, 64, 8), (4, 4, 64, 4), (3, 3, 64, 3)])
def test_how_many_slots(count, width, images, slots):
    assert filled(count, width, images) == slots


def test_below_four_at_once_rounding_depends_on_the_width(monkeypatch):
    """Where memory holds so few, float32 differs in its last digits, which the contract of attacks allows (1e-4 in a few steps)."""
    observation, _ = observation_of("none", "lenet", victims=6)
    attack = attacks.create("inverting-gradients(iterations=6)")
    found = []
    for width in (4, 1):
        monkeypatch.setattr("attacks.search.minimise.choose_width", lambda problem, waiting, width=width: width)
        found.append(attack.reconstruct(observation, seed=0).images)
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


class Exhausted:
    """Raises as a device without memory does where more than so many victims are worked on."""

    def __init__(self, monkeypatch, most: int, error: Exception, after: int = 0) -> None:
        plain = Problem.matcher
        self.calls = 0

        def matcher(problem, starts, *, reloaded):
            made = plain(problem, starts, reloaded=reloaded)
            step = made.step

            def limited(images):
                self.calls += 1
                if len(images) > most and self.calls > after:
                    raise error
                return step(images)

            made.step = limited
            return made

        monkeypatch.setattr(Problem, "matcher", matcher)


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory."),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")])
@pytest.mark.parametrize("after", [0, 4])
def test_out_of_memory_halves_the_width_and_goes_on(monkeypatch, caplog, error, after):
    problem = problem_of("precode")
    expected, _ = found_of(problem, 5)
    Exhausted(monkeypatch, 2, error, after)
    calls = []
    with caplog.at_level(logging.WARNING, "leakboard"):
        images, _ = found_of(problem, 5, progress=lambda done, total: calls.append(done))
    assert "goes on with 2 victims at once" in caplog.text
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-9)
    assert calls[-1] == 8


def test_other_errors_and_lack_of_memory_for_one_victim_are_raised(monkeypatch):
    Exhausted(monkeypatch, 0, MemoryError())
    with pytest.raises(MemoryError):
        found_of(problem_of(), 4)
    Exhausted(monkeypatch, 0, RuntimeError("another"))
    with pytest.raises(RuntimeError, match="another"):
        found_of(problem_of(), 4)


def test_signed_adam_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, 2, 4, 4, generator=generator)
    plain = x.clone().requires_grad_()
    theirs, ours = torch.optim.Adam([plain], lr=0.1), SignedAdam(x.clone(), (), [(torch.tensor(-1.5), torch.tensor(1.5))])
    for _ in range(20):
        derivative = torch.randn(x.shape, generator=generator)
        ours.step(derivative, (), torch.full((3,), 0.1, dtype=torch.float64))
        plain.grad = derivative.sign()
        theirs.step()
        with torch.no_grad():
            plain.clamp_(-1.5, 1.5)
    torch.testing.assert_close(ours.images, plain.detach(), rtol=1e-5, atol=1e-6)


def test_streams_do_not_depend_on_when_a_place_is_given_away():
    like = torch.zeros(())
    alone = VictimNoise([5], (3,), like, block=4)
    stream = VictimNoise([1, 2, 3], (3,), like, block=4)
    before = [stream.draw() for _ in range(3)]
    stream.restart(1, 5)
    stream.keep([1, 2])
    after = [stream.draw() for _ in range(6)]
    assert all(torch.equal(draw[0], alone.draw()[0]) for draw in after)
    third = VictimNoise([3], (3,), like, block=4)
    assert all(torch.equal(draw[-1], third.draw()[0]) for draw in before + after)


def test_the_width_keeps_to_the_memory(monkeypatch):
    problem = problem_of("noise", victims=9)
    starts = [Start(v, 0) for v in range(9)]
    assert choose_width(problem, starts) == 12  # nine, and three slots that are idle
    image = problem.first_images(starts[:1])
    taken = problem.matcher(starts[:1], reloaded=True).bytes_per_victim(image)
    monkeypatch.setattr("attacks.engine.memory.budget", lambda device: 9 * taken)
    assert choose_width(problem, starts) == 8  # victims are rounded alike in multiples of four
    monkeypatch.setattr("attacks.engine.memory.budget", lambda device: 3 * taken)
    assert choose_width(problem, starts) == 3
    monkeypatch.setattr("attacks.engine.memory.budget", lambda device: 1)
    assert choose_width(problem, starts) == 1


def test_one_start_takes_one_slot_at_once(monkeypatch):
    problem = problem_of(victims=1, schedule=Schedule(3000, 0.1, 1200))
    monkeypatch.setattr(Problem, "matcher", lambda *arguments, **others: pytest.fail("there is nothing to measure"))
    assert choose_width(problem, [Start(0, 0)]) == 1


@pytest.mark.parametrize(("slower", "expected"), [(16, 8), (1000, 20)])
def test_fewer_victims_where_that_is_clearly_faster(monkeypatch, slower, expected):
    monkeypatch.setattr("attacks.search.width._seconds_per_victim", lambda matcher, image, width: 2.0 if width >= slower else 1.0)
    problem = problem_of(victims=20, schedule=Schedule(500, 0.1, 1200))
    assert choose_width(problem, [Start(v, 0) for v in range(20)]) == expected


@pytest.mark.parametrize("defense", ["none", "precode"])
def test_a_recorded_attack_gives_the_same_and_sees_what_is_loaded(monkeypatch, caplog, defense):
    problem = problem_of(defense, schedule=Schedule(24, 0.1, 1200))
    expected, _ = found_of(problem, 3)
    monkeypatch.setattr(minimise_module, "worth_recording", lambda device, steps: True)
    monkeypatch.setattr(recorded, "record", graph_stand_in.record)
    with caplog.at_level(logging.INFO, "leakboard"):
        images, _ = found_of(problem, 3)
    assert "was recorded in" in caplog.text and "not recorded" not in caplog.text
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-7)


def test_an_attack_goes_on_where_recording_fails(monkeypatch, caplog):
    problem = problem_of(schedule=Schedule(24, 0.1, 1200))
    expected, _ = found_of(problem, 5)
    monkeypatch.setattr(minimise_module, "worth_recording", lambda device, steps: True)
    monkeypatch.setattr(recorded, "record", lambda *arguments, **others: 1 / 0)
    with caplog.at_level(logging.INFO, "leakboard"):
        images, _ = found_of(problem, 5)
    assert "not recorded: division by zero" in caplog.text
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-9)


def recorded_for(monkeypatch, problem: Problem, width: int, worth: int) -> tuple[list[int], torch.Tensor]:
    """Of an attack whose steps are recorded where so many are left, for how many slots, one recording after another; and images."""
    shapes = []

    def taken(step, images, *others):
        shapes.append(len(images))
        return step

    monkeypatch.setattr("attacks.engine.matcher.recorded_or_plain", taken)
    monkeypatch.setattr(minimise_module, "worth_recording", lambda device, steps: steps >= worth)
    images, _ = found_of(problem, width)
    return shapes, images


@pytest.mark.parametrize(("worth", "expected"), [(24, [8, 4]), (25, [])])
def test_a_step_is_recorded_again_where_slots_were_closed_and_enough_is_left(monkeypatch, worth, expected):
    """Nine victims in eight slots: one is left for another round, in four."""
    problem = problem_of(victims=9, schedule=Schedule(24, 0.1, 1200))
    unchanged, _ = found_of(problem, 8)
    shapes, images = recorded_for(monkeypatch, problem, 8, worth)
    assert shapes == expected
    torch.testing.assert_close(images, unchanged, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("stalled", "expected"), [(5, [12]), (6, [12, 8]), (9, [12, 4])])
def test_slots_of_a_recorded_step_are_closed_when_half_are_idle(monkeypatch, stalled, expected):
    """Each recording takes as long as many steps, and victims leave one after another."""
    monkeypatch.setattr(minimise_module, "_LOOK_EVERY", 3)
    problem = problem_of(victims=12, schedule=Schedule(24, 0.1, 3))
    for gradient in problem.observation.shared.values():
        gradient[:stalled] = torch.nan
    expected_images, _ = found_of(problem, 12)
    shapes, images = recorded_for(monkeypatch, problem, 12, 6)
    assert shapes == expected
    torch.testing.assert_close(images[stalled:], expected_images[stalled:], rtol=0, atol=1e-9)


def test_dlg_is_recorded(monkeypatch):
    shapes = []
    monkeypatch.setattr("attacks.engine.matcher.recorded_or_plain",
                        lambda step, images, *others: (shapes.append((len(images), len(others))), step)[1])
    monkeypatch.setattr(minimise_module, "worth_recording", lambda device, steps: True)
    observation, _ = observation_of("none", "lenet", victims=2)
    attacks.create("dlg(iterations=3)").reconstruct(observation, seed=0)
    assert shapes == [(4, 2)]  # with logits and noise
