"""Defenses against gradient leakage: what a client does before its gradient leaves.

A new defense is one new file and one line here, or a file of the user's own given with ``--plugin``.
"""

from defenses.base import Account, Defense
from defenses.composition import Composition
from defenses.dp_sgd import DPSGD
from defenses.noise import NoisyGradients
from defenses.none import NoDefense
from defenses.ppp import PPP
from defenses.precode import PRECODE, VariationalBottleneck
from defenses.private import Private, client_loss
from defenses.pruning import GradientPruning
from defenses.release import Clipped, Intervals, Kept, Noise, Release, Scaled, Sign, Unknown
from defenses.step import Batch, Facts, Gradients, Plan, State, Step
from defenses.stochastic import StochasticLayer
from defenses.support.registry import Registry, SpecificationError, split_composition

registry: Registry[Defense] = Registry("defense", Defense, NoDefense, PRECODE, PPP, DPSGD, GradientPruning, NoisyGradients)


def create(specification: str) -> Defense:
    """Build a defense from ``name``, ``name(parameter=value, ...)`` or several of these joined by ``+``.

    Raises:
        SpecificationError: the text cannot be read, or a name or value in it is not acceptable.
    """
    members = tuple(registry.create(part) for part in split_composition(specification))
    if len(members) == 1:
        return members[0]
    try:
        return Composition(members)
    except ValueError as error:
        raise SpecificationError(str(error)) from error


__all__ = [
    "DPSGD", "PPP", "PRECODE", "Account", "Batch", "Clipped", "Composition", "Defense", "Facts", "GradientPruning",
    "Gradients", "Intervals", "Kept", "NoDefense", "Noise", "NoisyGradients", "Plan", "Private", "Release", "Scaled",
    "Sign", "SpecificationError", "State", "Step", "StochasticLayer", "Unknown", "VariationalBottleneck", "client_loss",
    "create", "registry",
]
