"""What a training held is gone when its victims are attacked, which needs the memory."""

from __future__ import annotations

import pytest
import torch
from run_cases import grid_of, run

from attacks.engine import memory
from benchmark.measure import measuring


@pytest.mark.parametrize("defense", ["none", "dp-sgd(target_epsilon=8)"])
def test_gradients_and_the_optimizers_state_are_gone(shapes, tmp_path, monkeypatch, defense):
    observe, held = measuring.observe, []

    def looked(private, *arguments, **others):
        tensors = [t for state in private.optimizer.state.values() for t in state.values()]
        held.append((tensors, [name for name, p in private.module.named_parameters() if p.grad is not None]))
        return observe(private, *arguments, **others)

    monkeypatch.setattr(measuring, "observe", looked)
    assert run(grid_of(shapes, defenses=[defense], seeds=[0]), tmp_path / "run").failed == 0
    assert held and all(found == ([], []) for found in held)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_cycles_are_collected_before_victims_are_observed_on_a_gpu(shapes, tmp_path, monkeypatch, device):
    """What earlier parts left there, recorded graphs above all. On a CPU Python collects when it will. The GPU is one by name."""
    calls, observe, made = [], measuring.observe, measuring._Observing.__init__

    def named(self, *arguments):
        made(self, *arguments)
        self._device = torch.device(device)

    monkeypatch.setattr(measuring._Observing, "__init__", named)
    monkeypatch.setattr(measuring, "upload", lambda tensor, device: tensor)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(memory, "release", lambda device: calls.append("released"))
    monkeypatch.setattr(measuring, "observe", lambda *arguments, **others: (calls.append("observed"), observe(*arguments, **others))[1])
    grid = grid_of(shapes, defenses=["none"], seeds=[0], evaluation={"checkpoints": [-1], "victims": 2})
    assert run(grid, tmp_path / "run").failed == 0
    assert calls == (["observed"] if device == "cpu" else ["released", "observed"])
