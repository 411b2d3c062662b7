"""What all tests share: small models, small data, and the skipping of tests that need real data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_defenses  # noqa: F401 - the registry is the same whichever tests are chosen
from hypothesis import settings
from PIL import Image
from torch import nn

from benchmark import plugins
from defenses import Batch, Step

settings.register_profile("leakboard", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("leakboard")

#: A device that is not the CPU, for fake tensors. PyTorch's autograd engine asks a fake CUDA tensor's device for its context, which
#: is there with a GPU only; operations that mix devices raise on the meta device alike.
FAKE_DEVICE = "cuda" if torch.cuda.is_available() else "meta"


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    """Keep decoded images of the tests out of the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def real_data() -> None:
    if not os.environ.get("LEAKBOARD_DATA"):
        pytest.skip("needs LEAKBOARD_DATA, a folder with the real data sets")


@pytest.fixture
def without_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAKBOARD_DATA", raising=False)


@pytest.fixture
def clean_registry():
    """Ends what plugins of a test have registered; returns what does so at once."""
    registries = list(plugins._REGISTRIES.values())
    before = [dict(registry._classes) for registry in registries], {name for name in sys.modules if name.startswith("leakboard_plugin_")}

    def clean() -> None:
        for registry, classes in zip(registries, before[0], strict=True):
            registry._classes.clear()
            registry._classes.update(classes)
        for name in [name for name in sys.modules if name.startswith("leakboard_plugin_") and name not in before[1]]:
            del sys.modules[name]

    yield clean
    clean()


class BatchNormNet(nn.Module):
    """A network with batch norm and dropout whose layers are registered in another order than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(4 * 4 * 4, 5)
        self.drop = nn.Dropout(0.2)
        self.norm = nn.BatchNorm2d(4)
        self.convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.drop(torch.relu(self.norm(self.convolution(x))).flatten(1)))


def small_lenet() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))


def small_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 12), nn.ReLU(), nn.Linear(12, 5))


MODELS = {"lenet": small_lenet, "mlp": small_mlp, "batch-norm": BatchNormNet}


def batch(count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 2, 8, 8] and labels of five classes, for the models above."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 8, 8, generator=generator), torch.randint(5, (count,), generator=generator)


def loader(count: int = 24, batch_size: int = 6) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch(count)), batch_size=batch_size)


def step_of(seed: int = 0) -> Step:
    """A step of a client for hooks that need its generator alone."""
    return Step(nn.Identity(), Batch(*batch()), 6, torch.Generator().manual_seed(seed), {}, 0, lambda batch: batch.images.sum((1, 2, 3)))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny classifiable RGB images: CLASS/N.png, two classes of different colour, 8x8, 20 a class."""
    root = tmp_path_factory.mktemp("shapes") / "shapes"
    generator = np.random.default_rng(0)
    for place, name in enumerate(("blue", "red")):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[..., 2 - 2 * place] += 120
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root
