"""No step of a training or an attack makes the host wait for the device; on fake tensors of another device."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from attack_cases import observation_of
from host_reads import HostReads
from model_cases import FAKE_DEVICE, MODELS, batch, private_of
from torch._subclasses.fake_tensor import FakeTensorMode

import attacks
import defenses
from attacks.engine.matcher import GradientMatcher
from attacks.methods.matching_attack import MatchingAttack
from benchmark.data.loaders import BatchLoader, LabelledImages
from benchmark.measure import training
from defenses import LocalSteps
from defenses.client import ONE_GRADIENT

#: The normalisation of fake images cannot be read.
GIVEN = {"ats": "ats(mean=(0.0, 0.0), std=(1.0, 1.0))"}
SPECIFICATIONS = [*(GIVEN.get(name, name) for name in defenses.registry.names()), "precode+noise(std=0.001)"]


def test_reads_are_found():
    with FakeTensorMode(), torch.device(FAKE_DEVICE):
        x = torch.ones(3)
        with HostReads() as reads:
            x.cpu()
            x.sum().item()
            torch.zeros(3, device="cpu").copy_(x)
            bool((x > 0).any())
            (x + 1).to(torch.float64)
    assert reads.found == ["to the CPU", "aten._local_scalar_dense.default", "into a tensor of the CPU", "aten._local_scalar_dense.default"]


@pytest.mark.parametrize("model", ["lenet", "mlp"])
@pytest.mark.parametrize("specification", SPECIFICATIONS)
def test_an_epoch_reads_its_loss_once(specification, model, monkeypatch):
    """However many steps it has; the batches come from the loader of the benchmark, Poisson samples included."""
    found = {}
    for steps in (2, 5):
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device(FAKE_DEVICE):
            size = 6 * defenses.create(specification).summed
            pixels = torch.zeros(size * steps, 8, 8, 2, dtype=torch.uint8)
            images = LabelledImages(pixels, torch.zeros(len(pixels), dtype=torch.long), torch.zeros(2), torch.ones(2))
            samples = [upload_of(torch.arange(size, device="cpu")) for _ in range(steps)]  # a sample of unknown size cannot be faked
            monkeypatch.setattr(BatchLoader, "_indices", lambda self, samples=samples: iter(samples))
            module = MODELS[model]()
            private = private_of(
                specification, module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1, foreach=False),
                data_loader=BatchLoader(images, size), epochs=1, generator=torch.Generator("cpu"))
            with HostReads() as reads:
                training._train_epoch(private, torch.device(FAKE_DEVICE), "float32", None, None)
            found[steps] = reads.found
    assert found[2] == found[5] == ["aten._local_scalar_dense.default"]


def upload_of(indices):
    from defenses.support.upload import upload
    return upload(indices, torch.device(FAKE_DEVICE))


@pytest.mark.parametrize("defense", ["none", "ppp"])
@pytest.mark.parametrize("cls", [cls for cls in attacks.registry if dataclasses.fields(cls)], ids=lambda cls: cls.name)
def test_iterations_of_an_attack_read_nothing(cls, defense, monkeypatch):
    """Up to the patience of 1,200 iterations, after which the host looks every 50; more iterations do not read more."""
    if cls.of_others or not any(field.name == "iterations" for field in dataclasses.fields(cls)):
        return
    monkeypatch.setattr(GradientMatcher, "_disagreement", lambda *arguments: None)
    monkeypatch.setattr("attacks.search.minimise.choose_width", lambda problem, waiting: 4)
    monkeypatch.setattr("attacks.engine.layers.rule.factors", lambda g, rank: None)
    found = {}
    for iterations in (2, 5):
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device(FAKE_DEVICE):
            observation, _ = observation_of(defense, "lenet", client_generator=torch.Generator("cpu"), victims=6,
                                            local=LocalSteps(3, 0.1, 1) if "updates" in cls.needs else ONE_GRADIENT)
            attack = cls(iterations=iterations)
            if attack.obstacle(observation) is not None:
                return
            with HostReads() as reads:
                attack.reconstruct(observation, seed=0)
            found[iterations] = reads.found
    assert found[2] == found[5]
    if issubclass(cls, MatchingAttack) and defense == "none":
        assert found[5] == []


def test_uploads_to_a_gpu_are_pinned_and_do_not_block(monkeypatch):
    """As asked of torch, without a GPU."""
    from defenses.support.upload import upload
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (asked.append("pinned"), tensor)[1])
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *arguments, **others: (asked.append((arguments, others)), tensor)[1])
    upload([1, 2], torch.device("cuda"))
    assert asked == ["pinned", ((torch.device("cuda"),), {"non_blocking": True})]


def test_large_uploads_are_not_pinned(monkeypatch):
    """A data set of gigabytes; the host would keep its pinned copy."""
    from defenses.support import upload as module
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pytest.fail("pinned"))
    asked = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *arguments, **others: (asked.append((arguments, others)), tensor)[1])
    module.upload(torch.empty(2**26 + 1, dtype=torch.uint8), torch.device("cuda"))
    assert asked == [((torch.device("cuda"),), {})]


def test_numbers_are_uploaded_in_their_type():
    from defenses.support.upload import upload
    assert upload([0.1], torch.device("cpu"), torch.float64).item() == 0.1
    assert upload([2**53 + 1], torch.device("cpu"), torch.int64).item() == 2**53 + 1
    assert upload([0.1], torch.device("cpu")).dtype == torch.float32 and upload([1], torch.device("cpu")).dtype == torch.int64


def test_batches_reach_the_device_by_uploads(monkeypatch):
    given = []
    monkeypatch.setattr("benchmark.data.loaders.upload", lambda values, device: (given.append(len(values)), values)[1])
    x, _ = batch(6)
    images = LabelledImages(torch.zeros(6, 8, 8, 2, dtype=torch.uint8), torch.zeros(6, dtype=torch.long), torch.zeros(2), torch.ones(2))
    assert len(list(BatchLoader(images, 2, torch.Generator()))) == 3 and given == [6] and len(x) == 6
    assert len(list(BatchLoader(images, 2, torch.Generator(), poisson=True))) == 3 and len(given) == 4
