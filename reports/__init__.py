"""Leaderboards from result tables. Imports no torch: a report can be made where the tables are, without a GPU."""
