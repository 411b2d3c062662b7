"""What is done to the gradients of all victims is asked for at once: each call is a launch on a GPU. On tensors of another device,
which have no numbers, and against what one call a victim gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attacks.engine import rows
from attacks.engine.layers import convolution
from attacks.engine.slots import Slots
from attacks.objective import parts as parts_module
from attacks.objective.objective import squared_norms


class Calls(TorchDispatchMode):
    """Counts what is done; views are none."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def gradients_of(victims: int, device: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(victims)
    return {"a.weight": torch.randn(victims, 3, 4, generator=generator).to(device), "a.bias": torch.randn(victims, 3, generator=generator).to(device)}


def norms(victims, device):
    given = gradients_of(victims, device)
    masks = {"a.weight": given["a.weight"] > 0} if victims % 2 == 0 else {}
    return {name: squared_norms(g, masks.get(name)) for name, g in given.items()}


def norms_of_rows(victims, device):
    return rows.squared_norms(gradients_of(victims, device)["a.weight"])


def held(victims, device):
    slots = Slots([*range(victims), 0], victims, reloaded=True)
    return slots.hold(gradients_of(victims, device)["a.weight"]).value


def arranged(victims, device):
    slots = Slots([*range(victims), 0], victims, reloaded=True)
    return slots.hold(gradients_of(victims, device)["a.weight"], lambda some: some.mT.flip(1)).value


@pytest.mark.parametrize("compute", [norms, norms_of_rows, held, arranged], ids=lambda function: function.__name__)
def test_calls_do_not_grow_with_the_victims(compute):
    counted = []
    for victims in (4, 64):
        with Calls() as calls:
            compute(victims, "meta")
        counted.append(calls.names)
    assert counted[0] == counted[1]


@pytest.mark.parametrize("most", [1, 100, 2**26])
@pytest.mark.parametrize("compute", [norms, norms_of_rows, held, arranged], ids=lambda function: function.__name__)
def test_parts_give_the_same(compute, most, monkeypatch):
    """As elsewhere than on a CPU, in parts of one victim, of two, and of all."""
    expected = [compute(victims, "cpu") for victims in (6, 7)]
    monkeypatch.setattr(parts_module, "_BYTES", most)
    for module in ("attacks.objective.objective", "attacks.engine.rows", "attacks.engine.slots"):
        monkeypatch.setattr(f"{module}.parts", lambda values: values.split(max(1, most // (values.element_size() * values[0].numel()))))
    for victims, values in zip((6, 7), expected, strict=True):
        torch.testing.assert_close(compute(victims, "cpu"), values, rtol=1e-6, atol=0)


def test_parts_of_a_cpu_are_single_and_of_others_as_many_as_fit(monkeypatch):
    assert [len(part) for part in parts_module.parts(torch.zeros(3, 5))] == [1, 1, 1]
    monkeypatch.setattr(parts_module, "_BYTES", 50)
    assert [len(part) for part in parts_module.parts(torch.zeros(5, 5, device="meta"))] == [2, 2, 1]
    assert [len(part) for part in parts_module.parts(torch.zeros(2, 500, device="meta"))] == [1, 1]


@pytest.mark.parametrize(("kernel", "padding", "stride"), [((3, 3), (1, 1), (1, 1)), ((5, 5), (2, 2), (2, 2)), ((2, 3), (0, 1), (3, 2))])
def test_patches_by_views_are_those_of_unfold(kernel, padding, stride):
    """With their derivatives, twice."""
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = F.unfold(x, kernel, 1, padding, stride)
    found = convolution._unfolded_by_views(x, kernel, padding, stride)
    assert torch.equal(found, expected)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    results = []
    for patches in (expected, found):
        by_x, = torch.autograd.grad((patches.tanh() * weight).sum(), x, create_graph=True)
        results.append((by_x, *torch.autograd.grad(by_x.square().sum(), (x, weight))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_patches_elsewhere_than_on_a_cpu_are_one_copy():
    layer = nn.Conv2d(3, 4, 5, 2, 2)
    with Calls() as calls:
        patches = convolution._unfolded(torch.zeros(9, 3, 8, 8, device="meta"), layer)
    assert patches.shape == F.unfold(torch.zeros(9, 3, 8, 8), 5, 1, 2, 2).shape
    assert not any("im2col" in name for name in calls.names)
    dilated = nn.Conv2d(3, 4, 3, dilation=2)
    assert convolution._unfolded(torch.zeros(9, 3, 8, 8, device="meta"), dilated).shape == (9, 27, 16)
