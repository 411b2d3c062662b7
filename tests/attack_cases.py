"""Observations of small models for the tests of attacks."""

from __future__ import annotations

import copy

import torch
from conftest import MODELS, loader

import defenses
from attacks import Observation


def observation_of(defense: str, model: str, *, victims: int = 3, batch_size: int = 1, labels_known: bool = True,
                   client_generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
                   ) -> tuple[Observation, torch.Tensor]:
    """The observation of some victims, and their images [N, B, C, H, W]."""
    generator = torch.Generator("cpu").manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MODELS[model]()
        if dtype != torch.float32:  # fake tensors cannot be converted in place
            module.to(dtype)
        private = defenses.create(defense).make_private(
            module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader(), epochs=1,
            generator=client_generator)
        device = next(module.parameters()).device
        x = torch.randn(victims, batch_size, 2, 8, 8, generator=generator, device="cpu").clamp(-2, 2).to(device, dtype)
        y = torch.randint(5, (victims, batch_size), generator=generator, device="cpu").to(device)
        private.module.train()
        for layer in private.module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eval()
        if client_generator is None:
            shared = [private.shared_gradient(x[i], y[i], seed=i) for i in range(victims)]
        else:  # a generator cannot be made on a fake device
            shared = [private._client_step(x[i], y[i], client_generator)[0] for i in range(victims)]
    return Observation(
        module=copy.deepcopy(private.module).eval(), gradients={n: torch.stack([g[n] for g in shared]) for n in shared[0]},
        batch_size=batch_size, image_shape=(2, 8, 8), mean=torch.full((2,), 0.5).to(device, dtype),
        std=torch.full((2,), 0.25).to(device, dtype), labels=y if labels_known else None, defense=private.defense), x
