"""Data sets made of random images, for the tests of what is drawn from them."""

from __future__ import annotations

import torch

from benchmark.data.datasets import Dataset
from benchmark.data.loaders import LabelledImages


def dataset_of(count: int, classes: int = 2, values: int = 256, seed: int = 0) -> Dataset:
    """Images of 2x2 pixels with few values, of which many are alike, also in different classes."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(values, (count, 2, 2, 1), generator=generator).to(torch.uint8)
    labels = torch.randint(classes, (count,), generator=generator)
    images = LabelledImages(pixels, labels, torch.zeros(1), torch.ones(1))
    return Dataset("made", tuple("abcdef"[:classes]), images, images, "0" * 64)
