"""The attacks, by their names."""

from __future__ import annotations

from attacks.base import Attack
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
from attacks.methods.unmixing import Unmixing
from attacks.methods.unrolled import Unrolled
from defenses.support.registry import Registry

registry: Registry[Attack] = Registry(
    "attack", Attack, InvertingGradients, DLG, IDLG, SeeThroughGradients, FeatureMatching, Analytic, Spear, OmitStochastic,
    Likelihood, Averaging, Recursive, JointSample, Unmixing, Unrolled, Surrogate)
