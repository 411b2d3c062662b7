"""Measuring defenses: datasets, models, training, evaluation, and the runner.

Importing this package must not import torch: a report is built from result tables on machines without it.
"""

from _leakboard import require_own

require_own("defenses", "attacks")
