"""Gradient-inversion attacks: what an honest-but-curious server can do with a shared gradient."""

from _leakboard import require_own

require_own("defenses")

from attacks.base import Attack, Observation, Progress, Reconstruction, Round
from attacks.methods.analytic import Analytic
from attacks.methods.averaging import Averaging
from attacks.methods.dlg import DLG, IDLG
from attacks.methods.feature_matching import FeatureMatching
from attacks.methods.inverting_gradients import InvertingGradients
from attacks.methods.joint_sample import JointSample
from attacks.methods.likelihood import Likelihood
from attacks.methods.omit_stochastic import OmitStochastic
from attacks.methods.recursive import Recursive
from attacks.methods.see_through_gradients import SeeThroughGradients
from attacks.methods.spear import Spear
from attacks.methods.surrogate import Surrogate
from attacks.methods.unrolled import Unrolled
from attacks.portfolio import BUDGETS
from attacks.portfolio import portfolio as members
from attacks.race import Race
from attacks.registry import registry
from defenses.support import checks
from defenses.support.registry import SpecificationError, parse, unknown

registry.register(Race)

#: What stands for several attacks in a grid.
PORTFOLIO = "portfolio"

#: Attacks of earlier versions, by what names them now. Knowledge of the defense is a property of the observation since.
_REPLACED = {
    "mask-aware": "inverting-gradients, which an informed attacker runs over the entries that were kept",
    "noise-aware": "likelihood, or with cost='cosine' inverting-gradients(total_variation=1e-05)",
    "replay-bottleneck": "inverting-gradients, or with target='features' feature-matching, which replay codes where informed",
    "worst-case": "portfolio(budget='standard'): attacks of their own, among all of which the report chooses",
}


def create(specification: str) -> Attack:
    """Build an attack from ``name`` or ``name(parameter=value, ...)``.

    Raises:
        SpecificationError: the text cannot be read, or a name or value in it is not acceptable.
    """
    name, _ = parse(specification, "attack")
    if name in _REPLACED and name not in registry.names():
        raise SpecificationError(f"the attack {name!r} of earlier versions is now {_REPLACED[name]}")
    return registry.create(specification)


def create_all(specification: str) -> list[Attack]:
    """As :func:`create`, where ``portfolio(budget='fast'|'standard'|'thorough')`` stands for all registered attacks with fixed
    settings (:mod:`attacks.portfolio`), but for those that run others."""
    name, arguments = parse(specification, "attack")
    if name != PORTFOLIO:
        return [create(specification)]
    budget = arguments.pop("budget", "standard")
    if arguments:
        raise SpecificationError(unknown(f"parameter of attack {PORTFOLIO}", next(iter(arguments)), ["budget"]))
    try:
        checks.choice("budget", budget, tuple(BUDGETS))
    except ValueError as error:
        raise SpecificationError(f"attack {specification.strip()!r}: {error}") from error
    return members(list(registry), budget)


__all__ = [
    "DLG", "IDLG", "Analytic", "Attack", "Averaging", "FeatureMatching", "InvertingGradients", "JointSample", "Likelihood",
    "Observation", "OmitStochastic", "Progress", "Race", "Reconstruction", "Recursive", "Round", "SeeThroughGradients", "Spear",
    "Surrogate", "Unrolled", "create", "create_all", "registry",
]
