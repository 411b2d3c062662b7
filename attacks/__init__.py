"""Gradient-inversion attacks: what an honest-but-curious server can do with a shared gradient."""

from attacks.adaptive.averaging import Averaging
from attacks.adaptive.mask_aware import MaskAware
from attacks.adaptive.noise_aware import NoiseAware
from attacks.adaptive.omit_stochastic import OmitStochastic
from attacks.adaptive.replay_bottleneck import ReplayBottleneck
from attacks.analytic import Analytic
from attacks.base import Attack, Candidates, Observation, Progress, Reconstruction
from attacks.dlg import DLG, IDLG
from attacks.feature_matching import FeatureMatching
from attacks.inverting_gradients import InvertingGradients
from attacks.see_through_gradients import SeeThroughGradients
from attacks.worst_case import WorstCase
from defenses.registry import Registry

registry: Registry[Attack] = Registry("attack", Attack)
registry.register(InvertingGradients)
registry.register(DLG)
registry.register(IDLG)
registry.register(SeeThroughGradients)
registry.register(FeatureMatching)
registry.register(Analytic)
registry.register(OmitStochastic)
registry.register(ReplayBottleneck)
registry.register(MaskAware)
registry.register(NoiseAware)
registry.register(Averaging)
registry.register(WorstCase)


def create(specification: str) -> Attack:
    """Build an attack from ``name`` or ``name(parameter=value, ...)``.

    Raises:
        SpecificationError: the text cannot be read, or a name or value in it is not acceptable.
    """
    return registry.create(specification)


__all__ = [
    "DLG", "IDLG", "Analytic", "Attack", "Averaging", "Candidates", "FeatureMatching", "InvertingGradients", "MaskAware",
    "NoiseAware", "Observation", "OmitStochastic", "Progress", "Reconstruction", "ReplayBottleneck", "SeeThroughGradients",
    "WorstCase", "create", "registry",
]
