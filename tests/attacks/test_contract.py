"""What every attack must do, over every defense; a new one is tested by being registered."""

from __future__ import annotations

import dataclasses
from itertools import islice

import pytest
import torch
from attack_cases import observation_of
from model_cases import FAKE_DEVICE, MODELS
from torch._subclasses.fake_tensor import FakeTensorMode
from toy_defenses import TOYS

import attacks
import defenses
from attacks.engine.matcher import GradientMatcher
from attacks.score import score
from defenses import LocalSteps
from defenses.client import ONE_GRADIENT

pytestmark = pytest.mark.usefixtures("short_fits")  # how well they fit is tested with the scores

#: Parameters that make an attack short, where it has them.
SHORT = {"iterations": 6, "restarts": 2, "heat": 3, "keep": 2}
ATTACKS = list(attacks.registry)
DEFENSES = [*defenses.registry.names(), "precode+noise(std=0.001)", "pruning(p=0.5)+noise(std=0.001)", "cvb+pruning(p=0.5)",
            "ats+noise(std=0.001)", "dcs2+precode"]
assert set(TOYS) < set(DEFENSES)
#: A defense of each kind: of what reads plain gradients, noise, hidden entries, samples, a likelihood of its own, choices and mixes.
KINDS = ["none", "noise", "pruning", "precode", "dropout", "cvb", "sign", "ats", "mixup", "dcs2", "dp-sgd", "decoy"]


#: Attacks with the defenses that they are run on: one that runs the others, which are tested by themselves, on few.
ON = [(cls, defense) for cls in ATTACKS for defense in (["none", "noise", "precode"] if cls.of_others else DEFENSES)]
#: Of models another than the first adds other layers alone, so that the kinds of what a defense does are enough.
MANY = [*((cls, defense, "lenet") for cls, defense in ON),
        *((cls, defense, model) for cls, defense in ON for model in MODELS if model != "lenet" and defense in KINDS)]


def short(cls: type[attacks.Attack], **changes: int) -> attacks.Attack:
    known = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in {**SHORT, **changes}.items() if name in known})


def observed(cls: type[attacks.Attack], defense: str, model: str, **options) -> attacks.Observation:
    local = LocalSteps(3, 0.1, 1) if "updates" in cls.needs else ONE_GRADIENT
    return observation_of(defense, model, rounds=2 if "rounds" in cls.needs else 1, **{"local": local, **options})[0]


def where_it_applies(cls: type[attacks.Attack], **options) -> attacks.Observation:
    """An observation to which the attack applies, of a random defense where there is such a one."""
    for defense in ("precode", "noise", "none", "cvb", "instahide"):
        for model in ("lenet", "mlp"):
            observation = observed(cls, defense, model, **options)
            if short(cls).obstacle(observation) is None:
                return observation
    pytest.fail(f"{cls.name} applies to none of the observations")


@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.name)
def test_is_described_and_parses_back(cls):
    attack = cls()
    assert cls.summary and cls.paper and cls.threat_model in tuple("ABCDEF") and set(cls.needs) <= {"defense", "rounds", "updates"}
    assert attacks.create(attack.label) == attack


@pytest.mark.parametrize(("cls", "defense", "model"), MANY, ids=lambda of: of if isinstance(of, str) else of.name)
def test_returns_valid_images_and_changes_nothing(cls, defense, model):
    """Blind and informed; what would be the same for both is the same."""
    informed = observed(cls, defense, model)
    attack = short(cls)
    found = {}
    for knowledge, observation in (("blind", informed.blind()), ("informed", informed)):
        before = {name: t.clone() for name, t in observation.module.state_dict().items()}
        shared = {name: g.clone() for name, g in observation.shared.items()}
        random = torch.get_rng_state()
        if (obstacle := attack.obstacle(observation)) is not None:
            with pytest.raises(ValueError) as error:
                attack.reconstruct(observation, seed=0)
            assert str(error.value) == obstacle
            continue
        calls: list[tuple[int, int]] = []
        rebuilt = attack.reconstruct(observation, seed=0, progress=lambda done, total, calls=calls: calls.append((done, total)))
        n, b = len(observation), observation.batch_size
        assert rebuilt.images.shape == (n, b, *observation.image_shape) and rebuilt.labels.shape == (n, b) and rebuilt.cost.shape == (n,)
        assert torch.isfinite(rebuilt.images).all() and rebuilt.images.min() >= 0 and rebuilt.images.max() <= 1
        assert not rebuilt.images.requires_grad
        assert calls and calls[-1][0] == calls[-1][1] == len(calls)
        assert all(torch.equal(t, before[name]) for name, t in observation.module.state_dict().items())
        assert all(p.grad is None for p in observation.module.parameters())
        assert all(torch.equal(g, shared[name]) for name, g in observation.shared.items())
        assert torch.equal(random, torch.get_rng_state())
        pixels = (rebuilt.images - 0.5) / 0.25
        assert torch.isfinite(score(informed, pixels, rebuilt.labels, 0)).all()
        found[knowledge] = rebuilt
    if not attack.informed_by(informed) and found:
        assert torch.equal(found["blind"].images, found["informed"].images)


@pytest.mark.parametrize(("cls", "defense"), [*((cls, None) for cls in ATTACKS if not cls.of_others), *ON], ids=lambda of: of if isinstance(of, str) else getattr(of, "name", "any"))
def test_a_victims_result_does_not_depend_on_the_others(cls, defense):
    """Attacked alone, or in another order, a victim gives the same result up to float32 rounding."""
    observation = where_it_applies(cls) if defense is None else observed(cls, defense, "lenet")
    attack = short(cls)
    if attack.obstacle(observation) is not None:
        return  # counted below
    together = attack.reconstruct(observation, seed=0)
    order = [2, 0]
    apart = attack.reconstruct(observation.select(order), seed=0)
    # Signed Adam moves a pixel whose derivative is about zero by rounding alone; no such pixel comes up in so few iterations.
    torch.testing.assert_close(apart.images, together.images[order], rtol=0, atol=1e-4)
    # Of attacks that choose the cost is a score, the logarithm of a misfit that can be as small as rounding.
    torch.testing.assert_close(apart.cost, together.cost[order], rtol=1e-4, atol=1e-2 if cls.of_others else 1e-5)


@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.name)
def test_the_seed_decides(cls):
    """Of attacks that search; what is computed in closed form does not depend on it."""
    attack = short(cls)
    observation = observed(cls, "noise", "lenet") if cls.of_others else where_it_applies(cls)  # under noise nothing is read
    first, again, other = (attack.reconstruct(observation, seed=seed).images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) is not attack.searches


#: On fake tensors, which take long; an attack that runs others also where it can read the network.
ON_FAKES = [*((cls, None) for cls in ATTACKS if not cls.of_others), *((cls, defense) for cls, defense in ON if cls.of_others and defense != "noise")]


@pytest.mark.parametrize(("cls", "defense"), ON_FAKES, ids=lambda of: of if isinstance(of, str) else getattr(of, "name", "any"))
def test_stays_on_the_device(cls, defense, monkeypatch):
    """On fake tensors of another device: an operation that meets a tensor left on the CPU raises. The program of fake tensors of a GPU
    takes each attack to every defense."""
    # Fake numbers cannot be compared, nor memory be measured.
    monkeypatch.setattr(GradientMatcher, "_disagreement", lambda *arguments: None)
    monkeypatch.setattr("attacks.race._Field.unexplained", lambda field: [0, 1, 2])
    monkeypatch.setattr("attacks.race._ahead", lambda scores, racing, *others: racing)
    monkeypatch.setattr("attacks.search.minimise.choose_width", lambda problem, waiting: len(waiting) - 1)
    monkeypatch.setattr("attacks.engine.layers.rule.factors", lambda g, rank: (g[..., :rank], g[:, :rank]))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(FAKE_DEVICE):
        options = {"client_generator": torch.Generator("cpu")}
        observation = where_it_applies(cls, **options) if defense is None else observed(cls, defense, "lenet", **options)
        assert {g.device.type for g in observation.shared.values()} == {FAKE_DEVICE}
        attack = short(cls, iterations=2)  # the same operations in each
        for known in (observation, observation.blind()):
            if attack.obstacle(known) is None:
                assert attack.reconstruct(known, seed=0).images.device.type == FAKE_DEVICE


@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.name)
def test_applies_to_at_least_three_observations(cls):
    """An obstacle ends a case of the tests above silently, so that those without are counted."""
    def of_model(defense: str, model: str) -> list[attacks.Observation]:
        try:
            informed = observed(cls, defense, model)
        except pytest.skip.Exception:  # the defense cannot extend the model
            return []
        return [informed.blind(), informed]

    known = (knowledge for defense in DEFENSES for model in MODELS for knowledge in of_model(defense, model))
    assert len(list(islice((one for one in known if short(cls).obstacle(one) is None), 3))) == 3


#: A defense of each kind of what is known of an update: all, noise, hidden entries, what acts in steps, samples, clipped steps.
OF_UPDATES = ["none", "noise", "pruning", "soteria", "precode", "dp-sgd", "ats", "mixup"]
LOCAL = LocalSteps(3, 0.1, 2)


@pytest.mark.parametrize("defense", OF_UPDATES)
@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.name)
def test_of_updates_it_knows_what_they_are_or_says_so(cls, defense):
    informed = observed(cls, defense, "mlp", batch_size=3, local=LOCAL)
    for observation in (informed, informed.blind()):
        attack = short(cls)
        if not attack.takes_updates:
            assert attack.obstacle(observation) == "updates of 3 local steps were shared, and it takes them for gradients"
            continue
        rebuilt = attack.reconstruct(observation, seed=0)
        assert rebuilt.images.shape == (3, 3, 2, 8, 8) and torch.isfinite(rebuilt.images).all()
        assert torch.equal(rebuilt.labels.sort(1).values, observation.labels.sort(1).values)
        assert torch.isfinite(score(observation, (rebuilt.images - 0.5) / 0.25, rebuilt.labels, 0)).all()
