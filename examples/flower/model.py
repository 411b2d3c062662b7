"""The model and the data of the federation; ``leakboard identify --model examples/flower/model.py:build`` reads the first."""

from pathlib import Path

import torch
from torch import nn

from benchmark.data.mnist5k import MNIST5k

MEAN, STD, BATCH, CLIENTS = 0.13, 0.31, 16, 4


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))


def digits():
    """4,000 images [28, 28, 1] with labels, shuffled, and 1,000 test images with labels."""
    decoded = MNIST5k().decode(Path())
    order = torch.randperm(len(decoded.train_labels), generator=torch.Generator().manual_seed(0)).numpy()
    return decoded.train_pixels[order], decoded.train_labels[order], decoded.test_pixels, decoded.test_labels


def entering(pixels):
    """Images as they enter the model."""
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - MEAN) / STD


def batch(client, round_):
    """A client's images of a round, new in each, with their labels."""
    pixels, labels, *_ = digits()
    first = BATCH * (CLIENTS * (round_ - 1) + client)
    return entering(pixels[first:first + BATCH]), torch.from_numpy(labels[first:first + BATCH])
