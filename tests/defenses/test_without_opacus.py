"""Opacus is needed for DP-SGD only."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["opacus"] = None
import attacks, benchmark.models, defenses
print(len(attacks.registry.names()) > 5, defenses.create("dp-sgd").label)
"""


def test_defenses_attacks_and_models_are_imported_without_opacus():
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert said.stdout.startswith("True dp-sgd("), said.stderr
