"""What is computed of observed gradients once."""

from __future__ import annotations

from dataclasses import replace

import torch
from attack_cases import observation_of


def test_what_is_computed_of_gradients_is_kept_for_the_same_gradients_alone():
    observation, _ = observation_of("noise", "lenet", rounds=2)
    name, asked = "0.weight", []

    def norms(gradients: torch.Tensor) -> torch.Tensor:
        asked.append(gradients)
        return gradients.flatten(1).norm(dim=1)

    first = observation.once(name, "norms", norms)
    assert observation.once(name, "norms", norms) is first and observation.blind().once(name, "norms", norms) is first and len(asked) == 1
    observation.once(name, "other", norms)
    observation.once("0.bias", "norms", norms)
    assert len(asked) == 3
    others = (observation.select([2, 0]), observation.averaged(),
              replace(observation, shared={n: 2 * g for n, g in observation.shared.items()}))
    for other in others:
        torch.testing.assert_close(other.once(name, "norms", norms), other.shared[name].flatten(1).norm(dim=1))
    assert observation.once(name, "norms", norms).equal(first)
