"""What is chosen and set, with stand-ins for two GPUs."""

from __future__ import annotations

import os

import pytest
import torch

from benchmark.errors import InputError
from benchmark.measure import device as devices


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs; the calls that are made of them. Settings are put back."""
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append((device, os.environ.get("CUBLAS_WORKSPACE_CONFIG"))))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # to be put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield made
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("auto", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_has_its_number_and_is_the_current_one(gpus, name, index):
    """Without a number ``torch.cuda.set_per_process_memory_fraction`` raises, and GPU 0 stays the current one."""
    chosen = devices.choose(name)
    assert chosen == torch.device("cuda", index) and [device for device, _ in gpus] == [chosen]


def test_a_gpu_is_deterministic_before_it_starts(gpus):
    devices.choose("cuda")
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert gpus[0][1] == ":4096:8"  # before the device is touched


def test_the_users_own_setting_of_cublas_stays(gpus, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    devices.choose("cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_cpu_is_left_alone(gpus):
    assert devices.choose("cpu") == torch.device("cpu")
    assert not torch.are_deterministic_algorithms_enabled() and gpus == []


def test_a_gpu_that_is_not_there(gpus):
    with pytest.raises(InputError, match="there are 2 CUDA devices"):
        devices.choose("cuda:2")
    assert gpus == []
