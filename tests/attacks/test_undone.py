"""Images that a defense changed by choices of its own: what attackers make of these, and by what they are identified."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import pytest
import torch
from attack_cases import observation_of
from identification_cases import case_of, gradient_of
from torch import Tensor

import attacks
from attacks.identification import Identifier
from attacks.objective.total_variation import total_variation
from attacks.score import score, score_and_explained
from attacks.undone import rebuilt
from defenses import Choice, Defense, Release
from defenses.choices import changed_at_random


@dataclass(frozen=True)
class Pushed:
    """Shifted by two pixels, which leaves black behind, or made darker beside."""

    dim: int
    by: int
    darker: float = 0.0

    def changed(self, images: Tensor) -> Tensor:
        shifted = images.roll(self.by, self.dim)
        shifted.narrow(self.dim, 0 if self.by > 0 else 6, 2).fill_(-2)
        return (shifted - self.darker).clamp(-2, 2)

    def undone(self, images: Tensor) -> Tensor:
        return (images + self.darker).roll(-self.by, self.dim)

    def kept(self, images: Tensor) -> Tensor:
        """The part of the originals that is still there."""
        return images.narrow(self.dim, 0 if self.by > 0 else 2, 6)


@dataclass(frozen=True)
class Pushing(Defense):
    """Images are pushed up, down or to the left, the last with a probability of one half."""

    name: ClassVar[str] = "pushing"
    summary: ClassVar[str] = "images are shifted"
    paper: ClassVar[str] = "a test"

    darker: float = 0.0

    def choices(self, facts):
        return tuple(Choice(p, (Pushed(dim, by, self.darker),)) for dim, by, p in ((-2, -2, 0.25), (-2, 2, 0.25), (-1, -2, 0.5)))

    def transform_batch(self, batch, step):
        return batch._replace(images=changed_at_random(self.choices(None), batch.images, step.generator))

    def release(self, shared, facts):
        return dict.fromkeys(shared, Release())


def behind(observation, x: Tensor) -> tuple[Tensor, list[Pushed]]:
    """The images that were trained on, [N, 1, ...], and what was done to each, by trying every choice on each of the originals."""
    found, drawn = torch.zeros_like(x), []
    for victim, image in enumerate(x):
        outcomes = [choice.changed(image) for choice in observation.choices]
        distances = [sum((g - observation.shared[name][victim]).square().sum()
                         for name, g in gradient_of(observation, one[0], observation.labels[victim, 0]).items()) for one in outcomes]
        assert min(distances) < 1e-10
        found[victim] = outcomes[distances.index(min(distances))]
        drawn.append(observation.choices[distances.index(min(distances))].changes[0])
    assert len(set(drawn)) > 1
    return found, drawn


def assert_kept(found: Tensor, x: Tensor, drawn: list[Pushed], tolerance: float = 1e-5) -> None:
    for one, original, change in zip(found, x, drawn, strict=True):
        torch.testing.assert_close(change.kept(one), change.kept(original), rtol=0, atol=tolerance)


def test_what_was_trained_on_is_handed_back_as_it_was():
    observation, x = observation_of(Pushing(), "lenet", victims=6)
    trained, drawn = behind(observation, x)
    found = rebuilt(observation, trained, observation.labels, torch.zeros(6), 0)
    assert_kept(found.images, observation.to_pixels(x), drawn)
    blind = rebuilt(observation.blind(), trained, observation.labels, torch.zeros(6), 0)
    assert torch.equal(blind.images, observation.to_pixels(trained))


def test_each_image_of_a_gradient_is_undone_by_itself():
    """Of two images, by the choices that explain the gradient."""
    observation, x = observation_of(Pushing(), "lenet", victims=4, batch_size=2)
    labels, trained, drawn = observation.labels, torch.zeros_like(x), []
    for victim in range(4):
        best = torch.inf
        for pair in product(observation.choices, repeat=2):
            images = torch.stack([choice.changed(image[None])[0] for choice, image in zip(pair, x[victim], strict=True)])
            one, other = (gradient_of(observation, image, label) for image, label in zip(images, labels[victim], strict=True))
            distance = float(sum(((one[name] + other[name]) / 2 - g[victim]).square().sum() for name, g in observation.shared.items()))
            if distance < best:
                best, trained[victim], changes = distance, images, [choice.changes[0] for choice in pair]
        assert best < 1e-10
        drawn += changes
    found = rebuilt(observation, trained, labels, torch.zeros(4), 0)
    assert len(set(drawn)) > 1
    assert_kept(found.images.flatten(0, 1), observation.to_pixels(x).flatten(0, 1), drawn)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_score_is_that_of_the_choices_that_explain_the_gradient(batch_size):
    observation, x = observation_of(Pushing(), "lenet", victims=6, batch_size=batch_size)
    scores, explained = score_and_explained(observation, x, observation.labels, 0)
    other = score(observation, x.roll(1, -1), observation.labels, 0)
    assert not torch.isnan(scores).any() and (scores < other).double().mean() > 0.8
    if batch_size == 1:
        assert explained.all()
        expected = score(observation.blind(), behind(observation, x)[0], observation.labels, 0)
        difference = expected - scores
        variation = [total_variation(images).log() for images in (behind(observation, x)[0], x)]
        torch.testing.assert_close(difference, variation[0] - variation[1], rtol=0, atol=0.05)


@pytest.mark.parametrize("attack", ["inverting-gradients(iterations=150)", "dlg(iterations=100)"])
def test_who_knows_the_choices_finds_the_original(attack):
    observation, x = observation_of(Pushing(), "lenet", victims=6)
    drawn, errors = behind(observation, x)[1], []
    for known in (observation, observation.blind()):
        pairs = zip(attacks.create(attack).reconstruct(known, seed=0).images, observation.to_pixels(x), drawn, strict=True)
        errors.append(sum((change.kept(one) - change.kept(original)).abs().mean() for one, original, change in pairs))
    assert errors[0] < 0.7 * errors[1]
    assert attacks.create(attack).informed_by(observation)


def test_rounds_are_not_averaged_where_each_drew_anew():
    observation, _ = observation_of(Pushing(), "lenet", rounds=2)
    averaging = attacks.create("averaging")
    assert averaging.obstacle(observation) == "the images were changed anew in each round"
    assert averaging.obstacle(observation.blind()) is None


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_likelihood_of_a_candidate_is_the_mean_over_the_choices(rounds):
    """By hand, in float64: under Gaussian noise, of each round by itself."""
    case = case_of(Pushing(darker=0.1), dtype=torch.float64, rounds=rounds)
    noisy = case_of("ats+noise(std=0.02)", dtype=torch.float64, rounds=rounds)
    for observed, variance in ((noisy, 0.02**2), (case, None)):
        observation, candidates = observed.observation, observed.candidates
        found = Identifier().scores(observation, candidates, seed=0)
        method = Identifier().method(observation)
        assert method == (("likelihood" if variance else "exact"), True)
        expected = torch.zeros_like(found)
        for victim, pool in enumerate(candidates.pools):
            for place, index in enumerate(pool):
                for one in observation.rounds:
                    likelihoods = []
                    for choice in observation.choices:
                        image = choice.changed(candidates.images[index][None])[0]
                        own = gradient_of(observation, image, candidates.labels[index])
                        distance = torch.zeros((), dtype=torch.float64)
                        for name, g in own.items():
                            given = one.shared[name][victim]
                            unit = variance or 1e-6 * given.square().mean()  # without noise that of rounding
                            distance += (g - given).square().sum() / (2 * unit)
                        likelihoods.append(torch.tensor(choice.probability).double().log() - distance)
                    expected[victim, place] -= torch.logsumexp(torch.stack(likelihoods), 0)
        scale = expected.abs().amax().clamp_min(1)
        torch.testing.assert_close(found / scale, expected / scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("defense", ["ats", "ats+noise(std=0.001)", "precode+ats", "pruning(p=0.5)+ats"])
def test_whoever_knows_the_choices_finds_the_image(defense):
    case = case_of(defense, victims=6, size=20)
    informed, blind = (case.ranks(Identifier().scores(known, case.candidates, seed=0)) for known in (
        case.observation, case.observation.blind()))
    assert (informed == 0).double().mean() >= 0.8 > (blind == 0).double().mean()


def test_in_a_gradient_of_many_candidates_are_changed_too():
    case = case_of("ats", victims=8, size=20, batch_size=2, public=200)
    informed, blind = (case.ranks(Identifier().scores(known, case.candidates, seed=0)) for known in (
        case.observation, case.observation.blind()))
    assert Identifier().method(case.observation).name == "whitened"
    assert informed.double().mean() < 0.5 * blind.double().mean()
