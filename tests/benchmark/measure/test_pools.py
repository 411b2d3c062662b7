"""Among which images each victim's own is looked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from data_cases import dataset_of
from hypothesis import given, reject
from hypothesis import strategies as st
from scipy.stats import chisquare

from benchmark.config import Evaluation
from benchmark.measure.pools import draw_pools
from benchmark.measure.victims import choose_victims


def drawn(dataset, seed=0, batch_size=1, **evaluation):
    settings = Evaluation(**evaluation)
    victims = choose_victims(dataset, settings, batch_size, seed)
    return victims, draw_pools(dataset, victims, settings, seed)


def drawn_where_it_can(dataset, **evaluation):
    try:
        return drawn(dataset, **evaluation)
    except ValueError as error:  # those alike a public image leave too few companions
        assert "as many training images beside the public ones" in str(error)
        reject()


cases = st.fixed_dictionaries({
    "count": st.integers(24, 80), "classes": st.integers(1, 3), "values": st.sampled_from([1, 2, 3, 256]), "seed": st.integers(0, 99)})
evaluations = st.fixed_dictionaries({
    "victims": st.integers(1, 6), "batch_size": st.integers(1, 4), "labels": st.sampled_from(["known", "inferred"]),
    "candidates": st.integers(2, 40)})


@given(cases, evaluations)
def test_what_a_pool_is(made, evaluation):
    dataset = dataset_of(**made)
    victims, pools = drawn_where_it_can(dataset, **evaluation)
    labels, known = dataset.train.labels.numpy(), evaluation["labels"] == "known"
    pixels = [row.tobytes() for row in dataset.train.tensors()[0].numpy()]
    of_public = {pixels[i] for i in pools.public}
    own = [{pixels[i] for i in row} for row in victims.indices]
    # As many as the victim has that finds fewest.
    possible = [{pixels[i] for i in range(len(pixels)) if not known or labels[i] == labels[row[0]]} - mine - of_public
                for row, mine in zip(victims.indices, own, strict=True)]
    size = min(evaluation["candidates"], 1 + min(map(len, possible)))
    if evaluation["batch_size"] == 1:
        assert len(pools.public) == 0
    else:
        targets = {pixels[row[0]] for row in victims.indices}
        strangers = [i for i in range(len(pixels)) if pixels[i] not in targets]
        assert len(set(pools.public)) == len(pools.public) == len(strangers) // 2 and not of_public & set.union(*own)
    if size < 2 or evaluation["batch_size"] > 1 > len(pools.public) - 1:
        assert pools.obstacle and pools.obstacle in pools.note and pools.size == 0
        return
    assert pools.size == size and not pools.obstacle and bool(pools.note) == (size < evaluation["candidates"])
    for row, place, victim, mine in zip(pools.indices, pools.places, victims.indices, own, strict=True):
        assert row[place] == victim[0] and (row == victim[0]).sum() == 1
        others = [pixels[i] for i in np.delete(row, place)]
        assert len(set(others)) == len(others) and not set(others) & (mine | of_public)
        assert not known or set(labels[row]) == {labels[victim[0]]}


@given(cases, evaluations, st.data())
def test_an_attacker_is_given_the_images_of_the_pools_in_use_once_by_class(made, evaluation, data):
    dataset = dataset_of(**made)
    victims, pools = drawn_where_it_can(dataset, **evaluation)
    numbers = data.draw(st.lists(st.sampled_from(victims.numbers), min_size=1, unique=True))
    if pools.obstacle:
        return
    given = pools.candidates(dataset, numbers)
    images, labels = dataset.train.batch(torch.from_numpy(pools.indices[numbers].ravel()))
    assert given.pools.shape == (len(numbers), pools.size)
    assert torch.equal(given.images[given.pools].flatten(0, 1), images) and torch.equal(given.labels[given.pools].flatten(), labels)
    assert len(given.images) == len(np.unique(pools.indices[numbers])) and (given.labels.diff() >= 0).all()
    if evaluation["batch_size"] == 1:
        assert given.public_images is None is given.public_labels
    else:
        assert torch.equal(given.public_images, dataset.train.batch(torch.from_numpy(pools.public))[0])
        assert torch.equal(given.public_labels, dataset.train.labels[pools.public])


@given(cases, evaluations, st.integers(1, 60))
def test_parts_have_few_images_or_are_one_victim(made, evaluation, most):
    victims, pools = drawn_where_it_can(dataset_of(**made), **evaluation)
    parts = list(pools.parts(victims.numbers[::-1], most))
    assert [number for part in parts for number in part] == list(victims.numbers[::-1])
    counts = [len(np.unique(pools.indices[part])) for part in parts]
    assert all(count <= most or len(part) == 1 for count, part in zip(counts, parts, strict=True))
    assert all(len(np.unique(pools.indices[[*a, b[0]]])) > most for a, b in pairwise(parts))


def test_a_pool_follows_from_the_seed_and_the_victim_alone():
    dataset = dataset_of(200)
    evaluation = Evaluation(victims=6, candidates=30)
    victims = choose_victims(dataset, evaluation, 1, 0)
    whole = draw_pools(dataset, victims, evaluation, 0)
    alone = [draw_pools(dataset, victims.select(number, 1), evaluation, 0) for number in range(6)]
    assert all(np.array_equal(one.indices[0], row) for one, row in zip(alone, whole.indices, strict=True))
    assert np.array_equal([one.places[0] for one in alone], whole.places)
    other = draw_pools(dataset, victims, evaluation, 1)
    assert not np.array_equal(other.indices, whole.indices) and not np.array_equal(other.places, whole.places)
    fewer = draw_pools(dataset, victims, evaluation.model_copy(update={"candidates": 10}), 0)
    assert all(set(small) <= set(large) for small, large in zip(fewer.indices, whole.indices, strict=True))


def test_places_and_candidates_are_uniform():
    dataset = dataset_of(60, classes=1)
    places, chosen = np.zeros(5), np.zeros(60)
    for seed in range(1000):  # pools of one seed have most candidates in common
        victims, pools = drawn(dataset, seed, victims=1, candidates=5)
        places += np.bincount(pools.places, minlength=5)
        for row, victim in zip(pools.indices, victims.indices[:, 0], strict=True):
            chosen[row[row != victim]] += 1
    assert places.sum() == 1000 and chosen.sum() == 4000
    assert chisquare(places).pvalue > 0.01 and chisquare(chosen).pvalue > 0.01


def test_at_most_two_thousand_images_are_public():
    _, pools = drawn(dataset_of(5000), victims=4, batch_size=8, candidates=100)
    assert len(pools.public) == 2000 and pools.size == 100


@pytest.mark.parametrize(("made", "evaluation", "note"), [
    ({"count": 40}, {"candidates": 1000}, "not 1000: there are no more training images of class 'a'"),
    ({"count": 40}, {"candidates": 1000, "labels": "inferred"}, "identification among 40 candidates, not 1000: there are no more training images"),
    ({"count": 24, "values": 1}, {}, "no identification: there are no other training images of class 'a' that could be candidates"),
    ({"count": 24}, {"victims": 21, "batch_size": 2, "labels": "inferred"}, "no identification: there are no training images beside the victims' that could be public"),
])
def test_what_is_told_of_pools_that_are_small(made, evaluation, note):
    dataset = dataset_of(**made)
    dataset.train.labels[:] = 0
    _, pools = drawn(dataset, **{"victims": 3, **evaluation})
    assert note in pools.note and (pools.size == 0) == ("no identification" in note)
