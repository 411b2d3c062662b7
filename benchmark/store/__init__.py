"""The files of a run: their columns, how they are read, and how they are written. A column goes into
:mod:`benchmark.store.results`. Imports no torch, so that reports need none.
"""
