"""Data sets: found, decoded once to uint8, and batched on the device."""
