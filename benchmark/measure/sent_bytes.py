"""How much a client sends in a round."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_VALUE = _INDEX = 4  # bytes


def sent_bytes(gradient: Mapping[str, Tensor]) -> int:
    """Bytes that one shared gradient takes at most, by the best of four simple codes for each of its tensors.

    Of n entries, k of them not zero, with K distinct values, these are: all values as float32 (4n); a bitmap of what is not zero,
    and its values (n/8 + 4k); indices and values (8k); a table of the distinct values, and ceil(log2 K) bits an entry (4K + n/8
    times that). It is an estimate of little effort: there is no entropy coding and no code over several tensors, and shapes and
    the choice of the code are not counted. The defense need not say how it compresses, since only what it shared is looked at: the
    figure holds for pruning, signs and quantisation of anyone's making, and for noise, after which nothing is left to save.

    Args:
        gradient: parameter name to tensor, on any device.
    """
    return sum(_of_tensor(tensor.detach()) for tensor in gradient.values())


def _of_tensor(tensor: Tensor) -> int:
    values = tensor.float() + 0.0  # minus zero is zero
    entries, nonzero = values.numel(), int(values.count_nonzero())
    # By their bits, since no NaN equals another.
    distinct = len(values.view(torch.int32).unique())
    bits = max(distinct - 1, 0).bit_length()  # ceil(log2 K)
    return min(_VALUE * entries,
               _bytes(entries) + _VALUE * nonzero,
               (_INDEX + _VALUE) * nonzero,
               _VALUE * distinct + _bytes(entries * bits))


def _bytes(bits: int) -> int:
    return -(-bits // 8)
