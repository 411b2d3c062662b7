"""Tensors of all victims, in parts."""

from __future__ import annotations

from torch import Tensor

#: Bytes of a part.
_BYTES = 2**26


def parts(values: Tensor) -> tuple[Tensor, ...]:
    """Views of ``values`` [N, ...] of some entries each, where all at once would take too much memory: of one entry on a CPU, where
    a call costs little; elsewhere, where it is a launch, of as many as take 64 MiB."""
    each = values.element_size() * (values[0].numel() if len(values) else 1)
    return values.split(1 if values.device.type == "cpu" else max(1, _BYTES // max(1, each)))
