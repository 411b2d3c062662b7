"""Defenses on the update of a client, of which no batch is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from model_cases import MODELS, batch, loader, private_of

import defenses
from defenses import Defense, NoDefense, shared_update
from defenses.private import simulated_gradient

ABLE = ["none", "noise", "noise(distribution=laplacian)", "pruning", "clipping", "quantisation", "sign", "svd", "outpost", "top-k",
        "clipping(norm=0.01)+noise(std=0.001)", "top-k(share=0.5)+noise(std=0.001)"]
UNABLE = {"precode": "extend_model", "dp-sgd": "batch_gradient", "ppp": "regularizer", "mixup": "transform_batch", "ats": "transform_batch",
          "soteria": "extend_model", "censor": "reads the batch", "optimal-noise": "reads the batch", "grad-defense": "reads the batch",
          "noise+soteria": "extend_model", "noise+optimal-noise": "reads the batch"}


def case(seed: int = 0):
    """A model, its images with labels, and their plain gradient."""
    torch.manual_seed(seed)
    module = MODELS["lenet"]()
    x, y = batch(4, seed)
    return module, x, y, simulated_gradient(NoDefense(), module, x, y, seed=0)


def shared(specification: str, module, update, seed: int = 7, **arguments):
    return shared_update(defenses.create(specification), module, update, generator=torch.Generator().manual_seed(seed), **arguments)


@pytest.mark.parametrize("specification", [*defenses.registry.names(), *ABLE])
def test_the_update_of_one_step_is_shared_as_its_gradient_is_or_refused(specification):
    module, x, y, gradient = case()
    before = {name: g.clone() for name, g in gradient.items()}, {name: p.clone() for name, p in module.state_dict().items()}
    try:
        found = shared(specification, module, gradient)
    except ValueError as error:
        assert specification not in ABLE and "\n" not in str(error)
        assert str(error).endswith("cannot act on an update alone; train with its make_private in the client's own loop")
        return
    assert specification not in UNABLE
    # Of a sum over clients, what leaves one of them is its own gradient.
    alone = "none" if specification == "secure-sum" else specification
    expected = simulated_gradient(defenses.create(alone), module, x, y, seed=7)
    assert list(found) == list(expected) and all(torch.equal(found[name], g) for name, g in expected.items())
    assert all(torch.equal(gradient[name], g) for name, g in before[0].items())
    assert all(torch.equal(p, before[1][name]) for name, p in module.state_dict().items())


@pytest.mark.parametrize(("specification", "reason"), UNABLE.items())
def test_who_needs_the_batch_or_the_training_says_so(specification, reason):
    module, _, _, gradient = case()
    with pytest.raises(ValueError, match=reason) as caught:
        shared(specification, module, gradient)
    assert str(caught.value).startswith(defenses.create(specification).label + " ")


def test_a_client_of_a_sum_adds_its_share_of_the_noise():
    module, _, _, gradient = case()
    whole, share = (shared(specification, module, gradient) for specification in ("noise(std=0.1)", "noise(std=0.1)+secure-sum(clients=4)"))
    for name, g in gradient.items():
        torch.testing.assert_close(2 * (share[name] - g), whole[name] - g, rtol=1e-4, atol=1e-6)


def test_what_a_client_keeps_goes_on_from_round_to_round():
    specification = "top-k(share=0.3)+noise(std=0.001)"
    module, _, _, _ = case()
    private = private_of(specification, module, optimizer=torch.optim.SGD(module.parameters()), data_loader=loader())
    state = defenses.create(specification).initial_state(module)
    for round_ in range(3):
        x, y = batch(6, 20 + round_)
        private._generator.manual_seed(round_)
        private.backward(x, y)
        update = simulated_gradient(NoDefense(), module, x, y, seed=0)
        found = shared(specification, module, update, seed=round_, state=state, round_=round_)
        assert all(torch.equal(found[name], p.grad) for name, p in module.named_parameters())
    assert any(memory.any() for memory in state["top-k"]["memory"].values())


@pytest.mark.parametrize("read", [lambda step: step.batch.images, lambda step: step.batch_size, lambda step: step.gradient(None)])
def test_a_plugin_that_reads_a_batch_is_refused_without_saying_anything(read):
    @dataclass(frozen=True)
    class Curious(Defense):
        name: ClassVar[str] = "curious"
        summary: ClassVar[str] = "reads"

        def transform_gradients(self, gradients, step):
            read(step)
            return gradients

    module, _, _, gradient = case()
    with pytest.raises(ValueError, match="curious reads the batch behind a gradient and cannot act on an update alone"):
        shared_update(Curious(), module, gradient, generator=torch.Generator())


def test_a_step_of_an_update_has_no_other_attributes_than_a_step():
    @dataclass(frozen=True)
    class Mistaken(Defense):
        name: ClassVar[str] = "mistaken"
        summary: ClassVar[str] = "misspells"

        def transform_gradients(self, gradients, step):
            return step.bacth

    module, _, _, gradient = case()
    with pytest.raises(AttributeError, match="bacth"):
        shared_update(Mistaken(), module, gradient, generator=torch.Generator())
