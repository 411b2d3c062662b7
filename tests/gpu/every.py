"""All checks, those that tell most first."""

from __future__ import annotations

from gpu import (
    agreement, client_steps, compiled_steps, matching, memory_use, peaks, processes, speeds, training_speeds, waits, whole_command,
)
from gpu.checks import Check

CHECKS: tuple[Check, ...] = (
    peaks.CHECK,
    agreement.CHECK,
    client_steps.CHECK,
    compiled_steps.CHECK,
    waits.CHECK,
    memory_use.HALVING_CHECK,
    speeds.CHECK,
    whole_command.RAY_CHECK,
    processes.CHECK,
    matching.CHECK,
    client_steps.BF16_CHECK,
    memory_use.CHECK,
    training_speeds.CHECK,
    processes.SECOND_GPU_CHECK,
    whole_command.CHECK,
)
