"""Small models, batches for them, and a device that is not the CPU."""

from __future__ import annotations

import torch
from torch import nn

import defenses
from defenses import Batch, Step

#: A device that is not the CPU, for fake tensors. PyTorch's autograd engine asks a fake CUDA tensor's device for its context, which
#: is there with a GPU only; operations that mix devices raise on the meta device alike.
FAKE_DEVICE = "cuda" if torch.cuda.is_available() else "meta"


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


#: The public normalisation of the images, by channel: mean and standard deviation.
NORMALISATION = ((0.5, 0.5), (0.25, 0.25))


def batch(count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 2, 8, 8] and labels of five classes, for the models above."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 8, 8, generator=generator), torch.randint(5, (count,), generator=generator)


def loader(count: int = 24, batch_size: int = 6) -> torch.utils.data.DataLoader:
    dataset = torch.utils.data.TensorDataset(*batch(count))
    dataset.mean, dataset.std = NORMALISATION
    return torch.utils.data.DataLoader(dataset, batch_size=batch_size)


class NotForThisModel(ValueError):
    """A defense cannot extend such a model; a test that meets it is skipped."""


def private_of(defense: str | defenses.Defense, module: nn.Module, **options) -> defenses.Private:
    """A protected training of the module.

    Raises:
        NotForThisModel: the defense cannot extend it.
    """
    made = defenses.create(defense) if isinstance(defense, str) else defense
    try:
        return made.make_private(module=module, **options)
    except ValueError as error:
        if not str(error).startswith("the model must"):
            raise
        raise NotForThisModel(str(error)) from error


def step_of(seed: int = 0) -> Step:
    """A step of a client for hooks that need its generator alone."""
    return Step(nn.Identity(), Batch(*batch()), 6, torch.Generator().manual_seed(seed), {}, 0, lambda batch: batch.images.sum((1, 2, 3)))
