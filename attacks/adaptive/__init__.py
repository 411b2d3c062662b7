"""Attacks that know the defense: its kind and its parameters, not its randomness (Kerckhoffs' principle)."""
