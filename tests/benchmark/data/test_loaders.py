from __future__ import annotations

import pytest
import torch

from benchmark.data.loaders import BatchLoader, LabelledImages


def images(count: int = 10) -> LabelledImages:
    return LabelledImages(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 7, 7, 1).contiguous(),
                          torch.arange(count), torch.zeros(1), torch.ones(1))


def test_an_epoch_has_every_image_once_in_an_order_of_the_generator():
    loader = BatchLoader(images(), 4, torch.Generator().manual_seed(0))
    first, second = ([y for _, y in loader] for _ in range(2))
    assert [len(y) for y in first] == [4, 4, 2] == [len(y) for y in second]
    assert sorted(torch.cat(first).tolist()) == list(range(10)) == sorted(torch.cat(second).tolist())
    assert torch.cat(first).tolist() != torch.cat(second).tolist()
    again = BatchLoader(images(), 4, torch.Generator().manual_seed(0))
    assert torch.cat([y for _, y in again]).tolist() == torch.cat(first).tolist()


def test_images_belong_to_their_labels():
    for x, y in BatchLoader(images(), 3, torch.Generator().manual_seed(1)):
        assert torch.equal((x[:, 0, 0, 0] * 255).round().long(), y)


def test_poisson_samples_draw_each_image_at_the_stated_rate():
    loader = BatchLoader(images(100), 25, torch.Generator().manual_seed(0)).with_poisson_sampling()
    drawn = [y for _ in range(250) for _, y in loader]
    assert len(drawn) == 1000
    counts = torch.bincount(torch.cat(drawn), minlength=100)
    # 1,000 draws at rate 1/4: standard deviation 13.7 of each count; 5 of them is wide enough for 100 counts.
    assert (counts - 250).abs().max() < 5 * 13.7
    sizes = torch.tensor([float(len(y)) for y in drawn])
    assert sizes.var().item() == pytest.approx(100 * 0.25 * 0.75, rel=0.2)
    assert all(len(set(y.tolist())) == len(y) for y in drawn[:20])
