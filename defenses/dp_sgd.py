"""DP-SGD through Opacus: per-sample clipping, Gaussian noise, Poisson sampling, privacy accounting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier
from opacus.data_loader import DPDataLoader
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from defenses import checks
from defenses.base import Defense, Gradients, Private, client_loss, extend
from defenses.out_of_place import OutOfPlace


@dataclass(frozen=True)
class DPSGD(Defense):
    """Differentially private SGD (Abadi et al., CCS 2016, algorithm 1), by the parts of Opacus (Yousefpour et al., 2021).

    The shared gradient of a batch is (sum of per-sample gradients clipped to L2 norm ``max_grad_norm`` + Gaussian noise of
    standard deviation ``noise_multiplier * max_grad_norm``) / B. B is the expected batch size in training, where batches are
    drawn by Poisson sampling, and the size of the observed batch where an attacker observes one. Clipping is Opacus' ghost
    clipping, so per-sample gradients of linear layers are never formed. Layers that mix samples (batch norm) are replaced by
    Opacus' ModuleValidator.

    Args:
        noise_multiplier: ratio of the noise's standard deviation to ``max_grad_norm``, >= 0; 1.0 when no target is given.
        max_grad_norm: clipping norm, > 0.
        target_epsilon: choose the noise multiplier so that the planned training spends at most this epsilon, > 0; given
            instead of ``noise_multiplier``.
        delta: the delta that epsilon is reported at, 0 < delta < 1.
        accountant: ``prv`` (Gopi et al., NeurIPS 2021) or ``rdp`` (Mironov, CSF 2017).
    """

    name: ClassVar[str] = "dp-sgd"
    summary: ClassVar[str] = "per-sample clipping and Gaussian noise with a privacy budget (Opacus)"
    paper: ClassVar[str] = "Abadi et al., CCS 2016"

    noise_multiplier: float | None = None
    max_grad_norm: float = 1.0
    target_epsilon: float | None = None
    delta: float = 1e-5
    accountant: str = "prv"

    def __post_init__(self) -> None:
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            raise ValueError("give either noise_multiplier or target_epsilon, not both")
        if self.noise_multiplier is None and self.target_epsilon is None:
            object.__setattr__(self, "noise_multiplier", 1.0)
        if self.noise_multiplier is not None:
            checks.number("noise_multiplier", self.noise_multiplier, at_least=0)
        if self.target_epsilon is not None:
            checks.number("target_epsilon", self.target_epsilon, above=0)
        checks.number("max_grad_norm", self.max_grad_norm, above=0)
        checks.number("delta", self.delta, above=0, below=1)
        checks.choice("accountant", self.accountant, ("prv", "rdp"))

    def extend_model(self, module: nn.Module) -> nn.Module:
        """Replace layers that mix samples (batch norm becomes group norm) and turn off in-place activations, which would
        overwrite what Opacus records."""
        fixed = ModuleValidator.fix(module) if not ModuleValidator.is_valid(module) else module
        for layer in fixed.modules():
            if getattr(layer, "inplace", False) is True:
                layer.inplace = False
        return fixed

    def make_private(self, *, module: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Any,
                     epochs: int | None = None, generator: torch.Generator | None = None,
                     hooks: Defense | None = None) -> Private:
        """As :meth:`Defense.make_private`; the returned loader draws batches by Poisson sampling.

        Args:
            data_loader: a ``torch.utils.data.DataLoader`` with a batch size, or any loader with a ``with_poisson_sampling()``
                that returns a loader of the same length over Poisson samples, a ``dataset`` and a ``len``.
            epochs: needed with ``target_epsilon``.
            hooks: the composition that this defense is a member of; its hooks run instead of this defense's own.

        Raises:
            ValueError: ``target_epsilon`` without ``epochs``, or a foreign optimizer.
            TypeError: a loader that cannot be sampled.
        """
        if isinstance(data_loader, DataLoader):
            poisson: Any = DPDataLoader.from_data_loader(data_loader)
        elif hasattr(data_loader, "with_poisson_sampling"):
            poisson = data_loader.with_poisson_sampling()
        else:
            raise TypeError(
                f"dp-sgd draws its own batches and cannot do so from {type(data_loader).__name__}; "
                "expected a torch DataLoader or a loader with with_poisson_sampling()"
            )
        sample_rate = 1 / len(data_loader)
        whole = self if hooks is None else hooks
        extended = extend(whole, module, optimizer)
        return PrivateDPSGD(
            whole, extended, optimizer, poisson, generator, budget=self, sample_rate=sample_rate,
            expected_batch_size=len(data_loader.dataset) * sample_rate,
            noise_multiplier=self._noise_multiplier(sample_rate, epochs))

    def _noise_multiplier(self, sample_rate: float, epochs: int | None) -> float:
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if epochs is None:
            raise ValueError("dp-sgd with target_epsilon needs the planned number of epochs: make_private(..., epochs=...)")
        return get_noise_multiplier(target_epsilon=self.target_epsilon, target_delta=self.delta, sample_rate=sample_rate,
                                    epochs=max(epochs, 1), accountant=self.accountant)


class PrivateDPSGD(Private):
    """A training under DP-SGD; ``noise_multiplier`` is the one in force, also where it follows from a target epsilon."""

    def __init__(self, defense: Defense, module: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Any,
                 generator: torch.Generator | None, *, budget: DPSGD, sample_rate: float, expected_batch_size: float,
                 noise_multiplier: float) -> None:
        super().__init__(defense, module, optimizer, data_loader, generator)
        self.budget = budget
        self.sample_rate = sample_rate
        self.expected_batch_size = expected_batch_size
        self.noise_multiplier = noise_multiplier
        self.accountant = create_accountant(budget.accountant)

    def shared_gradient(self, x: Tensor, y: Tensor, *, seed: int | None = None) -> Gradients:
        training, self.expected_batch_size = self.expected_batch_size, len(x)
        try:
            return super().shared_gradient(x, y, seed=seed)
        finally:
            self.expected_batch_size = training

    @property
    def delta(self) -> float | None:
        return self.budget.delta

    def privacy_spent(self, delta: float | None = None) -> float | None:
        """Epsilon spent by the training so far, at ``delta`` or the defense's own; infinite without noise."""
        if not self.accountant.history:
            return 0.0
        if self.noise_multiplier == 0:
            return float("inf")
        return float(self.accountant.get_epsilon(delta=self.budget.delta if delta is None else delta))

    def _gradient(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Gradients, Tensor]:
        if not self.module.training:
            raise ValueError("dp-sgd needs the module in training mode: Opacus records per-sample gradients only there")
        # Opacus keeps its state on the parameters and in hooks of the module; both live for this step only.
        opacus_optimizer = DPOptimizerFastGradientClipping(
            self.optimizer, noise_multiplier=self.noise_multiplier, max_grad_norm=self.budget.max_grad_norm,
            expected_batch_size=self.expected_batch_size, loss_reduction="mean", generator=generator)
        per_sample = GradSampleModuleFastGradientClipping(
            self.module, max_grad_norm=self.budget.max_grad_norm, loss_reduction="mean", use_ghost_clipping=True)
        try:
            with OutOfPlace():
                losses = client_loss(self.defense, per_sample, x, y)
            if len(x) == 0:  # a Poisson sample can be empty: the released gradient is then noise alone
                for parameter in self._parameters.values():
                    parameter.grad = torch.zeros_like(parameter)
            else:
                for parameter in self._parameters.values():
                    parameter.grad = None
                DPTensorFastGradientClipping(per_sample, opacus_optimizer, losses).backward()
            opacus_optimizer.accumulate()
            opacus_optimizer.add_noise()
            opacus_optimizer.scale_grad()
            gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        finally:
            per_sample.to_standard_module()
            for parameter in self._parameters.values():
                parameter.summed_grad = None  # type: ignore[attr-defined]
        return gradients, losses.detach().mean()

    def _account(self) -> None:
        self.accountant.step(noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate)
