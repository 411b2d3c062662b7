"""A defense before what leaves a client of Flower, without its engine."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch

pytest.importorskip("flwr", reason="needs Flower; make flower has it")

from flower_cases import STEP_SIZE, answer, build, client, context, equal, failure, gradient, request, told
from flwr.app import ArrayRecord
from model_cases import BatchNormNet

import defenses
from benchmark.errors import InputError
from benchmark.flower.exchange import Gradients, Weights
from benchmark.flower.mod import DefenseMod
from defenses import SpecificationError, shared_update
from defenses.support.seeds import derive


def released(specification, update, node, round_=0, state=None, seed=3):
    generator = torch.Generator().manual_seed(derive("flower", seed, node, round_))
    return shared_update(defenses.create(specification), build(), update, generator=generator, state=state, round_=round_)


@pytest.mark.parametrize("specification", ["none", "noise(std=0.01)", "pruning", "clipping(norm=0.1)+noise(std=0.01)"])
def test_a_gradient_leaves_as_the_defense_releases_it(specification):
    module, exchange = build(), Gradients()
    mod = pickle.loads(pickle.dumps(DefenseMod(specification, build, exchange, seed=3)))  # as it gets to another process
    reply = mod(request(module), context(partition=2), client(exchange))
    assert equal(told(reply), released(specification, gradient(module), node=2))
    assert reply.content["metrics"] == {"num-examples": 4, "loss": 0.5}


@pytest.mark.parametrize("steps", [1, 3])
def test_weights_leave_as_the_release_of_their_update(steps):
    module, exchange = build(), Weights(STEP_SIZE, steps)
    sent, trained = module.state_dict(), told(client(exchange)(request(module), context()))
    reply = told(DefenseMod("noise(std=0.01)", build, exchange, seed=3)(request(module), context(), client(exchange)))
    update = {name: (w - trained[name]).double() / (steps * STEP_SIZE) for name, w in sent.items()}
    expected = released("noise(std=0.01)", {name: u.float() for name, u in update.items()}, node=7)
    for name, w in sent.items():
        assert torch.allclose(reply[name], w - steps * STEP_SIZE * expected[name], rtol=0, atol=1e-6)
    if steps == 1:  # the update is the gradient, but for the rounding of weights below one over the step size
        assert all(torch.allclose(update[name].float(), g, rtol=0, atol=1e-6) for name, g in gradient(module).items())


def test_what_a_client_keeps_lies_in_its_context():
    specification, module = "top-k(share=0.1)+noise(std=0.001)", build()
    mod, own, other = DefenseMod(specification, build, Gradients(), seed=3), context(), context()
    state = defenses.create(specification).initial_state(module)
    for round_ in range(3):
        reply = mod(request(module, round_ + 1), own, client(Gradients(), seed=round_))
        assert equal(told(reply), released(specification, gradient(module, round_), node=7, round_=round_, state=state))
    fresh = mod(request(module), other, client(Gradients(), seed=2))
    assert not equal(told(fresh), told(reply)) and equal(told(fresh), released(specification, gradient(module, 2), node=7))


def test_randomness_is_the_clients_own():
    """Workers are new processes, in which torch's own generators all begin alike."""
    noise = []
    for _ in range(2):
        torch.manual_seed(0)
        reply = DefenseMod("noise", build, Gradients())(request(build()), context(), client(Gradients()))
        noise.append(told(reply)["1.weight"] - gradient(build())["1.weight"])
    assert not torch.equal(*noise)
    assert torch.stack(noise).std() == pytest.approx(0.01, rel=0.1)
    seeded = [told(DefenseMod("noise", build, Gradients(), seed=0)(request(build()), context(partition=p), client(Gradients()))) for p in (0, 1)]
    assert not equal(*seeded)


@pytest.mark.parametrize("kind", ["evaluate", "query", "query.images"])
def test_only_replies_of_a_training_are_protected(kind):
    mod = DefenseMod("noise", build, Gradients(), seed=3)
    assert equal(told(mod(request(build(), kind=kind), context(), client(Gradients()))), gradient(build()))
    assert not equal(told(mod(request(build(), kind="train.again"), context(), client(Gradients()))), gradient(build()))


def test_an_error_of_the_client_goes_on():
    reply = DefenseMod("noise", build, Gradients())(request(build()), context(), lambda message, _: failure(message))
    assert reply.has_error() and reply.error.reason == "it ran\nout of memory"


@pytest.mark.parametrize(("specification", "error", "message"), [
    ("nois", SpecificationError, "unknown defense 'nois'; did you mean 'noise'?"),
    ("noise(sd=1)", SpecificationError, "unknown parameter of defense noise 'sd'"),
    ("precode", ValueError, "acts while a client trains (extend_model, regularizer) and cannot act on an update alone; train with its make_private"),
    ("dp-sgd", ValueError, "dp-sgd(noise_multiplier=1.0) acts while a client trains"),
    ("soteria+noise", ValueError, "and cannot act on an update alone"),
    ("optimal-noise", ValueError, "optimal-noise(std=0.1) reads the batch behind a gradient and cannot act on an update alone"),
])
def test_bad_defenses_are_one_line_before_any_round(specification, error, message):
    with pytest.raises(error) as caught:
        DefenseMod(specification, build, Gradients())
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("exchange", "change", "message"), [
    (Gradients(), lambda t: {**t, "more": torch.zeros(1)}, "'more' is of shape [1], expected not there"),
    (Gradients(), lambda t: {"1.weight": t["1.weight"]}, "'1.bias' is not there, expected of shape [12]"),
    (Weights(0.1), lambda t: {**t, "1.bias": torch.zeros(3)}, "'1.bias' is of shape [3], expected of shape [12]"),
])
def test_replies_that_are_not_what_was_agreed_on(exchange, change, message):
    mod = DefenseMod("noise", build, exchange)
    with pytest.raises(InputError) as caught:
        mod(request(build()), context(), lambda m, c: answer(change(told(client(exchange)(m, c))), m))
    assert str(caught.value) == f"a client's reply is not what was agreed on: {message}"


def test_what_no_defense_covers_does_not_leave():
    mod, sent = DefenseMod("noise", BatchNormNet, Weights(0.1)), BatchNormNet()

    def train(message, _):
        module = BatchNormNet()
        module.load_state_dict(told(message))
        module(torch.randn(4, 2, 8, 8))
        return answer(module.state_dict(), message)

    with pytest.raises(InputError, match=r"the client changed 'norm.running_mean', which is no trainable parameter: .*; reply it as it was sent"):
        mod(request(sent), context(), train)
    kept = mod(request(sent), context(), lambda message, _: answer(told(message), message))
    assert torch.equal(told(kept)["norm.running_mean"], sent.norm.running_mean)
    assert not torch.equal(told(kept)["norm.weight"], sent.norm.weight)


def test_a_reply_of_several_records():
    def train(message, context):
        reply = client(Gradients())(message, context)
        reply.content["more"] = ArrayRecord(gradient(build()))
        return reply

    with pytest.raises(InputError, match="must hold one array record, got 2"):
        DefenseMod("noise", build, Gradients())(request(build()), context(), train)


@pytest.mark.parametrize(("arguments", "message"), [((0,), "step_size"), ((0.1, 0), "local_steps"), ((0.1, 1.5), "local_steps")])
def test_an_exchange_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Weights(*arguments)


def test_a_client_needs_no_attacks():
    code = "import sys, benchmark.flower.mod; assert not [m for m in sys.modules if m.startswith('attacks')]"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
