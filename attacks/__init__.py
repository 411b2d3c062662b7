"""Gradient-inversion attacks: what an honest-but-curious server can do with a shared gradient."""

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.inverting_gradients import InvertingGradients
from defenses.registry import Registry

registry: Registry[Attack] = Registry("attack", Attack)
registry.register(InvertingGradients)


def create(specification: str) -> Attack:
    """Build an attack from ``name`` or ``name(parameter=value, ...)``.

    Raises:
        SpecificationError: the text cannot be read, or a name or value in it is not acceptable.
    """
    return registry.create(specification)


__all__ = ["Attack", "InvertingGradients", "Observation", "Progress", "Reconstruction", "create", "registry"]
