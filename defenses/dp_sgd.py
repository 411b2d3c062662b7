"""DP-SGD through Opacus: per-sample clipping, Gaussian noise, Poisson sampling, privacy accounting.

Opacus is imported where it is used, so that the other defenses can be had without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from defenses import budget
from defenses.base import Account, Defense
from defenses.release import Release
from defenses.stages import Clipped, Noise, Stage
from defenses.step import Batch, Facts, Gradients, Plan, Step
from defenses.support import checks
from defenses.support.out_of_place import OutOfPlace


@dataclass(frozen=True)
class DPSGD(Defense):
    """Differentially private SGD (Abadi et al., CCS 2016, algorithm 1), by the parts of Opacus (Yousefpour et al., 2021).

    The shared gradient of a batch is (sum of per-sample gradients clipped to L2 norm ``max_grad_norm`` + Gaussian noise of
    standard deviation ``noise_multiplier * max_grad_norm``) / B. B is the expected batch size in training, where batches are
    drawn by Poisson sampling, and the size of the observed batch where an attacker observes one. Per-sample gradients of linear
    layers are never formed: norms are those of ghost clipping, and the sum is found in the same backward pass
    (:func:`defenses.support.clipped_sum.clipped_sum`); models of other layers are clipped by Opacus. Layers that mix samples (batch
    norm) are replaced by its ModuleValidator.

    Args:
        noise_multiplier: ratio of the noise's standard deviation to ``max_grad_norm``, >= 0; 1.0 when no target is given.
        max_grad_norm: clipping norm, > 0.
        target_epsilon: choose the noise multiplier so that the planned training spends at most this epsilon, > 0; given
            instead of ``noise_multiplier``.
        delta: the delta that epsilon is reported at, 0 < delta < 1.
        accountant: ``prv`` (Gopi et al., NeurIPS 2021) or ``rdp`` (Mironov, CSF 2017).
    """

    name: ClassVar[str] = "dp-sgd"
    tells_of_updates: ClassVar[bool] = True
    summary: ClassVar[str] = "per-sample clipping and Gaussian noise with a privacy budget (Opacus)"
    paper: ClassVar[str] = "Abadi et al., CCS 2016"

    noise_multiplier: float | None = None
    max_grad_norm: float = 1.0
    target_epsilon: float | None = None
    delta: float = 1e-5
    accountant: str = "prv"

    def __post_init__(self) -> None:
        if self.noise_multiplier is None and self.target_epsilon is None:
            object.__setattr__(self, "noise_multiplier", 1.0)
        budget.check(self.noise_multiplier, self.target_epsilon, self.delta, self.accountant)
        checks.number("max_grad_norm", self.max_grad_norm, above=0)

    def extend_model(self, module: nn.Module) -> nn.Module:
        """Replace layers that mix samples (batch norm becomes group norm) and turn off in-place activations, which would
        overwrite what Opacus records."""
        from opacus.validators import ModuleValidator

        fixed = ModuleValidator.fix(module) if not ModuleValidator.is_valid(module) else module
        for layer in fixed.modules():
            if getattr(layer, "inplace", False) is True:
                layer.inplace = False
        return fixed

    def sample_batches(self, data_loader: Any) -> Any:
        """Batches drawn by Poisson sampling.

        Args:
            data_loader: a ``torch.utils.data.DataLoader`` with a batch size, or any loader with a ``with_poisson_sampling()``
                that returns a loader of the same length over Poisson samples, a ``dataset`` and a ``len``.

        Raises:
            TypeError: a loader that cannot be sampled.
        """
        if isinstance(data_loader, DataLoader):
            from opacus.data_loader import DPDataLoader

            return DPDataLoader.from_data_loader(data_loader)
        if hasattr(data_loader, "with_poisson_sampling"):
            return data_loader.with_poisson_sampling()
        raise TypeError(
            f"dp-sgd draws its own batches and cannot do so from {type(data_loader).__name__}; "
            "expected a torch DataLoader or a loader with with_poisson_sampling()"
        )

    def planned(self, plan: Plan) -> DPSGD:
        """With the noise multiplier in force, where it follows from a target epsilon.

        Raises:
            ValueError: ``target_epsilon`` without the number of epochs.
        """
        if self.target_epsilon is None or plan.sample_rate is None:
            return self
        if plan.epochs is None:
            raise ValueError("dp-sgd with target_epsilon needs the planned number of epochs: make_private(..., epochs=...)")
        steps = int(max(plan.epochs, 1) / plan.sample_rate)
        multiplier = budget.noise_multiplier(self.target_epsilon, self.delta, plan.sample_rate, steps, self.accountant)
        return replace(self, noise_multiplier=multiplier, target_epsilon=None)

    def shared_among(self, clients: int, local_steps: int = 1) -> DPSGD:
        """With a share of the noise, so that the sum is that of DP-SGD over the images of all. Where clients take several steps
        each adds all of it: what it does after its first is hidden by its own noise alone, which the accountant counts on."""
        if self.noise_multiplier is None or local_steps > 1:
            return self
        return replace(self, noise_multiplier=self.noise_multiplier / math.sqrt(clients), target_epsilon=None)

    def account(self, plan: Plan) -> Account | None:
        assert self.noise_multiplier is not None and plan.sample_rate is not None
        return budget.OpacusAccount(self.accountant, self.delta, self.noise_multiplier, plan.sample_rate)

    def batch_gradient(self, batch: Batch, step: Step) -> tuple[Gradients, Tensor] | None:
        from opacus.optimizers import DPOptimizerFastGradientClipping

        from defenses.support.clipped_sum import clipped_sum

        if not step.module.training:
            raise ValueError("dp-sgd needs the module in training mode: Opacus records per-sample gradients only there")
        assert self.noise_multiplier is not None
        parameters = {name: p for name, p in step.module.named_parameters() if p.requires_grad}
        # Opacus keeps its state on the parameters and in hooks of the module; both live for this step only. It steps no optimizer
        # here, but asks for one to know the parameters.
        opacus_optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD(parameters.values()), noise_multiplier=self.noise_multiplier, max_grad_norm=self.max_grad_norm,
            expected_batch_size=step.batch_size, loss_reduction="mean", generator=step.generator)
        # A Poisson sample can be empty: the released gradient is then noise alone.
        found = clipped_sum(step.module, lambda: step.losses(batch), self.max_grad_norm) if len(batch.images) else None
        try:
            if found is None:
                losses = self._clip_by_opacus(batch, step, opacus_optimizer)
            else:
                summed, losses = found
                for name, parameter in parameters.items():
                    parameter.grad = summed[name]
            opacus_optimizer.accumulate()
            opacus_optimizer.add_noise()
            opacus_optimizer.scale_grad()
            gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        finally:
            for parameter in parameters.values():
                parameter.summed_grad = None  # type: ignore[attr-defined]
        return gradients, losses.detach().mean()

    def _clip_by_opacus(self, batch: Batch, step: Step, optimizer: Any) -> Tensor:
        """Fill ``p.grad`` with the sum of clipped gradients, of any model that Opacus takes; the losses [B]."""
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
        from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

        per_sample = GradSampleModuleFastGradientClipping(
            step.module, max_grad_norm=self.max_grad_norm, loss_reduction="mean", use_ghost_clipping=True)
        try:
            with OutOfPlace(), _as_opacus_reads_them(step.module):
                losses = step.losses(batch, per_sample)
            for parameter in optimizer.params:
                parameter.grad = None if len(losses) else torch.zeros_like(parameter)
            if len(losses):
                DPTensorFastGradientClipping(per_sample, optimizer, losses).backward()
        finally:
            per_sample.to_standard_module()
        return losses

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        """Of one gradient as above. The update of T local steps of b images is the mean of as many noisy sums, so that the noise of
        an entry has the T-th part of the variance of one step's. That is to first order: what noise does to the weights, and so to
        the gradients of later steps, is left out; and an image counts as one of B, however often it was drawn."""
        if self.noise_multiplier is None:  # not planned yet, so that nobody knows the noise
            return dict.fromkeys(shared, budget.UNPLANNED)
        of_step = min(facts.step_images or facts.batch_size, facts.batch_size) if facts.local_steps > 1 else facts.batch_size
        stages: tuple[Stage, ...] = (Clipped(self.max_grad_norm, tuple(shared), facts.batch_size, facts.local_steps),)
        if self.noise_multiplier > 0:
            stages += (Noise((self.noise_multiplier * self.max_grad_norm / of_step) ** 2 / facts.local_steps),)
        return dict.fromkeys(shared, Release(stages))


@contextmanager
def _as_opacus_reads_them(module: nn.Module) -> Iterator[None]:
    """Give convolutions their inputs in contiguous memory. Opacus takes patches by strides that hold there alone; of images whose
    channels come last it computes other norms than those of the gradients (of inner layers even zero), and clips too little."""
    def contiguous(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value.contiguous() if isinstance(value, Tensor) else value for value in inputs)

    handles = [layer.register_forward_pre_hook(contiguous) for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
