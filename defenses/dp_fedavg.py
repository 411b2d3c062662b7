"""DP-FedAvg: what a client shares is clipped as a whole, and the sum over the clients of a round carries Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from defenses import budget
from defenses.base import Account, Defense
from defenses.clipping import GradientClipping
from defenses.release import Release
from defenses.stages import Noise
from defenses.step import Facts, Gradients, Plan, Step
from defenses.support import checks


@dataclass(frozen=True)
class DPFedAvg(Defense):
    """Differential privacy of clients (McMahan, Ramage, Talwar and Zhang, ICLR 2018, algorithm 1, flat clipping): what a client
    shares is scaled down to the Euclidean norm S = ``max_norm`` where it is longer, and the sum over the clients of a round carries
    Gaussian noise of standard deviation ``noise_multiplier`` * S. All clients have the weight 1, and the estimate is the paper's
    with a fixed denominator.

    S is in units of a gradient, of which an update of several local steps is a mean (:class:`defenses.LocalSteps`): in the paper's
    units, differences of weights, it is the number of steps times their size times S. The paper clips the difference after each
    local step; here it is clipped once, at the end, with the same sensitivity.

    Under a secure sum each client adds a share of the noise, so that the sum has all of it: the paper's mechanism, whose server is
    trusted, against one that is not. Epsilon is accounted per round, for clients that take part by Poisson sampling at the rate of
    participants to clients: it holds against who sees all sums and does not know who took part. (Where a fixed number of clients
    is drawn, or they take turns, that rate is an approximation.)

    Without a secure sum the server sees what each client shares, and the client adds all of the noise to its own: local
    differential privacy, with ``noise_multiplier`` in each round that it takes part in. Sampling hides nothing then, and epsilon is
    that of the client that took part most often; a target is exceeded where that was more often than the mean.

    Args:
        noise_multiplier: ratio of the noise's standard deviation to ``max_norm``, >= 0; 1.0 when no target is given.
        max_norm: S, > 0.
        target_epsilon: choose the noise multiplier so that the planned training spends at most this epsilon, > 0; given instead of
            ``noise_multiplier``.
        delta: the delta that epsilon is reported at, 0 < delta < 1; less than one client in all of them, to mean anything.
        accountant: ``prv`` (Gopi et al., NeurIPS 2021) or ``rdp`` (Mironov, CSF 2017), of Opacus.
    """

    name: ClassVar[str] = "dp-fedavg"
    summary: ClassVar[str] = "clipping of what a client shares and Gaussian noise on the sum, with a privacy budget of clients"
    paper: ClassVar[str] = "McMahan et al., ICLR 2018"

    noise_multiplier: float | None = None
    max_norm: float = 1.0
    target_epsilon: float | None = None
    delta: float = 1e-5
    accountant: str = "prv"

    def __post_init__(self) -> None:
        if self.noise_multiplier is None and self.target_epsilon is None:
            object.__setattr__(self, "noise_multiplier", 1.0)
        budget.check(self.noise_multiplier, self.target_epsilon, self.delta, self.accountant)
        checks.number("max_norm", self.max_norm, above=0)

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        clipped = self._clipping.transform_gradients(gradients, step)
        if not (std := self._std):
            return clipped
        return {name: g + torch.empty_like(g).normal_(0.0, std, generator=step.generator) for name, g in clipped.items()}

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        if self.noise_multiplier is None:
            return dict.fromkeys(shared, budget.UNPLANNED)
        noise = Release((Noise(self._std**2),)) if self._std else Release()
        return {name: release.then(noise) for name, release in self._clipping.release(shared, facts).items()}

    def shared_among(self, clients: int, local_steps: int = 1) -> DPFedAvg:
        return self if self.noise_multiplier is None else replace(self, noise_multiplier=self.noise_multiplier / math.sqrt(clients))

    def planned(self, plan: Plan) -> DPFedAvg:
        """With the noise multiplier in force, where it follows from a target epsilon.

        Raises:
            ValueError: ``target_epsilon`` without the number of epochs.
        """
        if self.target_epsilon is None or not plan.rounds:
            return self
        if plan.epochs is None:
            raise ValueError("dp-fedavg with target_epsilon needs the planned number of epochs: make_private(..., epochs=...)")
        rounds = max(plan.epochs, 1) * plan.rounds
        steps = rounds if plan.summed > 1 else math.ceil(rounds * plan.participation)
        multiplier = budget.noise_multiplier(self.target_epsilon, self.delta, _rate(plan), steps, self.accountant)
        return replace(self, noise_multiplier=multiplier, target_epsilon=None)

    def account(self, plan: Plan) -> Account | None:
        assert self.noise_multiplier is not None
        counts = "rounds" if plan.summed > 1 else "updates"
        return budget.OpacusAccount(self.accountant, self.delta, self.noise_multiplier, _rate(plan), counts=counts)

    @property
    def _clipping(self) -> GradientClipping:
        return GradientClipping(self.max_norm)

    @property
    def _std(self) -> float:
        assert self.noise_multiplier is not None
        return self.noise_multiplier * self.max_norm


def _rate(plan: Plan) -> float:
    """At which clients are sampled for what is accounted for: who sees each client's share sees who takes part."""
    return plan.participation if plan.summed > 1 else 1.0
