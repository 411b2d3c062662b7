"""Gradients that clients shared, as a file that any training can write.

A safetensors file of float32 tensors. Its names are those of ``model.named_parameters()`` that are trainable:

- ``NAME``: the gradient of the mean loss with respect to that parameter, of its shape; of N victims [N, *shape];
- ``round1/NAME``, ``round2/NAME``, ...: what was shared of the same images, at the same weights, in further rounds.

The metadata are texts, all but the first in JSON:

- ``format``: ``leakboard-observation/1``;
- ``batch_size``: B, images behind each gradient;
- ``image_shape``: [C, H, W];
- ``mean``, ``std``: [C], of the normalisation (pixel - mean) / std of pixels in [0, 1];
- ``labels``: the classes [B], or [N][B] where there are N victims; left out where the attacker is not given them;
- ``victims``: N; left out where the file holds one gradient, without a dimension for victims;
- ``rounds``: 1 by default;
- ``local_steps``: 1 by default. Of T steps of plain SGD, the tensors are the update (w_0 - w_T) / (T * ``local_step_size``), and
  ``local_batch_size`` images, all by default, were in each step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from attacks import Observation, Round
from benchmark.captured.tensor_files import Expected, opened, read_tensors
from benchmark.errors import InputError, shortened
from defenses import Defense, LocalSteps
from defenses.support.registry import unknown
from defenses.support.upload import upload

FORMAT = "leakboard-observation/1"

#: Labels of more images are not inferred within minutes; more pixels are no image of a classifier.
_MOST_IMAGES, _MOST_PIXELS = 1_000_000, 2**26


def read(path: Path, module: nn.Module, defense: Defense | None, device: torch.device) -> tuple[Observation, int]:
    """What a server holds that captured the gradients in a file, and the number of classes that the model has scores for; see the
    module's docstring for the form.

    Args:
        path: of the file.
        module: the shared model with its weights, in evaluation mode, on the device.
        defense: in force; None where the attacker is blind.
        device: where to put the gradients.

    Raises:
        InputError: the file cannot be read, is not of that form, or not of that model.
    """
    where = f"observation {path}"
    with opened(path, "observation") as file:
        about = _Metadata(where, file.metadata() or {})
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
        count = len(file.keys())
        if about.rounds > max(1, count // len(shapes)):
            raise about.wrong("rounds", f"as many as there are gradients: {count} tensors, of {len(shapes)} parameters in each")
        victims = () if about.victims is None else (about.victims,)
        expected = {_prefix(number) + name: Expected((*victims, *shape), torch.float32)
                    for number in range(about.rounds) for name, shape in shapes.items()}
        tensors = read_tensors(file, where, expected)
    classes = _classes(module, about.image_shape, device)
    if about.labels is not None and any(label >= classes for of_victim in about.labels for label in of_victim):
        raise about.wrong("labels", f"classes from 0 to {classes - 1}, of which the model has scores")

    def shared(number: int) -> dict[str, Tensor]:
        own = {name: tensors[_prefix(number) + name] for name in shapes}
        return {name: upload(g if victims else g[None], device) for name, g in own.items()}

    rounds = tuple(Round(0, module, shared(number)) for number in range(about.rounds))
    labels = None if about.labels is None else upload(torch.tensor(about.labels), device)
    mean, std = (upload(values, device, torch.float32) for values in (about.mean, about.std))
    return Observation(module, dict(rounds[0].shared), about.batch_size, about.image_shape, mean, std, labels, defense,
                       rounds=rounds, local=about.local), classes


def write(path: Path, shared: Mapping[str, Tensor], *, batch_size: int, image_shape: Sequence[int], mean: Sequence[float],
          std: Sequence[float], **more: Any) -> None:
    """Write what N clients shared, in the form of the module's docstring.

    Args:
        path: of the file.
        shared: by parameter name, float32 [N, *shape].
        batch_size, image_shape, mean, std: see there.
        more: further metadata.
    """
    about = {"batch_size": batch_size, "image_shape": list(image_shape), "mean": list(mean), "std": list(std),
             "victims": len(next(iter(shared.values()))), **more}
    save_file({name: tensor.contiguous() for name, tensor in shared.items()}, path,
              metadata={"format": FORMAT, **{key: json.dumps(value) for key, value in about.items()}})


class _Metadata:
    """The metadata of a file, read and checked; ``labels`` are [N][B]."""

    def __init__(self, where: str, texts: Mapping[str, str]) -> None:
        self._where, self._texts = where, texts
        if texts.get("format") != FORMAT:
            raise self.wrong("format", f"{FORMAT!r}")
        known = ("format", "batch_size", "image_shape", "mean", "std", "labels", "victims", "rounds", "local_steps",
                 "local_step_size", "local_batch_size")
        for key in texts:
            if key not in known:
                raise InputError(f"{where}: {unknown('key of the metadata', key, known)}")
        self.batch_size: int = self._value("batch_size", "the number of images behind a gradient, 1 to 1,000,000",
                                           lambda value: _whole(value, 1) and value <= _MOST_IMAGES)
        shape = self._value("image_shape", "three whole numbers [C, H, W] of an image, such as [3, 32, 32]",
                            lambda value: _list(value, 3, lambda n: _whole(n, 1)) and math.prod(value) <= _MOST_PIXELS)
        self.image_shape: tuple[int, int, int] = tuple(shape)
        channels = self.image_shape[0]
        self.mean: list[float] = self._value("mean", f"a number for each of {channels} channels",
                                             lambda value: _list(value, channels, _number))
        self.std: list[float] = self._value("std", f"a number above 0 for each of {channels} channels",
                                            lambda value: _list(value, channels, lambda n: _number(n) and n > 1e-30))
        self.victims: int | None = self._value("victims", "a whole number above 0", lambda value: _whole(value, 1), None)
        self.rounds: int = self._value("rounds", "a whole number above 0", lambda value: _whole(value, 1), 1)
        self.labels: list[list[int]] | None = self._labels()
        self.local = self._local()

    def wrong(self, key: str, expected: str) -> InputError:
        """The error for a key that is missing, or not what is expected."""
        given = f"got {shortened(self._texts[key])}" if key in self._texts else "it is missing"
        return InputError(f"{self._where}: the metadata's {key!r} must be {expected}; {given}")

    def _local(self) -> LocalSteps:
        steps = self._value("local_steps", "a whole number above 0", lambda value: _whole(value, 1), 1)
        default = () if steps > 1 else (1.0,)
        size = self._value("local_step_size", "a number above 0, as there are local steps",
                           lambda value: _number(value) and value > 0, *default)
        images = self._value("local_batch_size", f"a whole number from 1 to batch_size = {self.batch_size}",
                             lambda value: _whole(value, 1) and value <= self.batch_size, None)
        return LocalSteps(steps, float(size), images)

    def _labels(self) -> list[list[int]] | None:
        batch, victims = self.batch_size, self.victims

        def of_victim(value: Any) -> bool:
            return _list(value, batch, lambda n: _whole(n, 0))

        if victims is None:
            found = self._value("labels", f"a list of {batch} classes (whole numbers)", of_victim, None)
            return None if found is None else [found]
        found = self._value("labels", f"a list of {victims} lists of {batch} classes (whole numbers)",
                            lambda value: _list(value, victims, of_victim), None)
        return None if found is None else list(found)

    def _value(self, key: str, expected: str, right: Callable[[Any], bool], *absent: Any) -> Any:
        """The value of a key; ``absent`` is what it is where it is not there and need not be."""
        if key not in self._texts and absent:
            return absent[0]
        try:
            value = json.loads(self._texts[key])
        except (KeyError, ValueError, RecursionError) as error:
            raise self.wrong(key, expected) from error
        if not right(value):
            raise self.wrong(key, expected)
        return value


def _whole(value: Any, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and at_least <= value < 2**63


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def _list(value: Any, length: int, right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == length and all(map(right, value))


def _prefix(number: int) -> str:
    return f"round{number}/" if number else ""


def _classes(module: nn.Module, image_shape: tuple[int, int, int], device: torch.device) -> int:
    """Of how many classes the model gives scores for such images."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            scores = module(torch.zeros(1, *image_shape, device=device))
    except Exception as error:  # a foreign model can reject images in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the model does not take images of {'x'.join(map(str, image_shape))} (image_shape): {reason}") from error
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != 1:
        raise InputError("the model must return class scores of shape [batch, classes]")
    return scores.shape[1]
