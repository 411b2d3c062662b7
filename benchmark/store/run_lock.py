"""One run at a time in a folder."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.errors import InputError

#: The name of the lock within a run folder; its content means nothing.
NAME = ".lock"


def lock(folder: Path) -> FileLock:
    """Take the lock of a run folder. The system frees it when the process ends, also when it is killed.

    Raises:
        InputError: another process holds it, or the file system knows no locks.
    """
    held = FileLock(folder / NAME)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"another run is working in {folder}; wait until it ends, or name another folder with --out") from error
    except NotImplementedError as error:
        raise InputError(f"the file system of {folder} cannot lock files; name a folder elsewhere with --out") from error
    return held
