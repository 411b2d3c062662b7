"""Gradients of candidate images, of many victims at once: the matcher, its structured and its general step, and what they take of
time and memory. A layer rule goes into :mod:`attacks.engine.layers`. May import ``attacks.objective``, ``attacks.base`` and the
defenses; nothing that searches.
"""
