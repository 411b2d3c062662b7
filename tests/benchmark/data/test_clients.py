"""Images divided among clients, and the rounds in which these share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import defenses
from benchmark.data.clients import Rounds, partition
from benchmark.data.loaders import BatchLoader, LabelledImages
from benchmark.specification import Client
from defenses.support.seeds import derive


def images_of(count=60, classes=5):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 6, 6, 3), generator=generator, dtype=torch.uint8)
    return LabelledImages(pixels, torch.arange(count) % classes, torch.full((3,), 0.5), torch.full((3,), 0.25))


def client(**options):
    return Client(**{"images": 12, "batch_size": 4, **options})


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.sampled_from(["iid", "dirichlet(0.1)", "dirichlet(100)"]), st.integers(0, 5))
def test_every_client_has_as_many_images_and_no_image_two_clients(images, kind, seed):
    labels = np.arange(61) % 5
    held = partition(labels, client(images=images, batch_size=1, partition=kind), seed)
    assert held.shape == (61 // images, images)
    assert len(np.unique(held)) == held.size and held.min() >= 0 and held.max() < 61


def test_a_small_concentration_gives_clients_few_classes():
    labels = np.arange(6000) % 10

    def largest(kind):
        held = partition(labels, client(images=60, partition=kind), 0)
        return np.mean([np.bincount(labels[own], minlength=10).max() / 60 for own in held[:40]])  # while there are images of all classes

    assert largest("dirichlet(0.1)") > 0.6 > 0.25 > largest("iid") and largest("dirichlet(1000)") < 0.3


def test_one_client_with_all_images_takes_the_batches_of_a_plain_training():
    data = images_of(30)
    plain = BatchLoader(data, 4, torch.Generator().manual_seed(derive(3, "x", "order")))
    rounds = Rounds(data, "x", client(images=30), 1, 3)
    for _ in range(2):
        assert len(rounds) == len(plain) == 8
        for (x, y), ((number, batches),) in zip(plain, (tuple(shared) for shared in rounds), strict=True):
            assert number == 0 and len(batches) == 1
            assert torch.equal(batches[0].images, x) and torch.equal(batches[0].targets, y)


def test_every_client_shares_once_before_any_shares_again_and_uses_each_image_once():
    data = images_of(60)
    rounds = Rounds(data, "x", client(images=12, local_steps=3), 2, 0)  # five clients, an epoch of its images at a time
    assert len(rounds) == 3
    seen, used = [], {}
    for _ in range(5):
        for shared in rounds:
            assert len({participant.client for participant in shared}) == 2
            for participant in shared:
                seen.append(participant.client)
                assert [len(batch.images) for batch in participant.batches] == [4, 4, 4]
                used.setdefault(participant.client, []).append(torch.cat([batch.images for batch in participant.batches]))
    counts = np.bincount(seen)
    assert counts.min() == counts.max() == 6
    for number, own in used.items():
        held = data.batch(rounds.held[number])[0].flatten(1).sum(1).sort().values
        for images in own:
            torch.testing.assert_close(images.flatten(1).sum(1).sort().values, held)


def test_poisson_samples_are_of_the_clients_own_images():
    data = images_of(60)
    rounds = Rounds(data, "x", client(local_steps=2), 2, 0).with_poisson_sampling()
    sizes = [len(batch.images) for _ in range(20) for shared in rounds for participant in shared for batch in participant.batches]
    assert len(set(sizes)) > 2 and 3 < np.mean(sizes) < 5


def test_a_plan_is_that_of_one_client():
    plan = Rounds(images_of(60), "x", client(local_steps=2), 2, 0).plan(7)
    assert (plan.steps_per_epoch, plan.images, plan.epochs, plan.clients, plan.participants, plan.rounds_per_epoch) == (3, 12, 7, 5, 2, 5)
    private_of = defenses.create("dp-sgd(target_epsilon=8)").planned(plan)
    central = defenses.create("dp-sgd(target_epsilon=8)").planned(plan._replace(steps_per_epoch=15, images=60))
    assert private_of.noise_multiplier > central.noise_multiplier  # a third of a client's images is in each step


@pytest.mark.parametrize(("options", "participants", "text"), [
    ({"images": 12}, 6, "6 participants in a round, and 5 clients of 12 of the 60 training images"),
    ({"images": 61}, 1, "client.images = 61 leaves no client any: there are 60 training images"),
])
def test_clients_that_are_not_there(options, participants, text):
    with pytest.raises(ValueError, match=text):
        Rounds(images_of(60), "x", client(**options), participants, 0)


@pytest.mark.parametrize(("options", "text"), [
    ({"batch_size": 13}, "batch_size must be at most images = 12, got 13"),
    ({"partition": "dirichlet(0)"}, "concentration a above 0"),
    ({"partition": "by-hand"}, "partition must be iid or dirichlet.a. with a concentration a above 0, got 'by-hand'"),
    ({"partition": "dirichlet(1.2.3)"}, "got 'dirichlet.1.2.3.'"),
    ({"participants": 0}, "participants"),
])
def test_bad_clients(options, text):
    with pytest.raises(ValueError, match=text):
        client(**options)
