"""Rebuilding images from captured gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captured_cases import command, net, write, write_images
from PIL import Image

import attacks
import defenses
from attacks.score import score
from benchmark.captured import model_file, observation_file
from benchmark.captured.rebuild import Rebuilt, applicable, rebuild
from benchmark.captured.rebuild import write as write_rebuilt
from benchmark.cli import execute
from benchmark.errors import InputError

CPU = torch.device("cpu")
NAMES = [f"{place}.png" for place in range(6)]


def observed(folder, defense="none"):
    known = defenses.create(defense)
    module = model_file.load(f"{folder / 'net.py'}:build", folder / "weights.safetensors", known, CPU)
    return observation_file.read(folder / "observation.safetensors", module, known, CPU)[0]


def test_images_are_written_and_are_those_behind_the_gradient(tmp_path, capsys):
    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[0]], [0]), ([images[1]], [3])], labels=None)
    attack = "inverting-gradients(iterations=600, total_variation=0)"
    assert execute(command("attack", tmp_path, "--attack", attack, "--defense", "none")) == 0
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert first == "2 gradients of 1 image; the attacker is informed of none" and fourth == f"images: {tmp_path / 'rebuilt'}"
    assert second.startswith("victim 0: inverting-gradients(iterations=600, total_variation=0), cost ") and second.endswith("labels [0]")
    assert third.startswith("victim 1: ") and third.endswith("labels [3]")
    for victim in range(2):
        rebuilt = np.asarray(Image.open(tmp_path / "rebuilt" / f"victim-{victim}-image-0.png"))
        assert [abs(np.corrcoef(rebuilt.ravel(), image.ravel())[0, 1]) > 0.8 for image in images[:2]] == [victim == 0, victim == 1]


def test_the_likeliest_of_several_attacks_is_taken(tmp_path):
    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[0]], [0]), ([images[1]], [3])])
    seen = observed(tmp_path)
    able = [attacks.create(f"inverting-gradients(iterations={count})") for count in (1, 100)]
    told = []
    best = rebuild(seen, able, seed=3, progress=lambda done, total: told.append(done / total))
    assert [one.attack for one in best] == [able[1].label] * 2 and told == sorted(told) and told[-1] == 1
    found = able[1].reconstruct(seen, seed=3)
    normalised = (found.images - seen.mean.view(-1, 1, 1)) / seen.std.view(-1, 1, 1)
    assert [one.score for one in best] == pytest.approx(score(seen, normalised, found.labels, 3).tolist())
    assert [one.cost for one in best] == pytest.approx(found.cost.tolist())


def test_of_a_portfolio_what_applies_is_run(tmp_path):
    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[0]], [0])])
    seen = observed(tmp_path)
    names = {attack.name for attack in applicable("portfolio(budget='fast')", seen)}
    assert "inverting-gradients" in names and not names & {"omit-stochastic", "averaging", "analytic"}
    with pytest.raises(InputError, match=r"^omit-stochastic.* does not apply: "):
        applicable("omit-stochastic", seen)


def test_pixels_are_rounded_and_grey_images_are_grey(tmp_path):
    write_rebuilt([Rebuilt(np.array([[[[0.0, 1.0], [0.2, 0.999]]]], np.float32), [1], 0.0, 0.0, "a"),
                   Rebuilt(np.full((2, 3, 2, 2), 0.5, np.float32), [1, 2], 0.0, 0.0, "a")], tmp_path)
    assert np.asarray(Image.open(tmp_path / "victim-0-image-0.png")).tolist() == [[0, 255], [51, 255]]
    assert np.asarray(Image.open(tmp_path / "victim-1-image-1.png")).shape == (2, 2, 3)


def test_images_of_other_channels_are_no_pictures(tmp_path):
    from dataclasses import replace

    images = write_images(tmp_path / "candidates", NAMES)
    write(tmp_path, net(), [([images[0]], [0])])
    with pytest.raises(InputError, match="images of 2 channels are no pictures"):
        applicable("inverting-gradients", replace(observed(tmp_path), image_shape=(2, 8, 8)))
