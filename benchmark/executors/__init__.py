"""Where cells are measured: in this process, or many at once by Ray. An executor is one file. May import ``benchmark.measure``."""

from __future__ import annotations

from benchmark.errors import InputError
from benchmark.executors.base import Executor, Failed, Finished, Started
from benchmark.executors.serial import Serial

_NAMES = ("serial", "ray")
_MOST_THREADS = 1024


def create(name: str, *, threads: int | None = None, ray_address: str | None = None, gpus_per_cell: float | None = None
           ) -> Executor:
    """The executor of that name.

    Args:
        name: ``serial`` or ``ray``.
        threads: CPU threads of each cell, on which rounding depends; None for torch's choice.
        ray_address: of a Ray cluster, or ``auto`` for the one of this machine; None to start one on this machine.
        gpus_per_cell: share of a GPU, or number of GPUs, that Ray keeps for each cell; None for one.

    Raises:
        InputError: an argument is not acceptable, or Ray is not installed.
    """
    if name not in _NAMES:
        raise InputError(f"unknown executor {name!r}; expected {' or '.join(_NAMES)}")
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise InputError(f"--threads must be 1 to {_MOST_THREADS}, got {threads}")
    if name == "serial":
        if ray_address is not None or gpus_per_cell is not None:
            raise InputError("--ray-address and --gpus-per-cell are for --executor ray")
        return Serial(threads)
    if gpus_per_cell is not None and not (0 < gpus_per_cell <= 1 or (gpus_per_cell > 1 and gpus_per_cell.is_integer())):
        raise InputError(f"--gpus-per-cell must be a share of a GPU, in (0, 1], or a whole number, got {gpus_per_cell}")
    try:
        from benchmark.executors.ray import Ray
    except ImportError as error:
        raise InputError('--executor ray needs Ray; install it with: pip install "leakboard[ray]"') from error
    return Ray(ray_address, threads=threads, gpus_per_cell=gpus_per_cell)


__all__ = ["Executor", "Failed", "Finished", "Serial", "Started", "create"]
