"""What a gradient tells without search: inputs of linear layers, labels, images told apart, and what the releases of a defense mean
for matching. A label rule goes here. May import ``attacks.base`` and ``attacks.objective``.
"""
