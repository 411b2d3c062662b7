"""How attackers' rankings of candidates become rows."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import attacks
import defenses
from benchmark.config import Evaluation, Training
from benchmark.data import datasets
from benchmark.measure import identifying, victim_memory
from benchmark.measure.evaluation import observe, rebuild
from benchmark.measure.identifying import identify, require_within_bound
from benchmark.measure.pools import draw_pools
from benchmark.measure.training import make_private
from benchmark.measure.victims import choose_victims
from benchmark.store.tables import IDENTIFICATIONS

CPU = torch.device("cpu")


class Case:
    """An observation of a cell with its pools."""

    def __init__(self, shapes, specification: str = "none", model: str = "lenet", batch_size: int = 1, **evaluation):
        self.dataset = datasets.load(datasets.find(str(shapes)), CPU)
        self.evaluation = Evaluation(**{"victims": 5, "candidates": 6, **evaluation})
        private = make_private(defenses.create(specification), self.dataset, model, Training(), 0)
        self.victims = choose_victims(self.dataset, self.evaluation, batch_size, 0)
        self.pools = draw_pools(self.dataset, self.victims, self.evaluation, 0)
        self.observation = observe(private, self.victims, self.dataset, self.evaluation, 5)

    def identified(self, **arguments):
        return identify(self.observation, self.victims, self.pools, self.dataset, 0, **arguments)


@pytest.fixture
def scored(monkeypatch):
    """Puts an identifier into the place of the real one, whose scores are a function of the pools' images [N, M, ...] and the true
    places; returns what it was asked."""
    asked = []

    def put(score):
        class Fake(identifying.Identifier):
            def scores(self, observation, candidates, *, seed, progress=None):
                asked.append((observation, candidates, seed))
                progress(1, 2)
                progress(2, 2)
                return score(candidates)

        monkeypatch.setattr(identifying, "Identifier", Fake)
        return asked

    return put


def test_a_plain_gradient_is_that_of_its_own_image(shapes):
    case = Case(shapes)
    found = case.identified()
    assert not found.obstacle and [row["victim"] for row in found.rows] == list(range(5))
    for row in found.rows:
        assert row.keys() == set(IDENTIFICATIONS.names) - {"dataset", "model", "defense", "defense_params", "seed", "checkpoint_epoch", "observed", "batch_size"}
        assert (row["knowledge"], row["candidates"], row["better"], row["tied"]) == ("both", 6, 0, 0)
        assert row["label_share"] == 1.0 and row["mu"] is None and row["seconds"] > 0


@pytest.mark.parametrize(("score", "better", "tied"), [
    (lambda true: torch.zeros_like(true), 0, 5),
    (lambda true: torch.where(true > 0, torch.inf, torch.inf), 0, 5),
    (lambda true: torch.where(true > 0, 3.0, 2.0), 5, 0),
    (lambda true: torch.where(true > 0, 2.0, torch.nan), 0, 0),
    (lambda true: torch.where(true > 0, 2.0, torch.arange(6.0) // 2 + (true.argmax(1, keepdim=True) < 6)), None, None),
], ids=["constant", "impossible", "last", "others without a score", "some tied"])
def test_ranks(shapes, scored, score, better, tied):
    case = Case(shapes)
    true = torch.zeros(5, 6).scatter_(1, torch.from_numpy(case.pools.places)[:, None], 1)
    scored(lambda candidates: score(true).double())
    rows = case.identified().rows
    if better is not None:
        assert {(row["better"], row["tied"]) for row in rows} == {(better, tied)}
        return
    for row, place in zip(rows, case.pools.places, strict=True):  # scores 1, 1, 2, 2, 3, 3 with 2 in the true place
        assert row["better"] == 2 - (place < 2) and row["tied"] == 2 - (place in (2, 3))


def test_a_true_candidate_without_a_score_is_an_error(shapes, scored):
    scored(lambda candidates: torch.full(candidates.pools.shape, torch.nan))
    with pytest.raises(ValueError, match="the true candidate of 5 victims has no score"):
        Case(shapes).identified()


@pytest.mark.parametrize(("specification", "knowledge", "kinds"), [
    ("none", ("blind", "informed"), ["both"]), ("none", ("blind",), ["blind"]), ("pruning", ("blind", "informed"), ["blind", "informed"]),
    ("pruning", ("informed",), ["informed"]), ("precode", ("blind", "informed"), ["blind", "informed"])])
def test_blind_and_informed_attackers(shapes, scored, specification, knowledge, kinds):
    asked = scored(lambda candidates: torch.zeros(candidates.pools.shape))
    told = []
    rows = Case(shapes, specification).identified(knowledge=knowledge, progress=lambda *step: told.append(step)).rows
    assert [row["knowledge"] for row in rows] == [kind for kind in kinds for _ in range(5)]
    assert [observation.defense is None for observation, _, _ in asked] == [kind == "blind" for kind in kinds]
    assert len({seed for *_, seed in asked}) == 1
    shares = [step / total for step, total in told]
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) == 2 * len(kinds)


def test_a_guarantee_holds_for_who_does_not_know_of_it(shapes, scored, monkeypatch):
    scored(lambda candidates: torch.zeros(candidates.pools.shape))
    monkeypatch.setattr(identifying, "presence_mu", lambda observation: None if observation.defense is None else 2.0)
    assert {(row["knowledge"], row["mu"]) for row in Case(shapes, "pruning").identified().rows} == {("blind", 2.0), ("informed", 2.0)}


@pytest.mark.parametrize("labels", ["known", "inferred"])
@pytest.mark.parametrize("specification", ["none", "noise(std=0.3)"])
def test_labels_are_inferred_whether_or_not_they_are_given(shapes, labels, specification):
    """As attacks infer them where they are not."""
    case = Case(shapes, specification, batch_size=2, labels=labels)
    unlabelled = dataclasses.replace(case.observation, labels=None)
    attacked = rebuild(attacks.create("inverting-gradients(iterations=1)"), unlabelled, case.victims, 0).rows
    shares = {row["victim"]: row["label_share"] for row in case.identified().rows}
    for victim, share in shares.items():
        rights = [row["label_correct"] for row in attacked if row["victim"] == victim]
        assert len(rights) == 2 and share == sum(rights) / 2
    assert specification == "none" or min(shares.values()) < 1


def test_labels_that_cannot_be_inferred(shapes, monkeypatch):
    monkeypatch.setattr(identifying, "label_obstacle", lambda observation: "no last layer")
    assert {row["label_share"] for row in Case(shapes).identified().rows} == {None}


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("images", [1, 8])
def test_fewer_victims_at_once_where_the_images_do_not_fit_give_the_same(shapes, monkeypatch, images, batch_size):
    case = Case(shapes, "precode", batch_size=batch_size)
    whole = case.identified().rows
    asked, scores = [], identifying.Identifier.scores
    monkeypatch.setattr(identifying.Identifier, "scores", lambda self, observation, *arguments, **others: (
        asked.append(observation.victims), scores(self, observation, *arguments, **others))[1])
    monkeypatch.setattr(victim_memory, "available", lambda device: 4 * images * 4 * 3 * 8 * 8)
    parts = case.identified().rows
    assert len(asked) >= 4 and (images > 1 or len(asked) == 10)
    classes = [int(case.victims.labels[number, 0]) for part in asked[:len(asked) // 2] for number in part]
    assert classes == sorted(classes)  # those of a class together, whose pools share images

    def in_order(rows):
        return sorted(({name: value for name, value in row.items() if name != "seconds"} for row in rows),
                      key=lambda row: (row["knowledge"], row["victim"]))

    assert in_order(parts) == in_order(whole)


def test_what_does_not_apply(shapes):
    few = Case(shapes, victims=31, batch_size=2)  # and one image is nobody's target
    assert few.identified() == identifying.Ranked([], few.pools.obstacle) and "could be public" in few.pools.obstacle
    diverged = Case(shapes)
    diverged.observation.rounds[0].shared["0.weight"][2, 0] = torch.inf
    assert diverged.identified() == identifying.Ranked([], "the observed gradients are not finite")


def ranked(better: list[int], mu: float | None, knowledge: str = "both", tied: int = 0, candidates: int = 2):
    return [{"better": number, "tied": tied, "mu": mu, "knowledge": knowledge, "candidates": candidates} for number in better]


def test_what_a_guarantee_rules_out_is_a_bug():
    """Ten of ten: the true rate is at least 0.001^(1/10) = 0.501."""
    require_within_bound([])
    for mu in (None, 0.01, 3.0):
        require_within_bound(ranked([0] * 10, mu))
    with pytest.raises(RuntimeError, match=r"10 of 10 victims are found among 2 candidates \(both\), at a rate of at least 0.5012 at "
                                           r"99.9 %, where the guarantee of mu = 0.001 allows 0.5004: this is a bug"):
        require_within_bound(ranked([0] * 10, 0.001))
    require_within_bound(ranked([0] * 9 + [1], 0.001))
    require_within_bound(ranked([0] * 10, 0.001, tied=1))
    require_within_bound(ranked([0] * 5, 0.001, "blind") + ranked([0] * 5, 0.001, "informed"))
    large = {"candidates": 1000, "mu": 1.0}
    require_within_bound(ranked([0] * 4 + [5] * 28, **large))
    with pytest.raises(RuntimeError, match=r"5 of 32.*allows 0.0183"):
        require_within_bound(ranked([0] * 4 + [5] * 28, **large, knowledge="blind") + ranked([0] * 5 + [5] * 27, **large))
