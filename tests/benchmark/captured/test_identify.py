"""Ranking the images of a folder by captured gradients."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from captured_cases import CLASSES, NET, net, write, write_images

import defenses
from benchmark.captured import candidate_images, model_file, observation_file
from benchmark.captured.identify import identify, text
from benchmark.errors import InputError

CPU = torch.device("cpu")
NAMES = [f"{place}.png" for place in range(6)]


def observed(folder, defense=None):
    known = None if defense is None else defenses.create(defense)
    module = model_file.load(f"{folder / 'net.py'}:build", folder / "weights.safetensors", known, CPU)
    return observation_file.read(folder / "observation.safetensors", module, known, CPU)[0]


def images_of(folder, image_size=None):
    return candidate_images.read(folder, "candidates", (3, 8, 8), CLASSES, image_size, CPU)


def firsts(folder, defense=None, candidates="candidates", public=None):
    rankings = identify(observed(folder, defense), images_of(folder / candidates), None if public is None else images_of(folder / public))[1]
    return [(ranking.names[0], ranking.classes[0]) for ranking in rankings]


@pytest.mark.parametrize("defense", ["none", "noise(std=0.0001)", "pruning(p=0.9)", "precode(bottleneck_size=3)", "dp-sgd(noise_multiplier=0.0001)",
                                     "pruning(p=0.5)+noise(std=0.0001)"])
@pytest.mark.parametrize("labels", ["given", "left out"])
def test_the_true_image_is_first_for_each_of_some_victims(defense, labels, tmp_path):
    if "dp-sgd" in defense:
        defense_module = net().train()
    else:
        defense_module = net()
    images = write_images(tmp_path / "candidates", NAMES)
    truth = [(3, 2), (0, 1), (5, 2)]
    changed = {} if labels == "given" else {"labels": None}
    write(tmp_path, defense_module, [([images[place]], [label]) for place, label in truth], defense=defense, **changed)
    assert firsts(tmp_path, defense) == [(f"{place}.png", label) for place, label in truth]


@pytest.mark.parametrize("defense", [None, "none", "noise(std=0.0001)"])
def test_updates_of_local_steps_are_told_apart_as_updates(defense, tmp_path):
    images = write_images(tmp_path / "candidates", NAMES)
    truth = [(3, 2), (0, 1), (5, 2)]
    write(tmp_path, net(), [([images[place]], [label]) for place, label in truth], defense=defense or "none",
          local=defenses.LocalSteps(5, 0.5), local_steps="5", local_step_size="0.5")
    assert observed(tmp_path, defense).local == defenses.LocalSteps(5, 0.5)
    assert firsts(tmp_path, defense) == [(f"{place}.png", label) for place, label in truth]


def test_a_blind_attacker_goes_by_the_cosine_of_gradients(tmp_path):
    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[3]], [2]), ([images[4]], [0])], rounds=2)
    method, rankings = identify(observed(tmp_path), images_of(tmp_path / "candidates"))
    assert (method.name, method.exact) == ("cosine", False) and [ranking.names[0] for ranking in rankings] == ["3.png", "4.png"]
    for ranking in rankings:  # of both rounds, which are the same without a defense
        assert ranking.cosine == pytest.approx(1, abs=1e-6) and 0 < ranking.scores[-1] < 2
    assert "3.png with a cosine of 1, ahead of the second by 0.0" in text(rankings, None)


def test_scores_are_of_the_likelihood_of_the_noise(tmp_path):
    images = write_images(tmp_path / "candidates", NAMES[:2])
    std = 0.02
    write(tmp_path, net(), [([images[0]], [1])], defense=f"noise(std={std})", rounds=2)
    seen = observed(tmp_path, f"noise(std={std})")
    own = [defenses.private.simulated_gradient(defenses.create("none"), seen.module, image[None], torch.tensor([1]), seed=0)
           for image in images_of(tmp_path / "candidates").normalised(seen)]
    distances = [sum(float((one.shared[name][0] - g[name]).double().square().sum()) for one in seen.rounds for name in g) for g in own]
    (ranking,) = identify(seen, images_of(tmp_path / "candidates"))[1]
    assert ranking.names == [f"{place}.png" for place in np.argsort(distances)]
    assert ranking.scores == pytest.approx([0, abs(distances[0] - distances[1]) / (2 * std**2)], rel=1e-3)


def test_without_classes_each_image_is_tried_under_the_labels_of_its_gradient_alone(tmp_path):
    images = write_images(tmp_path / "candidates", NAMES)
    write_images(tmp_path / "public", [f"{label}/{place}.png" for label in range(4) for place in range(6)], seed=1)
    write(tmp_path, net(), [([images[3], images[1]], [2, 0]), ([images[4], images[0]], [1, 1])])
    method, rankings = identify(observed(tmp_path, "none"), images_of(tmp_path / "candidates"), images_of(tmp_path / "public"))
    assert method.name == "whitened" and [ranking.labels for ranking in rankings] == [[2, 0], [1, 1]]
    assert dict(list(zip(rankings[0].names, rankings[0].classes, strict=True))[:2]) == {"3.png": 2, "1.png": 0}
    assert set(rankings[1].names[:2]) == {"4.png", "0.png"} and set(rankings[1].classes) == {1}
    alone = [identify(observed(tmp_path, "none").select([place]), images_of(tmp_path / "candidates"), images_of(tmp_path / "public"))[1][0]
             for place in range(2)]
    for one, beside in zip(alone, rankings, strict=True):
        assert one.names == beside.names and one.scores == pytest.approx(beside.scores)


@pytest.mark.parametrize("labels", ["given", "left out"])
def test_the_images_of_a_batch_come_first_whatever_their_classes(labels, tmp_path):
    names = [f"{place % 4}/{place}.png" for place in range(40)]
    images = write_images(tmp_path / "candidates", names)
    write_images(tmp_path / "public", [f"{label}/{place}.png" for label in range(4) for place in range(100)], seed=1)
    truth = [0, 4, 8, 13, 17, 22]  # of classes 0, 0, 0, 1, 1, 2
    changed = {} if labels == "given" else {"labels": None}
    write(tmp_path, net(), [([images[place] for place in truth], [place % 4 for place in truth])], **changed)
    (ranking,) = identify(observed(tmp_path, "none"), images_of(tmp_path / "candidates"), images_of(tmp_path / "public"))[1]
    assert set(ranking.names[:6]) == {names[place] for place in truth}
    assert (ranking.labels is None) == (labels == "left out")


def test_public_images_that_are_candidates_are_left_out(tmp_path):
    images = write_images(tmp_path / "candidates", NAMES)
    write_images(tmp_path / "public", [f"{label}/{place}.png" for label in range(4) for place in range(6)], seed=1)
    write(tmp_path, net(), [([images[3], images[1]], [2, 0])])
    before = identify(observed(tmp_path, "none"), images_of(tmp_path / "candidates"), images_of(tmp_path / "public"))[1][0]
    shutil.copy(tmp_path / "candidates" / "3.png", tmp_path / "public" / "2" / "also.png")
    after = identify(observed(tmp_path, "none"), images_of(tmp_path / "candidates"), images_of(tmp_path / "public"))[1][0]
    assert before == after


def test_classes_are_numbers_or_in_the_order_of_their_names(tmp_path):
    write_images(tmp_path / "numbers", ["2/a.png", "10/b.png", "0/deep/c.png", "3/.hidden.png"])
    read = candidate_images.read(tmp_path / "numbers", "candidates", (3, 8, 8), 11, None, CPU)
    assert dict(zip(read.names, read.labels.tolist(), strict=True)) == {"2/a.png": 2, "10/b.png": 10, "0/deep/c.png": 0}
    write_images(tmp_path / "names", ["dog/a.png", "bird/b.png", "cat/c.png", "10/d.png"])
    read = images_of(tmp_path / "names")
    assert dict(zip(read.names, read.labels.tolist(), strict=True)) == {"10/d.png": 0, "bird/b.png": 1, "cat/c.png": 2, "dog/a.png": 3}


def test_grey_and_larger_images_are_brought_to_the_observations_form_where_that_is_asked_for(tmp_path):
    (grey,) = write_images(tmp_path, ["grey.png"], shape=(8, 8))
    write_images(tmp_path, ["wide.png"], shape=(16, 24, 3))
    with pytest.raises(InputError, match=r"'wide\.png' is 24x16"):
        images_of(tmp_path)
    read = images_of(tmp_path, image_size=8)
    assert read.names == ("grey.png", "wide.png") and read.pixels.shape == (2, 8, 8, 3)
    assert (read.pixels[0] == grey[..., None]).all()


def test_normalised_images_are_those_that_entered_the_model(tmp_path):
    from captured_cases import normalised

    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[0]], [0])])
    found = images_of(tmp_path / "candidates").normalised(observed(tmp_path))
    assert torch.allclose(found, torch.stack([normalised(pixels) for pixels in images]), atol=1e-5)


def test_an_observation_is_as_the_file_says(tmp_path):
    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[0], images[1]], [0, 3]), ([images[2], images[3]], [1, 1])], defense="noise(std=0.1)", rounds=3)
    seen = observed(tmp_path, "noise(std=0.1)")
    assert len(seen) == 2 and seen.batch_size == 2 and seen.labels.tolist() == [[0, 3], [1, 1]] and len(seen.rounds) == 3
    assert not seen.module.training and not torch.equal(seen.rounds[1].shared["0.bias"], seen.rounds[2].shared["0.bias"])
    assert seen.image_shape == (3, 8, 8) and seen.defense == defenses.create("noise(std=0.1)")
    assert {name: tuple(g.shape) for name, g in seen.shared.items()} == {name: (2, *p.shape) for name, p in net().named_parameters()}


def test_frozen_parameters_have_no_gradient(tmp_path):
    images = write_images(tmp_path / "candidates", NAMES)
    module = net()
    module[0].requires_grad_(False)
    write(tmp_path, module, [([images[4]], [0])], single=True)
    with pytest.raises(InputError, match=r"it lacks '0.weight', '0.bias'"):
        observed(tmp_path)
    (tmp_path / "net.py").write_text(NET.replace("return", "module =") + "    module[0].requires_grad_(False)\n    return module\n")
    assert firsts(tmp_path, "none") == [("4.png", 0)]


def test_a_gradient_of_zeros_is_ranked_without_a_first(tmp_path):
    from captured_cases import rewrite

    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[0]], [0])], single=True)
    rewrite(tmp_path / "observation.safetensors", lambda tensors: [t.zero_() for t in tensors.values()])
    (ranking,) = identify(observed(tmp_path), images_of(tmp_path / "candidates"))[1]
    assert ranking.scores == [0] * 6 and ranking.cosine == 0
