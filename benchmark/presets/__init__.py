"""Grids that come with the package."""
