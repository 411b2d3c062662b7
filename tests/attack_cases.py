"""Observations of small models for the tests of attacks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from model_cases import MODELS, loader, private_of
from torch import nn
from torch.nn import functional as F

import defenses
from attacks import Observation, Round
from attacks.objective.costs import Euclidean
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from defenses import LocalSteps, client_loss
from defenses.client import ONE_GRADIENT
from defenses.rounds import divided, mean_of_round
from defenses.stochastic import stochastic_layers


def observation_of(defense: str | defenses.Defense, model: str | Callable[[], nn.Module], *, victims: int = 3, batch_size: int = 1, labels_known: bool = True,
                   client_generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32, rounds: int = 1,
                   local: LocalSteps = ONE_GRADIENT
                   ) -> tuple[Observation, torch.Tensor]:
    """The observation of some victims as an informed attacker has it, and their images [N, B, C, H, W]. The model is one of the small
    ones, or made for images of 2x8x8 and five classes. Of each client that the defense sums over there are ``batch_size`` images; with
    local steps these are as many as the update is of."""
    clients = (defenses.create(defense) if isinstance(defense, str) else defense).summed
    batch_size *= clients
    generator = torch.Generator("cpu").manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MODELS[model]() if isinstance(model, str) else model()
        if dtype != torch.float32:  # fake tensors cannot be converted in place
            module.to(dtype)
        private = private_of(
            defense, module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader(24 * clients, 6 * clients),
            epochs=1, generator=client_generator, local=local)
        if dtype != torch.float32:  # layers that a defense puts in
            private.module.to(dtype)
        device = next(module.parameters()).device
        x = torch.randn(victims, batch_size, 2, 8, 8, generator=generator, device="cpu").clamp(-2, 2).to(device, dtype)
        y = torch.randint(5, (victims, batch_size), generator=generator, device="cpu").to(device)
        private.module.train()
        for layer in private.module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eval()

        def observed(i: int, number: int) -> dict[str, torch.Tensor]:
            if client_generator is None:
                return private.shared_gradient(x[i], y[i], seed=i + 1000 * number)
            # A generator cannot be made on a fake device.
            of_clients = divided(x[i], y[i], private.in_force, local, client_generator)
            return mean_of_round(private.in_force, private.module, of_clients, local, None, client_generator, private.state_of, 0)[0]

        shared = [[observed(i, number) for i in range(victims)] for number in range(rounds)]
    module = copy.deepcopy(private.module).eval()
    of_rounds = tuple(Round(0, module, {n: torch.stack([g[n] for g in own]) for n in own[0]}) for own in shared)
    return Observation(
        module=module, shared=of_rounds[0].shared, batch_size=batch_size, image_shape=(2, 8, 8),
        mean=torch.full((2,), 0.5).to(device, dtype), std=torch.full((2,), 0.25).to(device, dtype),
        labels=y if labels_known else None, defense=private.in_force, rounds=of_rounds, local=local), x


def observation_through(module: nn.Module, image_shape: tuple[int, int, int], *, victims: int = 2, batch_size: int = 1, classes: int = 3,
                        seed: int = 0) -> Observation:
    """Plain gradients of random images through a module in evaluation mode, in float64."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    x = torch.randn(victims, batch_size, *image_shape, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (victims, batch_size), generator=generator)
    shared = [torch.autograd.grad(F.cross_entropy(module(x[i]), y[i]), list(module.parameters())) for i in range(victims)]
    names = [name for name, _ in module.named_parameters()]
    c = image_shape[0]
    return Observation(
        module=module, shared={name: torch.stack([g[i] for g in shared]) for i, name in enumerate(names)}, batch_size=batch_size,
        image_shape=image_shape, mean=torch.zeros(c).double(), std=torch.ones(c).double(), labels=y, defense=defenses.NoDefense())


def reference(observation, x, objective, victim, epsilon=None):
    """Cost and image derivative of one victim by torch.autograd.grad with create_graph; ``objective`` may be the weight of total
    variation alone, which is its only term."""
    if not isinstance(objective, Objective):
        objective = Objective(terms=(TotalVariation(objective),))
    module = observation.module
    for layer, noise in zip(stochastic_layers(module).values(), epsilon or [], strict=False):
        layer.epsilon = noise[victim]
    x = x[victim].clone().requires_grad_()
    loss = client_loss(observation.defense, module, x, observation.labels[victim]).mean()
    gradient = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
    layers: dict[str, tuple[list, list]] = {}
    for (name, _), g in zip(module.named_parameters(), gradient, strict=True):
        layer = name.rpartition(".")[0]
        if objective.layers is None or layer in objective.layers:
            mask = objective.masks[name][victim].to(g.dtype) if name in objective.masks else 1
            ours, theirs = layers.setdefault(layer, ([], []))
            ours.append((g * mask).flatten())
            theirs.append((observation.shared[name][victim] * mask).flatten())
    weights = [objective.weights.get(layer, 1.0) for layer in layers]
    pairs = [(torch.cat(ours), torch.cat(theirs)) for ours, theirs in layers.values()]
    if isinstance(objective.cost, Euclidean):
        cost = sum(w * (a - b).square().sum() for w, (a, b) in zip(weights, pairs, strict=True))
    elif objective.cost.per_layer:
        cost = sum(w * (1 - torch.dot(a, b) / (a.norm() * b.norm())) for w, (a, b) in zip(weights, pairs, strict=True)) / sum(weights)
    else:
        a, b = (torch.cat([w**0.5 * pair[i] for w, pair in zip(weights, pairs, strict=True)]) for i in (0, 1))
        cost = 1 - torch.dot(a, b) / (a.norm() * b.norm())
    cost = cost + sum(term.weight for term in objective.terms) * sum(x.diff(dim=d).abs().mean() for d in (-1, -2))
    derivative = torch.autograd.grad(cost, x)[0]
    for layer in stochastic_layers(module).values():
        layer.epsilon = None
    return cost.detach(), derivative
