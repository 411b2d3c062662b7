"""Measuring defenses: datasets, models, training, evaluation, and the runner.

Importing this package must not import torch: a report is built from result tables on machines without it.
"""
