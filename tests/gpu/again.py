"""A training and an attack in a process of their own; another one has to come to the same. ``python tests/gpu/again.py DEVICE TINY OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(_TESTS.parent), str(_TESTS), str(_TESTS / "perf")]


def main(device_name: str, tiny: bool, out: str) -> None:
    """Train PRECODE on LeNet for some steps, then attack an undefended LeNet for as many iterations as are recorded on a GPU."""
    import torch
    from speed_cases import observe

    import attacks
    import defenses
    from benchmark import models
    from benchmark.measure import device as devices
    from gpu import watching

    device, side = devices.choose(device_name), 16 if tiny else 32
    torch.manual_seed(0)
    module = models.build("lenet", (3, side, side), 10).to(device)
    private = defenses.create("precode").make_private(
        module=module, optimizer=torch.optim.Adam(module.parameters(), lr=1e-3, fused=True), data_loader=None,
        generator=torch.Generator(device).manual_seed(0))
    private.module.train()
    for step in range(3 if tiny else 50):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(64, 3, side, side, generator=generator).to(device)
        private.backward(x, torch.randint(10, (64,), generator=generator).to(device))
        private.optimizer.step()
    observation = observe("none", "lenet", 8, side=side, device=device)
    with watching.messages() as said:
        found = attacks.create(f"inverting-gradients(iterations={3 if tiny else 500})").reconstruct(observation, seed=0)
    weights = {name: p.detach().cpu() for name, p in private.module.named_parameters()}
    torch.save({"weights": weights, "images": found.images.cpu(), "cost": found.cost.cpu(), "said": said}, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "True", sys.argv[3])
