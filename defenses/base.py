"""What a defense is, and the private training that every defense yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.registry import label, parameters

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Defense:
    """A protection that a client applies before its gradient leaves.

    Override only the hooks that the defense needs; each has a harmless default. Parameters are dataclass fields,
    checked in ``__post_init__``. Instances are immutable and cheap; the state of a training lives in :class:`Private`.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """The specification that makes this defense, such as ``noise(std=0.01)``."""
        return label(self)

    def parameters(self) -> dict[str, Any]:
        """All parameters by name."""
        return parameters(self)

    def extend_model(self, module: nn.Module) -> nn.Module:
        """Return the model that is trained and shared; it may be the given module, changed in place."""
        return module

    def regularizer(self, module: nn.Module) -> Tensor | float:
        """A term added to the loss of each sample: shape [B], or one number for all. Called right after the forward pass."""
        return 0.0

    def transform_batch(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change the images [B, C, H, W] and labels [B] (or class probabilities [B, classes]) before the forward pass."""
        return x, y

    def transform_gradients(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        """Change the gradient, parameter name to tensor, before it leaves the client. Must not write into its input."""
        return gradients

    def make_private(self, *, module: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Any,
                     epochs: int | None = None, generator: torch.Generator | None = None) -> Private:
        """Protect a training; the shape is that of ``opacus.PrivacyEngine.make_private``.

        Args:
            module: the model. Defenses that extend it do so in place.
            optimizer: an optimizer over the parameters of ``module``; parameters that the defense adds are put under its
                first group, those that it removes are taken out.
            data_loader: iterates over batches (images, labels).
            epochs: length of the planned training; only a defense that plans a privacy budget needs it.
            generator: source of the defense's randomness, on the device of the module's parameters. By default one seeded
                from torch's global generator. Randomness inside the forward pass (dropout, PRECODE) follows torch's
                global generator, as everywhere in PyTorch.

        Returns:
            The private training: ``module``, ``optimizer``, ``data_loader`` and ``backward``.

        Raises:
            ValueError: the optimizer does not hold the parameters of the module.
        """
        extended = extend(self, module, optimizer)
        return Private(self, extended, optimizer, data_loader, generator)


class Private:
    """A protected training: what trains is what leaks.

    Both :meth:`backward` (which trains) and :meth:`shared_gradient` (which an attacker observes) run the same client step.
    """

    def __init__(self, defense: Defense, module: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Any,
                 generator: torch.Generator | None = None) -> None:
        self.defense = defense
        self.module = module
        self.optimizer = optimizer
        self.data_loader = data_loader
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ValueError("the model has no trainable parameters")
        device = next(iter(self._parameters.values())).device
        if generator is None:
            generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        self._generator = generator
        # A stream of its own for observations, so that looking at a gradient does not move the training's randomness.
        self._observations = torch.Generator().manual_seed(generator.initial_seed() % 2**63)

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fill ``p.grad`` of every trainable parameter with the shared gradient of one batch.

        Args:
            x: images [B, C, H, W], normalised as the model expects.
            y: class indices [B].

        Returns:
            The mean loss of the batch, detached, before the defense changes the gradient; it does not leave the client.
        """
        gradients, loss = self._client_step(x, y, self._generator)
        for name, parameter in self._parameters.items():
            parameter.grad = gradients[name]
        self._account()
        return loss

    def shared_gradient(self, x: Tensor, y: Tensor, *, seed: int | None = None) -> Gradients:
        """What leaves the client for one batch, without a training step.

        Weights, ``p.grad``, buffers (batch norm's running statistics), every random state and the privacy accountant are
        left as they were. The module is used in the mode (train or eval) that it is in.

        Args:
            x: images [B, C, H, W].
            y: class indices [B].
            seed: of the client's randomness; without it, each call draws anew from a stream kept for observations.

        Returns:
            Parameter name to gradient, of the parameter's shape.
        """
        if seed is None:
            seed = int(torch.randint(2**62, (), generator=self._observations))
        device = next(iter(self._parameters.values())).device
        with _undisturbed(self.module, device):
            torch.manual_seed(seed)
            generator = torch.Generator(device).manual_seed(seed)
            gradients, _ = self._client_step(x, y, generator)
        return gradients

    @property
    def delta(self) -> float | None:
        """The delta that :meth:`privacy_spent` reports at by default, or None where the defense gives no guarantee."""
        return None

    def privacy_spent(self, delta: float | None = None) -> float | None:
        """Epsilon at ``delta`` spent by the training so far, or None where the defense gives no guarantee."""
        return None

    def _client_step(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Gradients, Tensor]:
        x, y = self.defense.transform_batch(x, y, generator)
        gradients, loss = self._gradient(x, y, generator)
        gradients = self.defense.transform_gradients(gradients, generator)
        return {name: _in_layout_of(p, gradients[name]) for name, p in self._parameters.items()}, loss

    def _gradient(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Gradients, Tensor]:
        """The gradient of the mean loss, by parameter name, and that loss; DP-SGD puts its own in this place."""
        loss = client_loss(self.defense, self.module, x, y).mean()
        tensors = torch.autograd.grad(loss, list(self._parameters.values()), materialize_grads=True)
        return dict(zip(self._parameters, tensors, strict=True)), loss.detach()

    def _account(self) -> None:
        """Note that one gradient was released by the training."""


def _in_layout_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter. Convolutions of channels-last images yield channels-last gradients, and
    PyTorch's fused optimizers pair entries by their place in memory."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def client_loss(defense: Defense, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample plus the defense's regularizer, shape [B]: the loss that every client minimises."""
    losses = F.cross_entropy(module(x), y, reduction="none")
    return losses + defense.regularizer(module)


def extend(defense: Defense, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
    """Let a defense extend the model, and keep the optimizer over exactly the parameters of the result."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held <= {id(p) for p in module.parameters()}:
        raise ValueError("the optimizer holds parameters that are not those of the module; build it from module.parameters()")
    before = {id(p) for p in module.parameters()}
    extended = defense.extend_model(module)
    after = list(extended.parameters())
    kept = {id(p) for p in after}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in kept:
                optimizer.state.pop(parameter, None)
        group["params"] = [p for p in group["params"] if id(p) in kept]
    optimizer.param_groups[0]["params"] += [p for p in after if id(p) not in before]
    return extended


@contextmanager
def _undisturbed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put buffers, ``p.grad`` and the global random states back on leaving."""
    buffers = [(owner, name, buffer, buffer.clone())
               for owner in module.modules() for name, buffer in owner.named_buffers(recurse=False)]
    grads = [(parameter, parameter.grad) for parameter in module.parameters()]
    devices: Iterable[torch.device] = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, value in buffers:
                setattr(owner, name, buffer)  # a layer may have put a new tensor in its place
                buffer.copy_(value)
        for parameter, grad in grads:
            parameter.grad = grad
