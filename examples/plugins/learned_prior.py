"""An attack with a prior that is learned from public images, in the place of total variation:

    leakboard run GRID.yaml --plugin learned_prior.py --attack "learned-prior(images=cifar100)"
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from attacks import Attack
from attacks.objective.costs import Euclidean
from attacks.objective.objective import Objective
from attacks.reading.informed import posterior, with_knowledge
from attacks.reading.labels import known_or_inferred_labels, label_obstacle
from attacks.reading.releases import told
from attacks.search.problem import Problem, Start
from attacks.search.schedule import Schedule
from attacks.undone import rebuilt
from benchmark.data import datasets
from defenses.support import checks
from defenses.support.seeds import VictimNoise, derive

#: Pixels in [0, 1] have about this mean and standard deviation; below, they are in units of it.
CENTRE, UNIT = 0.5, 0.25
#: Standard deviations of the noise in which the search begins and ends, and up to which images are denoised.
FIRST, LAST, CLEAN = 1.0, 0.05, 0.02
#: Step size of Adam in units of the noise, and its coefficients.
STEP, BETAS = 0.15, (0.9, 0.99)


@dataclass(frozen=True)
class LearnedPrior(Attack):
    """Draw the images from their posterior: what they are likely to be by the gradient, as the defense discloses it, and by what
    public images look like.

    Decoupled annealing (Zhang et al., "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing", CVPR 2025): at
    each of several levels of noise, from high to low, the images are denoised by a network that was trained on the public images
    (preconditioned as in Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022); from
    there Adam goes towards what the gradient says, held back by the distance to what was denoised in units of the noise; then the
    noise of the next level is added. The likelihood counts as much as it does, so no weight is to be chosen.

    Args:
        images: a data set as grids name them, or its path, of images of the victims' shape, none of which is a victim.
        training: steps of the network's training, >= 1.
        levels: of noise, >= 2.
        iterations: of Adam at each level, >= 1.
        precision: of gradients that carry no noise: how much the squared distance, as a share of the squared length, counts, > 0.
    """

    name = "learned-prior"
    summary = "likelihood of the gradient and a prior learned from public images, by annealing"
    paper = "Zhang et al., CVPR 2025"
    threat_model = "B"

    images: str = "cifar100"
    training: int = 3500
    levels: int = 150
    iterations: int = 30
    precision: float = 1e10

    def __post_init__(self):
        checks.whole("training", self.training, at_least=1)
        checks.whole("levels", self.levels, at_least=2)
        checks.whole("iterations", self.iterations, at_least=1)
        checks.number("precision", self.precision, above=0)

    def own_obstacle(self, observation):
        theirs, ours = observation.image_shape, public(self.images).image_shape
        if observation.mixing is not None:
            return "it takes what it finds for images, and these were mixed"
        if theirs != ours:
            return f"the victims' images are {theirs}, channels first, those of {self.images} {ours}"
        if any(side % 4 for side in ours[1:]):
            return f"its network takes sides that are multiples of four, the images are {ours}, channels first"
        return label_obstacle(observation)

    def reconstruct(self, observation, *, seed, progress=None):
        self.check(observation)
        labels, count = known_or_inferred_labels(observation), len(observation)
        objective, counts = self.likelihood(observation)
        problem = Problem(observation, labels, objective, Schedule(self.iterations, 1.0, self.iterations), seed)
        matcher = problem.matcher([Start(victim, 0) for victim in range(count)], reloaded=False)
        denoised = denoiser(self.images, self.training, observation.device)
        mean, std = (t.view(-1, 1, 1) for t in (observation.mean, observation.std))

        def normalised(x):
            return (x * UNIT + CENTRE - mean) / std

        seeds = [derive(seed, victim, "learned prior") for victim in observation.victims]
        noise = VictimNoise(seeds, (observation.batch_size, *observation.image_shape), observation.mean)
        levels = [FIRST * (LAST / FIRST) ** (level / (self.levels - 1)) for level in range(self.levels)]
        x, cost, low, high = FIRST * noise.draw(), None, -CENTRE / UNIT, (1 - CENTRE) / UNIT
        for place, level in enumerate(levels):
            prior = cleaned(denoised, x.flatten(0, 1), level).view_as(x).clamp(low, high)
            x, first, second = prior.clone(), torch.zeros_like(x), torch.zeros_like(x)
            for step in range(self.iterations):
                derivative, cost = matcher.step(normalised(x).contiguous())
                derivative = counts.view(-1, 1, 1, 1, 1) * derivative.nan_to_num() * UNIT / std + (x - prior) / level**2
                first.lerp_(derivative, 1 - BETAS[0])
                second.lerp_(derivative.square(), 1 - BETAS[1])
                size = STEP * level * (1 - step / self.iterations)
                corrected = second.div(1 - BETAS[1] ** (step + 1)).sqrt_().add_(torch.finfo(x.dtype).tiny)
                x = (x - size / (1 - BETAS[0] ** (step + 1)) * first / corrected).clamp_(low, high)
                if progress is not None:
                    progress(place * self.iterations + step + 1, self.levels * self.iterations)
            if place + 1 < self.levels:
                x = x + levels[place + 1] * noise.draw()
        return rebuilt(observation, normalised(x), labels, counts * cost, seed)

    def likelihood(self, observation):
        """What is minimised, and how many nats of each victim one of its units is, [N]."""
        known = told(observation)
        if known.variances or known.judges:  # of which an objective is in units of twice the least variance
            nats = 1 / (2 * min(known.variances.values(), default=0.5))
            return posterior(observation, 0), observation.mean.new_full((len(observation),), nats)
        squares = sum(g.flatten(1).square().sum(1) for g in observation.shared.values())
        return with_knowledge(Objective(Euclidean()), observation), self.precision / squares


@lru_cache(maxsize=4)
def public(name):
    """The training images of a data set."""
    return datasets.load(datasets.find(name), torch.device("cpu")).train


class Block(nn.Module):
    """Two convolutions beside the identity, told the level of noise."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.told = nn.GroupNorm(8, channels), nn.Linear(16, 2 * channels)
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x, level):
        scale, shift = self.told(level)[:, :, None, None].chunk(2, 1)
        return x + self.second(F.silu(self.first(F.silu(self.norm(x))) * (1 + scale) + shift))


class Denoiser(nn.Module):
    """Images [B, C, H, W] without noise of standard deviations [B]; sides are multiples of four."""

    def __init__(self, channels, widths=(24, 48, 64)):
        super().__init__()
        wide, middle, narrow = widths
        self.enter, self.leave = nn.Conv2d(channels, wide, 3, padding=1), nn.Conv2d(wide, channels, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(wide, middle, 2, 2), nn.Conv2d(middle, narrow, 2, 2)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(narrow, middle, 2, 2), nn.ConvTranspose2d(middle, wide, 2, 2)])
        self.blocks = nn.ModuleList(Block(width) for width in (wide, middle, narrow, narrow, narrow, middle, wide))
        nn.init.zeros_(self.leave.weight)
        self.register_buffer("frequencies", torch.logspace(math.log10(0.5), math.log10(8), 8))

    def forward(self, x, noise):
        angles = noise.log()[:, None] / 2 * self.frequencies
        level = torch.cat([angles.sin(), angles.cos()], 1)
        noise = noise.view(-1, 1, 1, 1)
        total = (1 + noise**2).sqrt()
        wide = self.blocks[0](self.enter(x / total), level)
        middle = self.blocks[1](self.down[0](wide), level)
        h = self.down[1](middle)
        for block in self.blocks[2:5]:
            h = block(h, level)
        h = self.blocks[5](self.up[0](h) + middle, level)
        h = self.blocks[6](self.up[1](h) + wide, level)
        return x / total**2 + noise / total * self.leave(h)


@lru_cache(maxsize=4)
def denoiser(name, steps, device):
    """What a network that was trained on a data set makes of images and standard deviations; its weights are running means."""
    images = public(name)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(derive("learned prior", steps))
        net = Denoiser(images.image_shape[0]).to(device)
        weights = {key: value.detach().clone() for key, value in net.named_parameters()}
        optimizer = torch.optim.Adam(net.parameters())
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 2e-3 * min(1, step / 100) * (1 + math.cos(math.pi * step / steps)) / 2
            x = (images.pixels(torch.randint(len(images), (32,))).to(device).float() / 255 - CENTRE) / UNIT
            x = x.flip(-1) if torch.rand(()) < 0.5 else x
            noise = torch.exp(1.2 * torch.randn(len(x)) - 1).to(device)
            spread = noise.view(-1, 1, 1, 1)
            loss = ((1 + spread**-2) * (net(x + spread * torch.randn_like(x), noise) - x).square()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for key, value in net.named_parameters():
                weights[key].lerp_(value.detach(), max(0.005, 1 / (step + 1)))

    def denoised(x, noise):
        with torch.no_grad():
            return functional_call(net, weights, (x, noise))

    return denoised


def cleaned(denoised, x, level, steps=4):
    """The images that noise of this level may have been added to: along the flow of the noise in a few steps (Euler)."""
    levels = [level * (CLEAN / level) ** (step / steps) for step in range(steps + 1)] if level > CLEAN else [level]
    for before, after in pairwise(levels):
        clean = denoised(x, x.new_full((len(x),), before))
        x = clean + (x - clean) * (after / before)
    return denoised(x, x.new_full((len(x),), levels[-1]))
