"""Products of stored matrices with vectors from both sides, each matrix read from memory once: by products.c, compiled where the
machine has a C compiler, and without one, or where it is no faster, by torch."""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

log = logging.getLogger("leakboard")

_FUNCTIONS = {torch.float32: "both_products_float", torch.bool: "both_products_bool"}
#: Positions up to which reading a matrix once decides (measured on 32 matrices of 1024 x 3072: 1.6 times as fast as torch with
#: one position and with eight, as fast with 32), and elements of a matrix from which a call for eight of them is worth it; what is
#: called does not depend on how many there are, as each rounds in its own way.
_MOST_POSITIONS, _FEWEST_ELEMENTS = 8, 2**17


#: Bytes of a part in float32: the second product finds the part that the first has read in the cache (measured on 32 matrices
#: of 1024 x 3072, two at a time: 0.77 ms a matrix in parts of 1 to 3 MB, 1.02 ms whole).
_PART = 3 * 2**20


class Matrices(Protocol):
    """One matrix G [O, I] a slot."""

    def products(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Of [S, P, O] and [S, P, I]: left G [S, P, I] and right G^T [S, P, O]."""


def both_products(matrices: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Products with matrices G [S, O, I] from both sides, each matrix read from memory once.

    Args:
        matrices: in the type of the vectors, or masks, from which parts are widened.
        left: [S, P, O].
        right: [S, P, I].

    Returns:
        left G [S, P, I] and right G^T [S, P, O], in the type of the vectors.
    """
    if applies(matrices, left):
        return compiled_products(matrices, left, right)
    slots, rows, columns = matrices.shape
    if matrices.device.type == "cpu":
        at_once = max(1, torch.get_num_threads())
        share = max(1, _PART // (4 * columns * at_once))
    else:  # a quarter of a mask takes as much in float32 as the whole in bytes
        at_once, share = slots, rows if matrices.dtype == left.dtype else -(-rows // 4)
    if share >= rows and matrices.dtype == left.dtype:
        return torch.bmm(left, matrices), torch.bmm(right, matrices.mT)
    by_right, by_left = left.new_zeros(right.shape), left.new_empty(left.shape)
    for first in range(0, slots, at_once):
        some = slice(first, first + at_once)
        for row in range(0, rows, share):
            part, where = matrices[some, row : row + share].to(left.dtype), slice(row, row + share)
            by_right[some].baddbmm_(left[some, :, where], part)
            by_left[some, :, where] = torch.bmm(right[some], part.mT)
    return by_right, by_left


def applies(matrices: Tensor, left: Tensor) -> bool:
    """Whether the compiled function is there, and computes these products faster than torch."""
    return (matrices.device.type == "cpu" and left.dtype == torch.float32 and matrices.dtype in _FUNCTIONS
            and left.shape[1] <= _MOST_POSITIONS and matrices[0].numel() >= _FEWEST_ELEMENTS
            and len(matrices) >= torch.get_num_threads() and _library() is not None)


@torch.library.custom_op("leakboard::both_products", mutates_args=(), device_types="cpu")  # seen as one operation when traced
def compiled_products(matrices: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`both_products` returns, where :func:`applies` holds."""
    library = _library()
    if library is None:
        raise RuntimeError("products.c is not compiled")
    matrices, left, right = matrices.contiguous(), left.contiguous(), right.contiguous()
    by_right, by_left = torch.empty_like(right), torch.empty_like(left)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (matrices, left, right, by_right, by_left)]
    slots, rows, columns = matrices.shape
    sizes = [ctypes.c_int64(size) for size in (slots, left.shape[1], rows, columns)]
    getattr(library, _FUNCTIONS[matrices.dtype])(*pointers, *sizes, ctypes.c_int(torch.get_num_threads()))
    return by_right, by_left


@compiled_products.register_fake
def _(matrices: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(right), torch.empty_like(left)


@cache
def _library() -> ctypes.CDLL | None:
    """Compiled once a process, for its own processor, in a fraction of a second."""
    source = resources.files(__package__) / "products.c"
    try:
        with resources.as_file(source) as file, tempfile.TemporaryDirectory() as folder:
            return _compiled(file, Path(folder))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        log.info("products.c is not compiled, torch does its work: %s", said.strip().splitlines()[0])
        return None


def _compiled(source: Path, folder: Path) -> ctypes.CDLL:
    found = filter(None, map(shutil.which, ("cc", "gcc", "clang")))
    compiler = shlex.split(os.environ.get("CC", "")) or list(found)[:1]
    if not compiler:
        raise FileNotFoundError("no C compiler (cc, gcc, clang, or named by CC)")
    made, library = folder / "products.o", folder / "products.so"
    # Linked without an OpenMP library of its own: the symbols are those of torch's, so that both share one team of threads.
    for arguments in (["-O3", "-march=native", "-fopenmp", "-fPIC", "-c", str(source), "-o", str(made)],
                      ["-shared", str(made), "-o", str(library)]):
        subprocess.run([*compiler, *arguments], check=True, capture_output=True, text=True, timeout=60)
    loaded = ctypes.CDLL(str(library))
    for name in _FUNCTIONS.values():
        getattr(loaded, name).restype = None
    return loaded
