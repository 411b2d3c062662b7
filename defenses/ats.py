"""Transformation of images before training, by a policy that was searched for privacy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from defenses.base import Defense
from defenses.choices import Choice, changed_at_random
from defenses.release import Release
from defenses.step import Batch, Facts, Plan, Step
from defenses.support.upload import upload

#: The transformations that the numbers of a policy stand for, with their magnitudes of 0 to 9, as listed in the authors' code
#: (policy.py); the probabilities beside them there are not used.
_LIST = (
    ("invert", 7), ("contrast", 6), ("rotate", 2), ("translate-x", 9), ("sharpness", 1),
    ("sharpness", 3), ("shear-y", 2), ("translate-y", 2), ("autocontrast", 5), ("equalize", 2),
    ("shear-y", 5), ("posterize", 5), ("color", 3), ("brightness", 5), ("sharpness", 9),
    ("brightness", 9), ("equalize", 5), ("equalize", 1), ("contrast", 7), ("sharpness", 5),
    ("color", 5), ("translate-x", 5), ("equalize", 7), ("autocontrast", 8), ("translate-y", 3),
    ("sharpness", 6), ("brightness", 6), ("color", 8), ("solarize", 0), ("invert", 0),
    ("equalize", 0), ("autocontrast", 0), ("equalize", 8), ("equalize", 4), ("color", 9),
    ("equalize", 5), ("autocontrast", 4), ("solarize", 4), ("brightness", 3), ("color", 0),
    ("solarize", 1), ("autocontrast", 0), ("translate-y", 3), ("translate-y", 3), ("autocontrast", 1),
    ("solarize", 1), ("equalize", 5), ("invert", 0), ("translate-y", 3), ("autocontrast", 1),
)


@dataclass(frozen=True)
class ATS(Defense):
    """Train on transformed images: each goes through a sub-policy that is drawn for it anew in every step (Gao et al., CVPR 2021,
    "Privacy-preserving Collaborative Learning with Automatic Transformation Search").

    The transformations and their magnitudes are those of AutoAugment (Cubuk et al., CVPR 2019) as in the authors' code; signs are
    drawn with the sub-policy, each as likely as the other. The search is not repeated here. Pixels are not rounded to 8 bits in
    between, but for equalisation. The authors also crop and flip at random first, as usual in training; that is not part of the
    policy, and not done. They compare reconstructions with the transformed image; here it is the original that counts.

    Nothing is done to the gradient of the transformed images: what was drawn for an image has few outcomes, see :meth:`choices`.

    Args:
        policy: numbers of transformations of the authors' list, 0 to 49; ``-`` joins those of a sub-policy, applied in that order,
            ``+`` joins sub-policies. The default was found for CIFAR-100 and a ResNet-20.
        mean, std: of each channel, the public normalisation (pixel - mean) / std of pixels in [0, 1]; taken from the loader's data
            set where it tells (``mean`` and ``std``).
    """

    name: ClassVar[str] = "ats"
    summary: ClassVar[str] = "images are shifted, re-contrasted and the like by a policy found by search"
    paper: ClassVar[str] = "Gao et al., CVPR 2021"

    policy: str = "3-1-7+43-18-18"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _read(self.policy)
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together")
        if self.mean is not None and self.std is not None and (len(self.mean) != len(self.std) or min(self.std) <= 0):
            raise ValueError(f"mean and std must be one number for each channel, std > 0, got {self.mean!r} and {self.std!r}")

    def planned(self, plan: Plan) -> Defense:
        if self.mean is not None:
            return self
        if plan.mean is None or plan.std is None:
            raise ValueError("ats needs the normalisation of the images: mean and std, or a data set that has them as attributes")
        return replace(self, mean=tuple(map(float, plan.mean)), std=tuple(map(float, plan.std)))

    def choices(self, facts: Facts | None = None) -> tuple[Choice, ...]:
        """Each sub-policy with each sign of its transformations, in the order of the policy."""
        if self.mean is None or self.std is None:
            raise ValueError("the choices of ats follow from the normalisation of the images, which is not known")
        policy = _read(self.policy)
        return tuple(
            Choice(1 / (len(policy) * math.prod(map(len, signed))), (_Transformed(outcome, self.mean, self.std),))
            for signed in policy for outcome in product(*signed))

    def transform_batch(self, batch: Batch, step: Step) -> Batch:
        return Batch(changed_at_random(self.choices(), batch.images, step.generator), batch.targets)

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        return dict.fromkeys(shared, Release())


class _Operation(NamedTuple):
    """What is done to pixels [B, C, H, W] in [0, 1], with a number that says how much."""

    change: Callable[[Tensor, float], Tensor]
    undo: Callable[[Tensor, float], Tensor]
    amount: float


@dataclass(frozen=True)
class _Transformed:
    """Several operations on the pixels of normalised images. Images of other than one or three channels are taken channel by
    channel, as grey ones."""

    operations: tuple[_Operation, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def changed(self, images: Tensor) -> Tensor:
        return self._on_pixels(images, [(operation.change, operation.amount) for operation in self.operations])

    def undone(self, images: Tensor) -> Tensor:
        return self._on_pixels(images, [(operation.undo, operation.amount) for operation in reversed(self.operations)])

    def _on_pixels(self, images: Tensor, functions: list[tuple[Callable[[Tensor, float], Tensor], float]]) -> Tensor:
        mean, std = (upload(values, images.device, images.dtype).view(-1, 1, 1) for values in (self.mean, self.std))
        pixels, channels = images * std + mean, images.shape[1]
        if channels not in (1, 3):
            pixels = pixels.flatten(0, 1).unsqueeze(1)
        for function, amount in functions:
            pixels = function(pixels, amount)
        return (pixels.reshape(images.shape) - mean) / std


def _read(policy: str) -> list[list[list[_Operation]]]:
    """Of each sub-policy, of each of its transformations, the operation with each sign.

    Raises:
        ValueError: a number is none of the list.
    """
    numbers = [one.split("-") for one in policy.split("+")] if isinstance(policy, str) else [[""]]
    if not all(number.isdecimal() and int(number) < len(_LIST) for one in numbers for number in one):
        raise ValueError(
            f"policy must be numbers from 0 to {len(_LIST) - 1} joined by - and +, such as '3-1-7+43-18-18', got {policy!r}")
    return [[_operations(*_LIST[int(number)]) for number in one] for one in numbers]


def _operations(name: str, level: int) -> list[_Operation]:
    """A transformation with each of its signs."""
    kind = _KINDS[name]
    amount = kind.least + (kind.most - kind.least) * level / 9
    amounts = dict.fromkeys([kind.around - amount, kind.around + amount] if kind.around is not None else [amount])
    return [_Operation(kind.change, kind.undo, one) for one in amounts]


def _torchvision(name: str, pixels: Tensor, *arguments: Any, **named: Any) -> Tensor:
    """One of its transformations, imported where it is used: the other defenses need torch alone."""
    from torchvision.transforms.v2 import functional

    changed: Tensor = getattr(functional, name)(pixels, *arguments, **named)
    return changed


def _same(pixels: Tensor, _: float) -> Tensor:
    """For what cannot be undone, as it is not known where the values were."""
    return pixels


def _inverse(name: str) -> Callable[[Tensor, float], Tensor]:
    """A blend by a factor with what it leaves alone is undone by that of one over the factor."""
    return lambda pixels, factor: _torchvision(name, pixels, 1 / factor)


def _unsharpened(pixels: Tensor, factor: float) -> Tensor:
    """The fixed point of x + (pixels - sharpened x): the eigenvalues of sharpening lie between 0.4 and 1.6."""
    found = pixels
    for _ in range(10):
        found = found + pixels - _torchvision("adjust_sharpness", found, factor)
    return found.clamp(0, 1)


def _rotated(pixels: Tensor, degrees: float) -> Tensor:
    """Counterclockwise, filled with grey."""
    return _torchvision("rotate", pixels, degrees, fill=[128 / 255])


def _shifted(pixels: Tensor, share: float, dim: int) -> Tensor:
    """Towards the first row or column by a share of the size, filled with black."""
    height, width = pixels.shape[-2:]
    by = _shift(share, pixels.shape[dim])
    return _torchvision("crop", pixels, by if dim == -2 else 0, by if dim == -1 else 0, height, width)


def _shifted_back(pixels: Tensor, share: float, dim: int) -> Tensor:
    """What was shifted out is taken to be as the nearest row or column."""
    size = pixels.shape[dim]
    by = _shift(share, size)
    places = torch.arange(size, device=pixels.device) - by
    return pixels.index_select(dim, places.clamp(max(0, -by), min(size, size - by) - 1))


def _shift(share: float, size: int) -> int:
    """The nearest whole number of pixels, and not all of them."""
    return max(1 - size, min(size - 1, math.floor(share * size + 0.5)))


def _sheared(pixels: Tensor, slope: float, filled: bool = True) -> Tensor:
    """Columns are shifted by the slope times the distance of their centre from the left edge, with cubic convolution (Keys, 1981;
    a = -1 as in PIL), filled with black; or, where that is not asked for, with the outermost rows."""
    height, width = pixels.shape[-2:]
    rows = torch.arange(height, device=pixels.device, dtype=pixels.dtype)[:, None]
    at = rows + slope * (torch.arange(width, device=pixels.device, dtype=pixels.dtype) + 0.5)
    base = at.floor()
    found = torch.zeros_like(pixels)
    for step in (-1, 0, 1, 2):
        place = (base + step).clamp(0, height - 1).long().expand_as(pixels)
        found = found + _cubic((at - base - step).abs()) * pixels.gather(-2, place)
    inside = (at >= -0.5) & (at < height - 0.5)
    return (found * inside if filled else found).clamp(0, 1)


def _cubic(distance: Tensor) -> Tensor:
    near = (distance - 2) * distance.square() + 1
    far = ((5 - distance) * distance - 8) * distance + 4
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))


class _Kind(NamedTuple):
    """A transformation with its least and most magnitude; the amount is ``around`` plus or minus it, or it itself."""

    change: Callable[[Tensor, float], Tensor]
    undo: Callable[[Tensor, float], Tensor]
    least: float = 0.0
    most: float = 0.0
    around: float | None = None


_KINDS = {
    "translate-x": _Kind(partial(_shifted, dim=-1), partial(_shifted_back, dim=-1), most=150 / 331, around=0.0),
    "translate-y": _Kind(partial(_shifted, dim=-2), partial(_shifted_back, dim=-2), most=150 / 331, around=0.0),
    "shear-y": _Kind(_sheared, lambda x, slope: _sheared(x, -slope, filled=False), most=0.3, around=0.0),
    "rotate": _Kind(_rotated, lambda x, degrees: _rotated(x, -degrees), most=30.0),
    "color": _Kind(partial(_torchvision, "adjust_saturation"), _inverse("adjust_saturation"), most=0.5, around=1.0),
    "contrast": _Kind(partial(_torchvision, "adjust_contrast"), _inverse("adjust_contrast"), most=0.5, around=1.0),
    "sharpness": _Kind(partial(_torchvision, "adjust_sharpness"), _unsharpened, most=0.5, around=1.0),
    "brightness": _Kind(partial(_torchvision, "adjust_brightness"), _inverse("adjust_brightness"), most=0.5, around=1.0),
    "posterize": _Kind(lambda x, bits: _torchvision("posterize", x, round(bits)), _same, least=8.0, most=4.0),
    "solarize": _Kind(lambda x, threshold: torch.where(x < threshold / 255, x, 1 - x), _same, least=256.0),
    "autocontrast": _Kind(lambda x, _: _torchvision("autocontrast", x), _same),
    "equalize": _Kind(lambda x, _: _torchvision("equalize", x.clamp(0, 1)), _same),
    "invert": _Kind(lambda x, _: _torchvision("invert", x), lambda x, _: _torchvision("invert", x)),
}
