from __future__ import annotations

import torch
from model_cases import step_of

from defenses import Facts, GradientSigns, Sign


def test_by_hand():
    gradient = torch.tensor([[-3.0, 0.0, 1e-30]])
    assert GradientSigns().transform_gradients({"w": gradient}, step_of())["w"].tolist() == [[-1.0, 0.0, 1.0]]


def test_the_release():
    told = GradientSigns().release({"weight": None}, Facts(1, 0, torch.nn.Linear(2, 1), (2,)))
    assert told["weight"].stages == (Sign(),)
