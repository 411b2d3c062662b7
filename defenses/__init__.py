"""Defenses against gradient leakage: what a client does before its gradient leaves.

A new defense is one new file and one line here, or a file of the user's own given with ``--plugin``.
"""

from defenses.ats import ATS
from defenses.base import Account, Defense
from defenses.censor import CENSOR
from defenses.choices import Choice
from defenses.client import LocalSteps, client_loss
from defenses.clipping import GradientClipping
from defenses.composition import Composition, joined
from defenses.cvb import CVB
from defenses.dcs2 import DCS2
from defenses.dp_fedavg import DPFedAvg
from defenses.dp_sgd import DPSGD
from defenses.dropout import DroppedFeatures
from defenses.families import Family, read_family
from defenses.grad_defense import GradDefense
from defenses.instahide import InstaHide
from defenses.mixing import Mixing
from defenses.mixup import Mixup
from defenses.noise import NoisyGradients
from defenses.none import NoDefense
from defenses.optimal_noise import OptimalNoise
from defenses.outpost import Outpost
from defenses.ppp import PPP
from defenses.precode import PRECODE, VariationalBottleneck
from defenses.private import Private
from defenses.pruning import GradientPruning
from defenses.quantisation import Quantisation
from defenses.release import Release
from defenses.rounds import Participant, require_clients
from defenses.secure_sum import SecureSum
from defenses.sign import GradientSigns
from defenses.soteria import Soteria
from defenses.stages import Clipped, Intervals, Kept, Near, Noise, OwnLikelihood, Scaled, Sign, Unknown
from defenses.step import Batch, Facts, Gradients, Plan, State, Step
from defenses.stochastic import StochasticLayer
from defenses.support.registry import Registry, SpecificationError, split_composition
from defenses.svd import TruncatedSVD
from defenses.top_k import TopK
from defenses.updates import shared_update

registry: Registry[Defense] = Registry(
    "defense", Defense, NoDefense, PRECODE, PPP, DPSGD, GradientPruning, NoisyGradients, DroppedFeatures, CVB, GradientClipping,
    Quantisation, GradientSigns, TruncatedSVD, CENSOR, OptimalNoise, Outpost, Soteria, GradDefense, TopK, ATS, Mixup, InstaHide,
    DCS2, SecureSum, DPFedAvg)


def create(specification: str) -> Defense:
    """Build a defense from ``name``, ``name(parameter=value, ...)`` or several of these joined by ``+``.

    Raises:
        SpecificationError: the text cannot be read, or a name or value in it is not acceptable; a list of values makes several
            defenses, see :func:`family`.
    """
    return joined([registry.create(part) for part in split_composition(specification)])


def family(specification: str) -> Family:
    """Build the defenses of a specification in which one parameter may be a list of values: ``noise(std=[0.001, 0.01])``.

    Raises:
        SpecificationError: as :func:`create`; the list is empty or names a value twice, or there are two lists.
    """
    return read_family(specification, registry)


__all__ = [
    "ATS", "CENSOR", "CVB", "DCS2", "DPSGD", "PPP", "PRECODE", "Account", "Batch", "Choice", "Clipped", "Composition",
    "DPFedAvg", "Defense", "DroppedFeatures", "Facts", "Family", "GradDefense", "GradientClipping", "GradientPruning",
    "GradientSigns", "Gradients", "InstaHide", "Intervals", "Kept", "LocalSteps", "Mixing", "Mixup", "Near", "NoDefense",
    "Noise", "NoisyGradients", "OptimalNoise", "Outpost", "OwnLikelihood", "Participant", "Plan", "Private", "Quantisation",
    "Release", "Scaled", "SecureSum", "Sign", "Soteria", "SpecificationError", "State", "Step", "StochasticLayer", "TopK",
    "TruncatedSVD", "Unknown", "VariationalBottleneck", "client_loss", "create", "family", "registry", "require_clients",
    "shared_update",
]
