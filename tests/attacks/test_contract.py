"""What every attack must do, over every defense; a new one is tested by being registered."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from attack_cases import observation_of
from conftest import FAKE_DEVICE, MODELS
from torch._subclasses.fake_tensor import FakeTensorMode

import attacks
import defenses
from attacks.matching import GradientMatcher

#: Parameters that make an attack short, where it has them.
SHORT = {"iterations": 6, "restarts": 2}
ATTACKS = list(attacks.registry)
DEFENSES = [*defenses.registry.names(), "precode+noise(std=0.001)"]


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch):
    monkeypatch.setattr("attacks.portfolio.BUDGETS", {"standard": (3, 1)})


def short(cls: type[attacks.Attack]) -> attacks.Attack:
    known = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in SHORT.items() if name in known})


@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.name)
def test_is_described_and_parses_back(cls):
    attack = cls()
    assert cls.summary and cls.paper and cls.tier in ("static", "adaptive", "worst case") and cls.threat_model in tuple("ABCDEF")
    assert attacks.create(attack.label) == attack


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("defense", DEFENSES)
@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.name)
def test_returns_valid_images_and_changes_nothing(cls, defense, model):
    observation, _ = observation_of(defense, model)
    before = {name: t.clone() for name, t in observation.module.state_dict().items()}
    observed = {name: g.clone() for name, g in observation.gradients.items()}
    random = torch.get_rng_state()
    attack = short(cls)
    if (obstacle := attack.obstacle(observation)) is not None:
        with pytest.raises(ValueError, match=obstacle):
            attack.reconstruct(observation, seed=0)
        return
    calls: list[tuple[int, int]] = []
    found = attack.reconstruct(observation, seed=0, progress=lambda done, total: calls.append((done, total)))
    n, b = len(observation), observation.batch_size
    assert found.images.shape == (n, b, *observation.image_shape) and found.labels.shape == (n, b) and found.cost.shape == (n,)
    assert torch.isfinite(found.images).all() and found.images.min() >= 0 and found.images.max() <= 1
    assert not found.images.requires_grad
    assert calls and calls[-1][0] == calls[-1][1] == len(calls)
    assert all(torch.equal(t, before[name]) for name, t in observation.module.state_dict().items())
    assert all(p.grad is None for p in observation.module.parameters())
    assert all(torch.equal(g, observed[name]) for name, g in observation.gradients.items())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("defense", DEFENSES)
@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.name)
def test_a_victims_result_does_not_depend_on_the_others(cls, defense):
    """Attacked alone, or in another order, a victim gives the same result up to float32 rounding."""
    observation, _ = observation_of(defense, "lenet")
    attack = short(cls)
    if attack.obstacle(observation) is not None:
        return
    together = attack.reconstruct(observation, seed=0)
    order = [2, 0]
    apart = attack.reconstruct(observation.select(order), seed=0)
    # Signed Adam moves a pixel whose derivative is about zero by rounding alone; no such pixel comes up in so few iterations.
    torch.testing.assert_close(apart.images, together.images[order], rtol=0, atol=1e-4)
    torch.testing.assert_close(apart.cost, together.cost[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.name)
def test_the_seed_decides(cls):
    observation, _ = observation_of("precode", "lenet")
    attack = short(cls)
    if attack.obstacle(observation) is not None:
        return
    first, again, other = (attack.reconstruct(observation, seed=seed).images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("defense", DEFENSES)
@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.name)
def test_stays_on_the_device(cls, defense, monkeypatch):
    """On fake tensors of another device: an operation that meets a tensor left on the CPU raises."""
    if cls is attacks.WorstCase and defense != "noise":
        return  # its members are tested alone
    # Fake numbers cannot be compared, nor memory be measured.
    monkeypatch.setattr(GradientMatcher, "_disagreement", lambda *arguments: None)
    for module in ("optimization", "dlg"):
        monkeypatch.setattr(f"attacks.{module}.choose_width", lambda problem, waiting: len(waiting) - 1)
    monkeypatch.setattr("attacks.layer_gradients.factors", lambda g, rank: None if defense == "noise" else (g[..., :rank], g[:, :rank]))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(FAKE_DEVICE):
        observation, _ = observation_of(defense, "lenet", client_generator=torch.Generator("cpu"))
        assert {g.device.type for g in observation.gradients.values()} == {FAKE_DEVICE}
        attack = short(cls)
        if attack.obstacle(observation) is None:
            assert attack.reconstruct(observation, seed=0).images.device.type == FAKE_DEVICE
