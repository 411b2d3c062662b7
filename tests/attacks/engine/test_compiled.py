"""What a compiled step has to stand before it is taken, and what becomes of one that fails later."""

from __future__ import annotations

import logging

import pytest
import torch
from attack_cases import observation_of

from attacks.engine import compiled
from attacks.engine.compiled import compiled_or_plain
from attacks.engine.matcher import GradientMatcher
from attacks.objective.costs import Euclidean
from attacks.objective.objective import Objective

IMAGES = torch.arange(24.0).view(2, 1, 1, 3, 4)


def step(images, noise):
    """Something of the same kind as a matching step."""
    return images.square(), images.flatten(1).sum(1)


def with_compiler(monkeypatch, make):
    """Put in the place of ``torch.compile`` what makes a function of the graph and of the number of a call."""
    def compile_(graph, **options):
        calls = []

        def function(*given):
            calls.append(given)
            return make(graph, len(calls), *given)

        return function

    monkeypatch.setattr(torch, "compile", compile_)


def test_a_step_that_is_right_is_taken(monkeypatch):
    asked = []
    with_compiler(monkeypatch, lambda graph, call, *given: (asked.append(given[0]), graph(*given))[1])
    taken = compiled_or_plain(step, IMAGES, [])
    assert taken is not step and len(asked) == 3
    assert not any(torch.equal(a, b) for a, b in ((asked[0], asked[1]), (asked[0], asked[2]), (asked[1], asked[2])))
    for found, expected in zip(taken(IMAGES, []), step(IMAGES, []), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_replay_that_is_wrong_is_noticed(monkeypatch, caplog, call):
    """A CUDA graph replays from the third call on; one that misses where its inputs lie gives what it gave before."""
    kept = []

    def make(graph, now, *given):
        found = graph(*given)
        kept.append(found)
        return found if now < call else tuple(result + 1 for result in found) if now == 1 else kept[0]

    with_compiler(monkeypatch, make)
    with caplog.at_level(logging.INFO, "leakboard"):
        assert compiled_or_plain(step, IMAGES, []) is step
    assert "not compiled: its result differs" in caplog.text


def failing(error, at):
    def make(graph, now, *given):
        if now >= at:
            raise error
        return graph(*given)

    return make


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_step_that_cannot_be_recorded_is_left(monkeypatch, caplog, call):
    with_compiler(monkeypatch, failing(RuntimeError("CUDA error: operation not permitted when stream is capturing"), call))
    with caplog.at_level(logging.INFO, "leakboard"):
        assert compiled_or_plain(step, IMAGES, []) is step
    assert "not compiled: CUDA error: operation not permitted" in caplog.text


def test_a_step_that_fails_later_is_left_for_good_and_said_once(monkeypatch, caplog):
    with_compiler(monkeypatch, failing(AssertionError("not the thread that recorded"), 5))
    taken = compiled_or_plain(step, IMAGES, [])
    with caplog.at_level(logging.INFO, "leakboard"):
        for number in range(4):
            for found, expected in zip(taken(IMAGES + number, []), step(IMAGES + number, []), strict=True):
                assert torch.equal(found, expected)
    assert [record.message for record in caplog.records] == ["the compiled matching step fails, and is left: not the thread that recorded"]


def test_lack_of_memory_is_left_to_who_can_take_less(monkeypatch):
    with_compiler(monkeypatch, failing(torch.cuda.OutOfMemoryError("CUDA out of memory."), 4))
    taken = compiled_or_plain(step, IMAGES, [])
    with pytest.raises(torch.cuda.OutOfMemoryError):
        taken(IMAGES, [])


def test_what_the_step_itself_raises_is_raised(monkeypatch):
    with_compiler(monkeypatch, failing(RuntimeError("replay"), 4))
    broken = []

    def failing_later(images, noise):
        if broken:
            raise ValueError("the step itself")
        return step(images, noise)

    taken = compiled_or_plain(failing_later, IMAGES, [])
    broken.append(True)
    for _ in range(2):
        with pytest.raises(ValueError, match="the step itself"):
            taken(IMAGES, [])


def test_options_of_a_gpu_are_known_and_leave_nothing_to_timing():
    options = compiled._of_a_gpu()
    assert options["triton.cudagraphs"] is True
    assert options.get("deterministic") is (True if hasattr(torch._inductor.config, "deterministic") else None)
    torch.compile(lambda x: x, options=options)  # an unknown option raises


def test_a_gpu_gets_its_options(monkeypatch):
    asked = []
    monkeypatch.setattr(compiled, "make_fx", lambda traced: lambda *given: traced)
    monkeypatch.setattr(torch, "compile", lambda graph, **options: (asked.append(options), graph)[1])
    compiled_or_plain(step, IMAGES, [])

    class OnAGpu(torch.Tensor):
        is_cuda = True

    compiled_or_plain(step, IMAGES.as_subclass(OnAGpu), [])
    assert asked == [{"dynamic": False, "options": None}, {"dynamic": False, "options": compiled._of_a_gpu()}]


@pytest.mark.parametrize("defense", ["none", "precode"])
def test_a_step_with_is_compiled_too(defense, monkeypatch, caplog):
    """DLG's, whose labels are variables; traced, and run as it was traced, with a victim that is loaded in between."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    observation, x = observation_of(defense, "lenet", victims=3, dtype=torch.float64)
    plain, other = (GradientMatcher(observation, observation.labels, Objective(Euclidean()), seeds=[1, 2], positions=[0, 1], reloaded=True)
                    for _ in range(2))
    logits = torch.randn(2, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for matcher in (plain, other):
        matcher.step_with(x[:2], [logits])
    with caplog.at_level(logging.INFO, "leakboard"):
        other.compile(x[:2], [logits])
    assert "was compiled in" in caplog.text
    for number in range(3):
        if number == 1:
            for matcher in (plain, other):
                matcher.load(1, 2, 5)
        given = x[:2] + 0.1 * number, [logits - 0.2 * number]
        for expected, found in zip(plain.step_with(*given), other.step_with(*given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
