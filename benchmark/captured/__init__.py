"""Gradients that were captured outside of the benchmark, in any training: reading them with their model, ranking candidate images
by them, and rebuilding images from them. Files come from outside and are checked here before anything is computed of them. May
import what measures a cell (``benchmark.measure``, and what that may import); knows nothing of grids, runs and their folders. The
command imports ``commands`` alone, which imports torch only where one of them runs.
"""
