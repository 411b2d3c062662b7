"""All checks: those that take seconds first, then those that tell most."""

from __future__ import annotations

from gpu import (
    agreement,
    client_steps,
    matching,
    memory_use,
    peaks,
    processes,
    recorded_steps,
    speeds,
    training_speeds,
    waits,
    whole_command,
)
from gpu.checks import Check

CHECKS: tuple[Check, ...] = (
    peaks.CHECK,
    client_steps.BF16_CHECK,
    client_steps.CHECK,
    memory_use.HALVING_CHECK,
    memory_use.CHECK,
    waits.CHECK,
    agreement.CHECK,
    recorded_steps.CHECK,
    speeds.CHECK,
    processes.CHECK,
    matching.CHECK,
    training_speeds.CHECK,
    whole_command.RAY_CHECK,
    processes.SECOND_GPU_CHECK,
    whole_command.CHECK,
)
