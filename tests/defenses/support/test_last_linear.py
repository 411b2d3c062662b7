"""The layer that a model ends in is found once, as long as the model has the same layers."""

from __future__ import annotations

import gc
import weakref

import pytest
from torch import nn

from defenses.support import last_linear as finding
from defenses.support.last_linear import last_linear, replace


@pytest.fixture
def traced(monkeypatch):
    models, by_data_flow = [], finding._by_data_flow
    monkeypatch.setattr(finding, "_by_data_flow", lambda module: (models.append(module), by_data_flow(module))[1])
    return models


def model():
    return nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))


def test_it_is_traced_once(traced):
    module = model()
    assert [last_linear(module) for _ in range(3)] == [("2", module[2])] * 3
    assert len(traced) == 1


def test_layers_that_came_later_are_seen(traced):
    module = model()
    last_linear(module)
    replace(module, "2", nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)))
    assert last_linear(module) == ("2.1", module[2][1])
    module[2][1] = other = nn.Linear(5, 7)  # of the same name and type
    assert last_linear(module) == ("2.1", other)
    module.append(nn.LayerNorm(7))
    for _ in range(2):
        with pytest.raises(ValueError, match="ends in LayerNorm"):
            last_linear(module)
    assert len(traced) == 3


def test_the_model_is_not_kept():
    module = model()
    last_linear(module)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None
