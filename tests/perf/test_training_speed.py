"""An epoch of CIFAR-10-sized training on LeNet: our loader and client step, and a DataLoader over PIL images beside it.

Run with ``pytest tests/perf --benchmark-only``; both rows are measured in one run, interleaved, and the ratio is printed.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

import defenses
from benchmark import models
from benchmark.config import Training
from benchmark.data.datasets import Dataset
from benchmark.data.loaders import LabelledImages
from benchmark.measure.training import make_private, train

IMAGES = 12_000
BATCH = 64


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def plain_epoch(pixels):
    """What one writes first: PIL images in memory, ToTensor and Normalize per image, zero_grad, backward, step."""
    images = [Image.fromarray(array) for array in pixels]
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))])

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return IMAGES

        def __getitem__(self, index):
            return transform(images[index]), index % 10

    loader = torch.utils.data.DataLoader(Images(), BATCH, shuffle=True)
    module = models.build("lenet", (3, 32, 32), 10)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)

    def epoch() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()

    return epoch


@pytest.fixture(scope="module")
def our_epoch(pixels):
    def images(count: int) -> LabelledImages:
        return LabelledImages(torch.from_numpy(pixels[:count]), torch.arange(count) % 10, torch.full((3,), 0.48), torch.full((3,), 0.25))

    dataset = Dataset("random", tuple("0123456789"), images(IMAGES), images(10), "none")
    private = make_private(defenses.NoDefense(), dataset, "lenet", Training(batch_size=BATCH), 0)

    def epoch() -> None:
        for _ in train(private, dataset, 1, 0):
            pass

    return epoch


def test_our_epoch(benchmark, our_epoch):
    benchmark.pedantic(our_epoch, rounds=5, warmup_rounds=1)


def test_plain_epoch(benchmark, plain_epoch):
    benchmark.pedantic(plain_epoch, rounds=5, warmup_rounds=1)


def test_at_least_two_and_a_half_times_as_fast(benchmark, our_epoch, plain_epoch):
    """Median of the ratios of neighbouring epochs, so that a drift of the machine's speed cancels."""
    ratios = []

    def both() -> None:
        times = []
        for epoch in (plain_epoch, our_epoch):
            started = time.perf_counter()
            epoch()
            times.append(time.perf_counter() - started)
        ratios.append(times[0] / times[1])

    benchmark.pedantic(both, rounds=7, warmup_rounds=1)
    benchmark.extra_info["ratio"] = statistics.median(ratios)
    print(f"\nplain / ours per epoch: median {statistics.median(ratios):.2f}, all {[round(r, 2) for r in ratios]}")
    assert statistics.median(ratios) >= 2.5
