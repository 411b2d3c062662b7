"""How the gradients of each kind of layer are compared without being formed, one file a kind, and the convolutions that this takes.

A rule for a further kind is a class with the decorator ``rule``, imported here. May import the kernels, the slots, the stored
matrices and ``attacks.objective``.
"""

from attacks.engine.layers import convolution, embedding, linear, normalisation  # noqa: F401 - they register their rules
from attacks.engine.layers.rule import Observed, Rule, rule_of

__all__ = ["Observed", "Rule", "rule_of"]
