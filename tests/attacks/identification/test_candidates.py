"""What candidates are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from identification_cases import case_of

from attacks.identification import Identifier


def nan(images: torch.Tensor, value: float = math.nan) -> torch.Tensor:
    images = images.clone()
    images[-1, -1, -1, -1] = value
    return images


@pytest.mark.parametrize(("changes", "message"), [
    (lambda c: {"images": nan(c.images)}, "candidates have pixels that are not finite"),
    (lambda c: {"images": nan(c.images, -math.inf)}, "candidates have pixels that are not finite"),
    (lambda c: {"public_images": nan(c.public_images)}, "public images have pixels that are not finite"),
    (lambda c: {"images": c.images[0]}, r"candidates must be images \[K, C, H, W\] with labels \[K\], got \[2, 8, 8\] and"),
    (lambda c: {"images": c.images[:-1]}, r"candidates must be images \[K, C, H, W\] with labels \[K\], got \[17, 2, 8, 8\] and \[18\]"),
    (lambda c: {"labels": c.labels[:, None]}, r"with labels \[K\], got \[18, 2, 8, 8\] and \[18, 1\]"),
    (lambda c: {"pools": c.pools[0]}, r"pools must be places \[N, M\] among 18 candidates"),
    (lambda c: {"pools": c.pools[:, :0]}, r"pools must be places \[N, M\] among 18 candidates"),
    (lambda c: {"pools": c.pools + 1}, r"pools must be places \[N, M\] among 18 candidates"),
    (lambda c: {"pools": c.pools - 1}, r"pools must be places \[N, M\] among 18 candidates"),
    (lambda c: {"public_labels": None}, "public images need a label each"),
    (lambda c: {"public_images": None}, "public images need a label each"),
    (lambda c: {"public_labels": c.public_labels[:-1]}, "public images need a label each"),
    (lambda c: {"pools": c.pools[:2]}, "there are 2 pools for 3 victims"),
    (lambda c: {"images": c.images[..., :7]}, r"candidates must be images of \[2, 8, 8\], got \[2, 8, 7\]"),
    (lambda c: {"public_images": c.public_images[:, :1]}, r"candidates must be images of \[2, 8, 8\], got \[1, 8, 8\]"),
])
@pytest.mark.parametrize("knowledge", ["blind", "informed"])
def test_what_does_not_fit_is_refused_in_one_line(changes, message, knowledge):
    case = case_of("noise", batch_size=3)
    observation = case.observation if knowledge == "informed" else case.observation.blind()
    with pytest.raises(ValueError, match=message) as error:
        Identifier().scores(observation, replace(case.candidates, **changes(case.candidates)), seed=0)
    assert "\n" not in str(error.value)
