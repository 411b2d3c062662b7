"""Measuring one cell in one process: the training, the gradients that victims share, how their images are found among candidates,
what attacks rebuild, and the metrics. A metric goes here. May import the attacks, the defenses and ``benchmark.data``; knows
nothing of folders, grids or other cells.
"""
