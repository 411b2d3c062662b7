"""Ctrl-C that is not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = False


@contextmanager
def heeded() -> Iterator[None]:
    """Within the context, Ctrl-C raises KeyboardInterrupt, and again in the next :func:`check`: where it comes in the middle of a
    callback from C (a hook, a finaliser), Python or the library that called drops the first one."""
    global _asked
    _asked = False
    if threading.current_thread() is not threading.main_thread():  # only the main thread may say what becomes of signals
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _asked = False


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed."""
    if _asked:
        raise KeyboardInterrupt
