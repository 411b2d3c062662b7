"""The example of an attack with a prior that is learned from public images."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from attack_cases import observation_of
from run_cases import CPU, grid_of, run

import attacks
from benchmark import plugins
from benchmark.data.loaders import LabelledImages
from benchmark.run import runner
from benchmark.store import results

FILE = Path(__file__).parents[2] / "examples" / "plugins" / "learned_prior.py"


@pytest.fixture
def loaded(clean_registry):
    return plugins.read(FILE)


@pytest.fixture
def module(loaded, monkeypatch):
    """Its public images are of one colour each, of the shape of the observations' images."""
    found = sys.modules[loaded.module]
    pixels = torch.randint(256, (200, 1, 1, 2), generator=torch.Generator().manual_seed(0)).expand(-1, 8, 8, -1).to(torch.uint8)
    images = LabelledImages(pixels, torch.zeros(200, dtype=torch.long), torch.zeros(2), torch.ones(2))
    monkeypatch.setattr(found, "public", lambda name: images)
    return found


SHORT = "learned-prior(images=toys, training=2, levels=2, iterations=2)"


def test_noise_is_taken_off(module):
    """Of an image of one colour all but about that of the mean, in as many values as it has pixels."""
    denoised = module.denoiser("toys", 300, CPU)
    generator = torch.Generator().manual_seed(1)
    colours = torch.rand(50, 2, 1, 1, generator=generator).mul(4).sub(2).expand(-1, -1, 8, 8)
    noisy = colours + 0.5 * torch.randn(colours.shape, generator=generator)
    assert (denoised(noisy, torch.full((50,), 0.5)) - colours).square().mean() < 0.25 * 0.5**2
    assert (module.cleaned(denoised, noisy, 0.5) - colours).square().mean() < 0.25 * 0.5**2


@pytest.mark.parametrize("defense", ["sign", "noise", "pruning(p=0.5)", "precode", "ats"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_victims_images_are_the_same_without_the_others(module, defense, batch_size):
    observation, _ = observation_of(defense, "lenet", batch_size=batch_size)
    attack, calls = attacks.create(SHORT), []
    together = attack.reconstruct(observation, seed=0, progress=lambda done, total: calls.append((done, total)))
    apart = attack.reconstruct(observation.select([2, 0]), seed=0)
    assert together.images.shape == (len(observation), batch_size, 2, 8, 8) and together.images.min() >= 0 and together.images.max() <= 1
    torch.testing.assert_close(apart.images, together.images[[2, 0]], rtol=0, atol=1e-4)
    assert calls == [(done, 4) for done in range(1, 5)]


def test_what_the_gradient_says_counts(module):
    """What is found is at most half as far from the victim's image as from the others'."""
    observation, x = observation_of("none", "lenet", batch_size=1)
    found = attacks.create("learned-prior(images=toys, training=2, levels=20, iterations=20)").reconstruct(observation, seed=0).images
    distances = (found.flatten(1)[:, None] - observation.to_pixels(x).flatten(1)).square().mean(2)
    others = distances[~torch.eye(len(distances), dtype=torch.bool)]
    assert distances.diagonal().max() < others.min() / 2


def test_where_it_does_not_apply_it_says_so(module, monkeypatch):
    attack, (plain, _) = attacks.create(SHORT), observation_of("none", "lenet")
    assert attack.obstacle(observation_of("mixup", "lenet", batch_size=2)[0]) == "it takes what it finds for images, and these were mixed"
    images = LabelledImages(torch.zeros(1, 6, 6, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), torch.zeros(2), torch.ones(2))
    monkeypatch.setattr(module, "public", lambda name: images)
    assert attack.obstacle(plain) == "the victims' images are (2, 8, 8), channels first, those of toys (2, 6, 6)"
    with pytest.raises(ValueError, match="levels must be a whole number >= 2, got 1"):
        attacks.create("learned-prior(levels=1)")


def test_it_runs_in_a_grid(loaded, shapes, tmp_path):
    grid = grid_of(shapes, defenses=["noise(std=0.1)"], seeds=[0], attacks=[SHORT.replace("toys", repr(str(shapes)))])
    assert run(grid, tmp_path / "run", plugins=[loaded]) == runner.Outcome(kept=0, finished=1, failed=0)
    rows = results.joined(results.read_run(tmp_path / "run").cells)[1]
    assert set(rows["knowledge"]) == {"blind", "informed"} and len(rows) == 2 * 2 * 3 * 2
