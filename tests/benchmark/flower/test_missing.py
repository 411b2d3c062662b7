"""What is said where Flower is not installed; this needs none."""

from __future__ import annotations

import sys

import pytest

from benchmark.errors import InputError


def test_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)
    for name in [name for name in sys.modules if name.startswith("benchmark.flower")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=r'^benchmark.flower needs Flower; install it with: pip install "leakboard\[flower\]"$'):
        import benchmark.flower.mod  # noqa: F401
