"""Every registered defense, on every model, before an attacker who knows it and one who does not: it trains, is observed, identified,
and attacked. A new defense is tested by being registered."""

from __future__ import annotations

import pytest
from identification_cases import case_of
from model_cases import MODELS
from toy_defenses import TOYS

import attacks
import defenses
from attacks.identification import Identifier
from attacks.identification.simulation import by_simulation
from defenses import LocalSteps

BUILT_IN = [name for name in defenses.registry.names() if name not in TOYS]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("defense", BUILT_IN)
def test_its_victims_are_identified_and_attacked(defense, model, batch_size):
    """Whoever knows it has some attack that applies, and so has whoever does not."""
    case = case_of(defense, model, victims=2, size=4, batch_size=batch_size)
    for known in (case.observation, case.observation.blind()):
        scores = Identifier().scores(known, case.candidates, seed=0)
        assert scores.shape == (2, 4) and scores.isfinite().all()
        assert any(cls().obstacle(known) is None for cls in attacks.registry if not cls.of_others and "rounds" not in cls.needs)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("defense", BUILT_IN)
def test_its_updates_are_identified_and_attacked(defense, batch_size):
    case = case_of(defense, "mlp", victims=2, size=4, batch_size=batch_size, local=LocalSteps(3, 0.1, 2))
    for known in (case.observation, case.observation.blind()):
        scores = Identifier().scores(known, case.candidates, seed=0)
        assert scores.shape == (2, 4) and scores.isfinite().all()
        assert any(cls().obstacle(known) is None for cls in attacks.registry if "updates" in cls.needs)


#: Where the defaults leave nothing to be told, a strength that does.
TELLING = {"dp-sgd": "dp-sgd(noise_multiplier=0.05)", "dp-fedavg": "dp-fedavg(noise_multiplier=0.05)"}


@pytest.mark.parametrize("defense", BUILT_IN)
def test_what_it_discloses_tells_more_than_running_it(defense):
    """Candidates are told apart at least as well by its release as by the client's step on each of them."""
    case = case_of(TELLING.get(defense, defense), "lenet", victims=8, size=12)
    by_release = case.ranks(Identifier().scores(case.observation, case.candidates, seed=0))
    simulated = case.ranks(by_simulation(case.observation, case.candidates, 0, lambda done, of: None))
    assert by_release.sum() <= simulated.sum()
    assert by_release.sum() < 8 * 11 / 2  # chance


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("defense", BUILT_IN)
def test_who_knows_it_identifies_no_worse_than_who_does_not(defense, batch_size):
    """Over 16 victims of 10 candidates each, but for a few ranks of luck."""
    case = case_of(TELLING.get(defense, defense), "lenet", victims=16, size=10, batch_size=batch_size)
    informed, blind = (int(case.ranks(Identifier().scores(known, case.candidates, seed=0)).sum())
                       for known in (case.observation, case.observation.blind()))
    assert informed <= blind + 4
