"""The private training that every defense yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.step import Batch, Gradients, Plan, State, Step
from defenses.support.precision import without_autocast

if TYPE_CHECKING:
    from defenses.base import Defense

#: Begins the names of what is not the model's in a saved training; no parameter's name has a colon.
_CLIENT = "client:"
_ROUND = f"{_CLIENT}round"


class Private:
    """A protected training: what trains is what leaks.

    Both :meth:`backward` (which trains) and :meth:`shared_gradient` (which an attacker observes) run the same client step.

    Attributes:
        defense: as it was asked for.
        in_force: the same with all that followed from the plan of the training; what attackers know.
        module, optimizer, data_loader: as ``make_private`` hands them back.
        state: what the defense keeps at the client.
        round: steps of training done.
    """

    def __init__(self, defense: Defense, module: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Any, *,
                 epochs: int | None = None, generator: torch.Generator | None = None) -> None:
        plan = _plan(data_loader, epochs)
        self.defense = defense
        self.in_force = defense.planned(plan)
        self.data_loader = defense.sample_batches(data_loader)
        self.module = _extend(defense, module, optimizer)
        self.optimizer = optimizer
        self.state: State = defense.initial_state(self.module) or {}
        self.round = 0
        self._batch_size = plan.batch_size
        self._account = self.in_force.account(plan)
        self._parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
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
            y: class indices [B], or probabilities of the classes [B, classes].

        Returns:
            The mean loss of the batch, detached, before the defense changes the gradient; it does not leave the client.
        """
        batch_size = len(x) if self._batch_size is None else self._batch_size
        gradients, loss = client_step(self.in_force, self.module, Batch(x, y), batch_size, self._generator, self.state, self.round)
        for name, parameter in self._parameters.items():
            parameter.grad = gradients[name]
        self.round += 1
        if self._account is not None:
            self._account.step()
        return loss

    def shared_gradient(self, x: Tensor, y: Tensor, *, seed: int | None = None) -> Gradients:
        """What leaves the client for one batch, without a training step.

        Weights, ``p.grad``, buffers (batch norm's running statistics), every random state, the client's state and the privacy
        accountant are left as they were. The module is used in the mode (train or eval) that it is in.

        Args:
            x: images [B, C, H, W].
            y: class indices [B], or probabilities of the classes [B, classes].
            seed: of the client's randomness; without it, each call draws anew from a stream kept for observations.

        Returns:
            Parameter name to gradient, of the parameter's shape.
        """
        if seed is None:
            seed = int(torch.randint(2**62, (), generator=self._observations))
        return simulated_gradient(self.in_force, self.module, x, y, seed=seed, round_=self.round, state=self.state)

    @property
    def delta(self) -> float | None:
        """The delta that :meth:`privacy_spent` reports at by default, or None where the defense gives no guarantee."""
        return None if self._account is None else self._account.delta

    def privacy_spent(self, delta: float | None = None) -> float | None:
        """Epsilon at ``delta`` spent by the training so far, or None where the defense gives no guarantee."""
        if self._account is None:
            return None
        return self._account.epsilon(self._account.delta if delta is None else delta)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and buffers of the model, the round, and what the defense keeps at the client; not the optimizer's state."""
        return {**self.module.state_dict(), _ROUND: torch.tensor(self.round),
                **{_CLIENT + name: tensor for name, tensor in flat(self.state)}}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Go back to what :meth:`state_dict` gave.

        Raises:
            RuntimeError: a weight, or something that the client keeps, is missing or is not there.
        """
        # Strictly: a parameter without its weights would be attacked as it was drawn.
        self.module.load_state_dict({name: tensor for name, tensor in saved.items() if not name.startswith(_CLIENT)})
        kept = {name.removeprefix(_CLIENT): tensor for name, tensor in saved.items() if name.startswith(_CLIENT) and name != _ROUND}
        state = self.defense.initial_state(self.module) or {}
        expected = {name for name, _ in flat(state)}
        if _ROUND not in saved or kept.keys() != expected:
            raise RuntimeError(f"the client's state has {sorted(kept)}, expected the round and {sorted(expected)}")
        self.round, self.state = int(saved[_ROUND]), filled(state, kept)


def simulated_gradient(defense: Defense, module: nn.Module, x: Tensor, y: Tensor, *, seed: int, round_: int = 0,
                       state: State | None = None) -> Gradients:
    """What leaves a client for one batch; as :meth:`Private.shared_gradient`, for whoever knows the defense.

    Args:
        defense: in force.
        module: the model, which is left as it was.
        x: images [B, C, H, W].
        y: class indices [B], or probabilities of the classes [B, classes].
        seed: of the client's randomness.
        round_: steps of training before.
        state: what the client keeps; None for what it begins with.
    """
    device = next(module.parameters()).device
    with _undisturbed(module, device):
        torch.manual_seed(seed)
        generator = torch.Generator(device).manual_seed(seed)
        kept = (defense.initial_state(module) or {}) if state is None else _copied(state)
        gradients, _ = client_step(defense, module, Batch(x, y), len(x), generator, kept, round_)
    return gradients


def client_step(defense: Defense, module: nn.Module, batch: Batch, batch_size: float, generator: torch.Generator, state: State,
                round_: int) -> tuple[Gradients, Tensor]:
    """The client step that trains and that leaks: the shared gradient, and the mean loss before the defense changes it."""
    def losses(batch: Batch, replaced: nn.Module | None = None) -> Tensor:
        return client_loss(defense, module if replaced is None else replaced, *batch)

    step = Step(module, batch, batch_size, generator, state, round_, losses)
    batch = defense.transform_batch(batch, step)
    step = replace(step, batch=batch)
    made = defense.batch_gradient(batch, step)
    gradients, loss = step.gradient_and_loss(batch) if made is None else made
    return released(defense, gradients, step), loss


def released(defense: Defense, gradients: Gradients, step: Step) -> Gradients:
    """What leaves the client of a gradient, of every trainable parameter of the step's module by name."""
    with without_autocast(next(iter(gradients.values())).device):
        gradients = defense.transform_gradients(gradients, step)
    return {name: _in_layout_of(p, gradients[name]) for name, p in step.module.named_parameters() if p.requires_grad}


def client_loss(defense: Defense | None, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample plus the defense's regularizer, shape [B]: the loss that every client minimises. Without a
    defense it is the cross-entropy alone.

    Args:
        defense: or None.
        module: the model.
        x: images [B, C, H, W].
        y: class indices [B], or probabilities of the classes [B, classes].
    """
    losses = F.cross_entropy(module(x), y, reduction="none")
    return losses if defense is None else losses + defense.regularizer(module)


def _plan(data_loader: Any, epochs: int | None) -> Plan:
    """What the loader tells of the training."""
    dataset: Any = getattr(data_loader, "dataset", None)
    given = (getattr(dataset, name, None) for name in ("mean", "std"))
    mean, std = (values if isinstance(values, (Tensor, Sequence)) else None for values in given)  # and not a method, say
    try:
        steps = len(data_loader)
    except TypeError:  # an iterable without a length
        return Plan(epochs=epochs, mean=mean, std=std)
    return Plan(steps, len(dataset) if hasattr(dataset, "__len__") else None, epochs, mean, std)


def flat(state: State, before: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state with the names of the dictionaries that they are in."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}/")
        else:
            yield before + name, value


def filled(state: State, values: Mapping[str, Tensor], before: str = "") -> State:
    """A state of the same dictionaries with other tensors, given by the names of :func:`flat`."""
    return {name: filled(value, values, f"{before}{name}/") if isinstance(value, dict)
            else values[before + name].to(value.device, copy=True) for name, value in state.items()}


def _copied(state: State) -> State:
    return {name: _copied(value) if isinstance(value, dict) else value.clone() for name, value in state.items()}


def _in_layout_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter. Convolutions of channels-last images yield channels-last gradients, and
    PyTorch's fused optimizers pair entries by their place in memory."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _extend(defense: Defense, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
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
