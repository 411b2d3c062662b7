"""The private training that every defense yields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from defenses.client import ONE_GRADIENT, LocalSteps
from defenses.rounds import Participant, divided, mean_of_round, require_clients
from defenses.step import Gradients, Plan, State
from defenses.support.even_batches import EvenBatches
from defenses.support.seeds import derive

if TYPE_CHECKING:
    from defenses.base import Defense

#: Begins the names of what is not the model's in a saved training; no parameter's name has a colon.
_CLIENT = "client:"
_ROUND = f"{_CLIENT}round"


class Private:
    """A protected training: what trains is what leaks.

    Both :meth:`backward` (which trains) and :meth:`shared_gradient` (which an attacker observes) run the same client steps.

    Attributes:
        defense: as it was asked for.
        in_force: the same with all that followed from the plan of the training; what attackers know.
        module, optimizer, data_loader: as ``make_private`` hands them back.
        states: what the defense keeps at each client, by the client's number.
        round: steps of training done.
        local: how clients come to what they share.
    """

    def __init__(self, defense: Defense, module: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Any, *,
                 epochs: int | None = None, generator: torch.Generator | None = None, local: LocalSteps = ONE_GRADIENT) -> None:
        if defense.summed > 1 and not (defense.samples or data_loader is None or hasattr(data_loader, "plan")):
            data_loader = EvenBatches(data_loader, defense.summed)
        plan = _plan(data_loader, epochs)._replace(summed=defense.summed)
        for found, what in ((plan.clients, "there are"), (plan.participants, "a round has")):
            if found is not None:
                require_clients(defense, found, what)
        if local and defense.acts == "gradient":
            raise ValueError(f"{defense.label} acts on the gradient of one step alone, and clients take {local.steps}")
        self.defense, self.local = defense, local
        self.in_force = defense.planned(plan)
        self.data_loader = defense.sample_batches(data_loader)
        self.module = _extend(defense, module, optimizer)
        self.optimizer = optimizer
        self.states: dict[int, State] = {}
        self._steps_of: Counter[int] = Counter()
        self.round = 0
        self._batch_size = plan.batch_size
        if self._batch_size is not None and plan.clients is None:
            self._batch_size /= defense.summed  # batches are divided among the clients
        self._account = self.in_force.account(plan)
        self._parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ValueError("the model has no trainable parameters")
        device = next(iter(self._parameters.values())).device
        if generator is None:
            generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        self._generator = generator
        # A stream of its own for observations, so that looking at a gradient does not move the training's randomness.
        self._observations, self._orders = (torch.Generator().manual_seed(generator.initial_seed() % 2**63) for _ in range(2))

    @property
    def state(self) -> State:
        """What the defense keeps at the client, where there is one."""
        return self.state_of(0)

    def state_of(self, client: int) -> State:
        """What the defense keeps at a client."""
        if client not in self.states:
            self.states[client] = self.defense.initial_state(self.module) or {}
        return self.states[client]

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fill ``p.grad`` of every trainable parameter with what one client shares of its images, or, where the defense sums over
        clients, with the mean of what these share of theirs.

        Args:
            x: images [B, C, H, W], normalised as the model expects; under a sum over n clients B / n of each, one client after
                another.
            y: class indices [B], or probabilities of the classes [B, classes].

        Returns:
            The mean loss of the batch, detached, before the defense changes the gradient; it does not leave the client.

        Raises:
            ValueError: the images cannot be divided among the clients.
        """
        return self.backward_round(divided(x, y, self.in_force, self.local, self._orders))

    def backward_round(self, participants: Sequence[Participant]) -> Tensor:
        """Fill ``p.grad`` of every trainable parameter with the mean of what some clients share in a round; the mean of their
        losses, as in :meth:`backward`.

        Raises:
            ValueError: the defense sums over more clients.
        """
        require_clients(self.in_force, len(participants), "a round has")
        found, loss = mean_of_round(self.in_force, self.module, participants, self.local, self._batch_size, self._generator,
                                    self.state_of, self.round)
        for name, parameter in self._parameters.items():
            parameter.grad = found[name]
        self.round += 1
        self._note(participants)
        return loss

    def shared_gradient(self, x: Tensor, y: Tensor, *, seed: int | None = None) -> Gradients:
        """What a server sees of one batch, without a training step: what leaves the client, or, where the defense sums over
        clients, the mean of what leaves each, as in :meth:`backward`.

        Weights, ``p.grad``, buffers (batch norm's running statistics), every random state, the client's state and the privacy
        accountant are left as they were. The module is used in the mode (train or eval) that it is in.

        Args:
            x: images [B, C, H, W].
            y: class indices [B], or probabilities of the classes [B, classes].
            seed: of the client's randomness; without it, each call draws anew from a stream kept for observations.

        Returns:
            Parameter name to gradient, of the parameter's shape.

        Raises:
            ValueError: the images cannot be divided among the clients.
        """
        if seed is None:
            seed = int(torch.randint(2**62, (), generator=self._observations))
        return simulated_gradient(
            self.in_force, self.module, x, y, seed=seed, round_=self.round, states=self.states, local=self.local)

    @property
    def delta(self) -> float | None:
        """The delta that :meth:`privacy_spent` reports at by default, or None where the defense gives no guarantee."""
        return None if self._account is None else self._account.delta

    def privacy_spent(self, delta: float | None = None) -> float | None:
        """Epsilon at ``delta`` spent by the training so far, or None where the defense gives no guarantee."""
        if self._account is None:
            return None
        return self._account.epsilon(self._account.delta if delta is None else delta)

    def _note(self, participants: Sequence[Participant]) -> None:
        """Account for a round: for itself, or for the steps or the updates of the client that has taken most."""
        if self._account is None:
            return
        counts = getattr(self._account, "counts", "steps")
        if counts == "rounds":
            self._account.step()
            return
        for client, batches in participants:
            before = max(self._steps_of.values(), default=0)
            self._steps_of[client] += len(batches) if counts == "steps" else 1
            for _ in range(self._steps_of[client] - before):
                self._account.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and buffers of the model, the round, and what the defense keeps at the client; not the optimizer's state."""
        self.state_of(0)
        states = {str(client): state for client, state in sorted(self.states.items())}
        return {**self.module.state_dict(), _ROUND: torch.tensor(self.round),
                **{_CLIENT + name.removeprefix("0/"): tensor for name, tensor in flat(states)}}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Go back to what :meth:`state_dict` gave.

        Raises:
            RuntimeError: a weight, or something that the client keeps, is missing or is not there.
        """
        # Strictly: a parameter without its weights would be attacked as it was drawn.
        self.module.load_state_dict({name: tensor for name, tensor in saved.items() if not name.startswith(_CLIENT)})
        kept = {name.removeprefix(_CLIENT): tensor for name, tensor in saved.items() if name.startswith(_CLIENT) and name != _ROUND}
        state = self.defense.initial_state(self.module) or {}
        by_client: dict[int, dict[str, Tensor]] = {0: {}}
        for name, tensor in kept.items():
            client, slash, rest = name.partition("/")
            of_another = slash and client.isdecimal()
            by_client.setdefault(int(client) if of_another else 0, {})[rest if of_another else name] = tensor
        expected = {name for name, _ in flat(state)}
        if _ROUND not in saved or any(own.keys() != expected for own in by_client.values()):
            raise RuntimeError(f"the client's state has {sorted(kept)}, expected the round and {sorted(expected)}")
        self.round = int(saved[_ROUND])
        self.states = {client: filled(state, own) for client, own in by_client.items()}


def simulated_gradient(defense: Defense, module: nn.Module, x: Tensor, y: Tensor, *, seed: int, round_: int = 0,
                       states: Mapping[int, State] | None = None, local: LocalSteps = ONE_GRADIENT) -> Gradients:
    """What a server sees of some images; as :meth:`Private.shared_gradient`, for whoever knows the defense.

    Args:
        defense: in force.
        module: the model, which is left as it was.
        x: images [B, C, H, W].
        y: class indices [B], or probabilities of the classes [B, classes].
        seed: of the client's randomness.
        round_: steps of training before.
        states: what clients keep, by their numbers; where there is none, it is what they begin with.
        local: how it comes to what it shares.
    """
    device = next(module.parameters()).device
    with _undisturbed(module, device):
        torch.manual_seed(seed)
        generator = torch.Generator(device).manual_seed(seed)
        kept = states or {}

        def state_of(client: int) -> State:
            return _copied(kept[client]) if client in kept else defense.initial_state(module) or {}

        participants = divided(x, y, defense, local, torch.Generator().manual_seed(derive(seed, "orders")))
        gradients, _ = mean_of_round(defense, module, participants, local, None, generator, state_of, round_)
    return gradients


def _plan(data_loader: Any, epochs: int | None) -> Plan:
    """What the loader tells of the training."""
    if hasattr(data_loader, "plan"):
        plan: Plan = data_loader.plan(epochs)
        return plan
    dataset: Any = getattr(data_loader, "dataset", None)
    given = (getattr(dataset, name, None) for name in ("mean", "std"))
    mean, std = (values if isinstance(values, (Tensor, Sequence)) else None for values in given)  # and not a method, say
    try:
        steps = len(data_loader)
    except TypeError:  # an iterable without a length
        return Plan(epochs=epochs, mean=mean, std=std)
    return Plan(steps, len(dataset) if hasattr(dataset, "__len__") else None, epochs, mean=mean, std=std)


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
