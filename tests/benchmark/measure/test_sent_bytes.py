from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_cases import loader

import defenses
from benchmark.measure.sent_bytes import sent_bytes

NORMAL = torch.randn(25, 40, generator=torch.Generator().manual_seed(0))
NAN, INF = float("nan"), float("inf")


def kept(count: int) -> torch.Tensor:
    """The first so many of the 1,000 entries."""
    return torch.where(torch.arange(1000) < count, NORMAL.flatten(), 0.0)


@pytest.mark.parametrize(("tensor", "expected"), [
    (NORMAL, 4000),  # all values
    (kept(500), 125 + 2000),  # bitmap and values
    (kept(100), 125 + 400), (kept(32), 125 + 128),  # 253 by bitmap, 256 by indices
    (kept(31), 8 * 31), (kept(1), 8),  # indices and values
    (kept(100).sign(), 4 * 3 + 250),  # 2 bits an entry, of a table of 3
    (NORMAL.sign() * 0.1, 4 * 2 + 125),  # 1 bit an entry
    (torch.arange(1000) % 4 * 1.0, 4 * 4 + 250), (torch.arange(1000) % 5 * 1.0, 4 * 5 + 375),  # 2 and 3 bits an entry
    (torch.ones(1000), 4), (torch.ones(9), 4), (torch.zeros(1000), 0), (torch.zeros(5) * -1, 0), (torch.zeros(0), 0),
    (torch.ones(1), 4), (torch.tensor(3.0), 4), (torch.zeros(1), 0), (torch.tensor([1.0, 2.0]), 8),
    (torch.full((1000,), NAN), 4), (torch.tensor([NAN, INF, -INF, 0.0] * 250), 4 * 4 + 250), (torch.tensor([NAN] + [0.0] * 999), 8),
    (NORMAL.double(), 4000), (NORMAL.sign().bfloat16(), 4 * 2 + 125),
])
def test_by_hand(tensor, expected):
    assert sent_bytes({"weight": tensor}) == expected
    assert sent_bytes({"weight": tensor, "of another layer": tensor}) == 2 * expected


@given(st.lists(st.sampled_from([0.0, -0.0, 0.5, -1.0, NAN, INF, 1e-40]) | st.floats(width=32), max_size=40), st.randoms())
def test_the_order_of_the_entries_does_not_count_and_nothing_takes_more_than_it_is(entries, random):
    tensor = torch.tensor(entries, dtype=torch.float32)
    shuffled = random.sample(entries, len(entries))
    assert 0 <= sent_bytes({"weight": tensor}) == sent_bytes({"weight": torch.tensor(shuffled, dtype=torch.float32)}) <= 4 * len(entries)


def test_images_in_channels_last_memory():
    tensor = NORMAL.view(10, 5, 4, 5).sign().contiguous(memory_format=torch.channels_last)
    assert sent_bytes({"weight": tensor}) == 4 * 2 + 125


@pytest.mark.parametrize(("defense", "expected"), [
    ("none", 4 * 300), ("noise", 4 * 300), ("pruning(p=0.99)+noise", 4 * 300), ("pruning(p=0.99)", 8 * 3), ("pruning(p=0.5)", 38 + 4 * 150)])
def test_of_what_defenses_share(defense, expected):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 6, 5, bias=False), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())  # 300 entries
    private = defenses.create(defense).make_private(module=module, optimizer=torch.optim.SGD(module.parameters()), data_loader=loader())
    assert sent_bytes(private.shared_gradient(torch.randn(4, 2, 8, 8), torch.tensor([0, 1, 2, 3]))) == expected
