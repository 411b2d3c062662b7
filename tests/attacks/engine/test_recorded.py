"""What a recorded step has to stand before it is taken, and what becomes of one that fails later. (That graphs replay what they should is
a check on a GPU.)"""

from __future__ import annotations

import logging

import graph_stand_in
import pytest
import torch
from attack_cases import observation_of

from attacks.engine import recorded
from attacks.engine.matcher import GradientMatcher
from attacks.engine.recorded import recorded_or_plain
from attacks.objective.costs import Euclidean
from attacks.objective.objective import Objective

IMAGES = torch.arange(24.0).view(2, 1, 1, 3, 4)


def step(images, noise):
    """Something of the same kind as a matching step."""
    return images.square(), images.flatten(1).sum(1)


def with_recorder(monkeypatch, make):
    """Put in the place of the recording what makes a result of the step and of the number of a call."""
    def record(step, *given):
        calls = []

        def replay(*given):
            calls.append(given)
            return make(step, len(calls), *given)

        return replay

    monkeypatch.setattr(recorded, "record", record)


def test_a_step_that_is_right_is_taken(monkeypatch):
    asked = []
    with_recorder(monkeypatch, lambda step, call, *given: (asked.append(given[0]), step(*given))[1])
    taken = recorded_or_plain(step, IMAGES, [])
    assert taken is not step and len(asked) == 2
    assert not any(torch.equal(a, b) for a, b in ((asked[0], asked[1]), (asked[0], IMAGES), (asked[1], IMAGES)))
    for found, expected in zip(taken(IMAGES, []), step(IMAGES, []), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("call", [1, 2])
def test_a_replay_that_is_wrong_is_noticed(monkeypatch, caplog, call):
    """One that misses where its inputs lie gives what it gave when it was recorded."""
    with_recorder(monkeypatch, lambda step, now, *given: step(*given) if now < call else step(IMAGES, []))
    with caplog.at_level(logging.INFO, "leakboard"):
        assert recorded_or_plain(step, IMAGES, []) is step
    assert "not recorded: its result differs" in caplog.text


def failing(error, at):
    def make(step, now, *given):
        if now >= at:
            raise error
        return step(*given)

    return make


def test_a_step_that_cannot_be_recorded_is_left(monkeypatch, caplog):
    def record(step, *given):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "record", record)
    with caplog.at_level(logging.INFO, "leakboard"):
        assert recorded_or_plain(step, IMAGES, []) is step
    assert "not recorded: CUDA error: operation not permitted" in caplog.text


def test_a_step_that_fails_later_is_left_for_good_and_said_once(monkeypatch, caplog):
    with_recorder(monkeypatch, failing(RuntimeError("CUDA error: invalid argument"), 4))
    taken = recorded_or_plain(step, IMAGES, [])
    with caplog.at_level(logging.INFO, "leakboard"):
        for number in range(4):
            for found, expected in zip(taken(IMAGES + number, []), step(IMAGES + number, []), strict=True):
                assert torch.equal(found, expected)
    assert [record.message for record in caplog.records] == ["the recorded matching step fails, and is left: CUDA error: invalid argument"]


def test_lack_of_memory_is_left_to_who_can_take_less(monkeypatch):
    with_recorder(monkeypatch, failing(torch.cuda.OutOfMemoryError("CUDA out of memory."), 3))
    taken = recorded_or_plain(step, IMAGES, [])
    with pytest.raises(torch.cuda.OutOfMemoryError):
        taken(IMAGES, [])


def test_what_the_step_itself_raises_is_raised(monkeypatch):
    with_recorder(monkeypatch, failing(RuntimeError("replay"), 3))
    broken = []

    def failing_later(images, noise):
        if broken:
            raise ValueError("the step itself")
        return step(images, noise)

    taken = recorded_or_plain(failing_later, IMAGES, [])
    broken.append(True)
    for _ in range(2):
        with pytest.raises(ValueError, match="the step itself"):
            taken(IMAGES, [])


@pytest.mark.parametrize("defense", ["none", "precode"])
def test_a_step_with_more_variables_is_recorded_too(defense, monkeypatch, caplog):
    """DLG's, whose labels are variables, with a victim that is loaded in between."""
    monkeypatch.setattr(recorded, "record", graph_stand_in.record)
    observation, x = observation_of(defense, "lenet", victims=3, dtype=torch.float64)
    plain, other = (GradientMatcher(observation, observation.labels, Objective(Euclidean()), seeds=[1, 2], positions=[0, 1], reloaded=True)
                    for _ in range(2))
    logits = torch.randn(2, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for matcher in (plain, other):
        matcher.step_with(x[:2], [logits])
    with caplog.at_level(logging.INFO, "leakboard"):
        other.record(x[:2], [logits])
    assert "was recorded in" in caplog.text
    for number in range(3):
        if number == 1:
            for matcher in (plain, other):
                matcher.load(1, 2, 5)
        given = x[:2] + 0.1 * number, [logits - 0.2 * number]
        for expected, found in zip(plain.step_with(*given), other.step_with(*given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
