"""Reading safetensors files from outside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchmark.captured.limits import require_fits
from benchmark.errors import InputError

#: Of names that are wrong, so many are told.
_NAMED = 3


class Expected(NamedTuple):
    """What a tensor must be."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@contextmanager
def opened(path: Path, kind: str) -> Iterator[Any]:
    """The open file, of which only the header has been read.

    Args:
        path: of the file.
        kind: what it is to hold, for errors.

    Raises:
        InputError: it cannot be read, is no safetensors file, or takes more memory than there is; it may be a pickle.
    """
    try:
        require_fits(f"the tensors of {path}", path.stat().st_size, torch.device("cpu"))
        with path.open("rb") as file:
            begin = file.read(4)
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        if begin.startswith((b"PK\x03\x04", b"\x80")):  # of torch.save, now and before version 1.6
            raise InputError(
                f"{kind} {path} is a pickle, which can run code when it is read; where you trust it, write the tensors anew with "
                "safetensors.torch.save_file(torch.load(PATH, weights_only=True), NEW_PATH)") from error
        raise InputError(f"{kind} {path} is not a safetensors file: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read the {kind} {path}: {error.strerror or error}") from error


def read_tensors(file: Any, where: str, expected: Mapping[str, Expected]) -> dict[str, Tensor]:
    """All tensors of an open file, on the CPU.

    Args:
        file: see :func:`opened`.
        where: kind and path of the file, for errors.
        expected: by name.

    Raises:
        InputError: names, shapes or types are others, or a value is not finite.
    """
    given = set(file.keys())
    missing, strange = [name for name in expected if name not in given], sorted(given - expected.keys())
    if missing or strange:
        raise InputError(f"{where} is not of this model: " + "; ".join(
            f"{what} {_some(names)}" for what, names in (("it lacks", missing), ("it should not have", strange)) if names))
    for name, like in expected.items():
        shape = file.get_slice(name).get_shape()
        if tuple(shape) != like.shape:
            raise InputError(f"{where}: {name!r} must be of shape {list(like.shape)}, got {list(shape)}")
    tensors = {}
    for name, like in expected.items():
        tensor = tensors[name] = file.get_tensor(name)
        if tensor.dtype != like.dtype:
            of, to = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, like.dtype))
            raise InputError(f"{where}: {name!r} is {of}; convert it to {to}")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{where}: {name!r} has values that are not finite")
    return tensors


def _some(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
