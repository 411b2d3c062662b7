"""Leaderboards from result tables. Imports no torch: a report can be made where the tables are, without a GPU."""

from _leakboard import require_own

require_own("benchmark")
