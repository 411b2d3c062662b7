"""Ctrl-C ends a run within five seconds."""

from __future__ import annotations

import pytest
from run_cases import stop_by_ctrl_c


@pytest.mark.parametrize("executor", ["serial", "ray"])
def test_ctrl_c_stops_within_five_seconds(benchmark, shapes, tmp_path, executor):
    """From the signal until the process is gone."""
    _, _, seconds = benchmark.pedantic(stop_by_ctrl_c, (shapes, tmp_path / "run", "--executor", executor, "--threads", "1"), rounds=1,
                                       iterations=1)
    benchmark.extra_info["seconds"] = seconds
    assert seconds < 5
