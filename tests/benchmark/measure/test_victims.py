"""Whose gradients are observed, and of which images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_cases import dataset_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from benchmark.config import Evaluation
from benchmark.measure.victims import choose_victims, most_public, public_images, shared_companions


def chosen(dataset, victims, batch_size, seed=0):
    return choose_victims(dataset, Evaluation(victims=victims), batch_size, seed)


def private(dataset, victims, seed=0):
    """Images that look like no public one."""
    alike = dataset.train.alike
    public = public_images(dataset, chosen(dataset, victims, 1, seed).indices[:, 0], Evaluation(), seed)
    return np.flatnonzero(~np.isin(alike, alike[public]))


made = st.fixed_dictionaries({"count": st.integers(4, 80), "values": st.sampled_from([1, 2, 3, 256]), "seed": st.integers(0, 99)})


@given(made, st.integers(1, 90), st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))
def test_what_victims_are(made, victims, smaller, more, seed):
    """Targets are distinct, and the same whatever the batch size; companions those of a smaller batch and others, and never public."""
    dataset = dataset_of(**made)
    if victims > len(dataset.train):
        with pytest.raises(ValueError, match=f"{victims} victims need as many training images, got {len(dataset.train)}"):
            chosen(dataset, victims, smaller, seed)
        return
    targets = chosen(dataset, victims, 1, seed).indices
    assert targets.shape == (victims, 1) and len(np.unique(targets)) == victims
    there = private(dataset, victims, seed)
    if smaller + more > len(there):
        with pytest.raises(ValueError, match=f"gradients of {smaller + more} images need as many training images beside the public "
                                             f"ones, got {len(there)}"):
            chosen(dataset, victims, smaller + more, seed)
        return
    few, many = (chosen(dataset, victims, size, seed) for size in (smaller, smaller + more))
    assert few.batch_size == smaller and many.batch_size == smaller + more and many.numbers == tuple(range(victims))
    assert np.array_equal(few.indices[:, :1], targets) and np.array_equal(many.indices[:, :1], targets)
    for small, large in zip(few.indices, many.indices, strict=True):
        assert set(small) < set(large) and len(set(large)) == len(large)
        assert set(large) <= set(there)


@given(made, st.integers(1, 90), st.integers(0, 3))
def test_what_is_public_looks_like_no_target_and_leaves_as_much(made, victims, seed):
    dataset = dataset_of(**made)
    alike = dataset.train.alike
    targets = chosen(dataset, min(victims, len(alike)), 1, seed).indices[:, 0]
    public = public_images(dataset, targets, Evaluation(), seed)
    others = np.flatnonzero(~np.isin(alike, alike[targets]))
    assert set(public) <= set(others) and len(set(public)) == len(public) == most_public(Evaluation(), len(others)) == min(2000, len(others) // 2)


def test_victims_share_companions_since_there_are_too_few_images():
    """20 victims of 8 images each, of 60."""
    victims = chosen(dataset_of(60), 20, 8)
    counts = np.bincount(victims.indices[:, 1:].ravel(), minlength=60)
    assert counts.sum() == 140 and counts.max() > 1
    assert set(victims.indices[:, 0]) & set(victims.indices[:, 1:].ravel())  # also those that are another's target


def test_it_is_told_where_sums_take_more_images_than_there_are():
    dataset = dataset_of(60)  # of which 25 of the 50 that are no targets are public
    evaluation = Evaluation(victims=10)
    assert shared_companions(dataset, evaluation, 3) == ""
    assert shared_companions(dataset, evaluation, 4) == (
        "participants of different observations overlap: 10 sums of 4 images take 40, and there are 35 beside the public ones")


def test_companions_are_uniform_and_each_victim_has_its_own():
    dataset = dataset_of(60, classes=1)
    counts, first = np.zeros(60), set()
    for seed in range(600):
        victims = chosen(dataset, 3, 3, seed)
        counts += np.bincount(victims.indices[:, 1:].ravel(), minlength=60)
        first.add(tuple(victims.indices[0, 1:]))
        assert len({tuple(row) for row in victims.indices[:, 1:]}) > 1
    assert counts.sum() == 3600 and len(first) > 500 and chisquare(counts).pvalue > 0.01


def test_images_are_read_one_victim_at_a_time_as_the_client_trains_on_them():
    dataset = dataset_of(60)
    victims = chosen(dataset, 5, 4).select(1, 3)
    assert len(victims) == 3 and victims.numbers == (1, 2, 3) and victims.labels.shape == (3, 4) and victims.pixels.shape == (3, 4, 1, 2, 2)
    for place, row in enumerate(victims.indices):
        images, labels = dataset.train.batch(torch.from_numpy(row))
        assert torch.equal(victims.images(place), images) and torch.equal(victims.labels[place], labels)
        assert np.array_equal(victims.pixels[place], dataset.train.pixels(torch.from_numpy(row)).numpy())
