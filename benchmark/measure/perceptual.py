"""LPIPS (Zhang et al., CVPR 2018), where the user has it: an optional measure of how alike two images look.

It is a network, AlexNet trained on ImageNet, whose weights no package ships: torchmetrics has those of the measure's own layers,
and torchvision downloads AlexNet's when it is first asked for them. Here nothing is downloaded: without the package and the file
it is refused.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from benchmark.errors import InputError

#: Pixels a side of the smallest image that AlexNet's convolutions and pools leave something of.
SMALLEST = 31


def require(name: str, image_shape: tuple[int, int, int]) -> None:
    """Refuse what LPIPS cannot be computed of, or without; ``name`` is that of the data set.

    Raises:
        InputError: the package or the weights are missing, or images are too small or neither grey nor RGB.
    """
    if importlib.util.find_spec("torchmetrics") is None:
        raise InputError('evaluation.lpips needs torchmetrics, which is not installed: pip install "leakboard[lpips]"')
    if not (path := weights()).is_file():
        raise InputError(f"evaluation.lpips needs the weights of AlexNet, and {path} does not exist; nothing is downloaded here: "
                         "torchvision.models.alexnet(weights='IMAGENET1K_V1') puts them there")
    channels, height, width = image_shape
    if channels not in (1, 3) or min(height, width) < SMALLEST:
        raise InputError(f"evaluation.lpips needs grey or RGB images of at least {SMALLEST} pixels a side, and dataset {name} has "
                         f"images of {channels}x{height}x{width}")


def weights() -> Path:
    """Where torchvision keeps the weights of AlexNet."""
    from torchvision.models import AlexNet_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name


class Perceptual:
    """LPIPS of pairs of images, after :func:`require`."""

    def __init__(self, device: torch.device) -> None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        self._device = device
        self._metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device)

    @torch.no_grad()
    def distance(self, original: np.ndarray, reconstruction: np.ndarray) -> float:
        """LPIPS of two images [C, H, W] in [0, 1], grey or RGB: 0 of equal ones, higher the less alike."""
        pair = [torch.as_tensor(image, dtype=torch.float32, device=self._device).clamp(0, 1).expand(1, 3, -1, -1)
                for image in (original, reconstruction)]
        return float(self._metric(*pair))
