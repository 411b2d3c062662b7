"""Where reading a network backwards begins: at the last layer, or at a stochastic one, of which what entered is read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attacks.base import Observation
from attacks.reading.backwards import Known
from attacks.reading.labels import known_or_inferred_labels, label_obstacle
from attacks.reading.layers import codes, concealed, last_features, last_of_two, replay_obstacle, seen_inputs, told_by_codes
from attacks.reading.layers import features as features_before_sampling
from attacks.reading.releases import alteration, parts_left
from defenses import client_loss
from defenses.stochastic import samples_of_codes, sampling


class Last(NamedTuple):
    """A layer of which what entered is read, where the chain of those before it ends: ``value`` [N, S, d] of the S images behind
    the gradient, and which of it is told, None for all; the linear layer whose gradient tells it, with what entered that; and the
    derivative by what leaves that, [N, S, o], where it was read too."""

    place: str
    value: Tensor
    where: Tensor | None
    linear: str
    entered: Tensor
    behind: Tensor | None = None


def known_last(observation: Observation) -> Last | str:
    """The last layer, or the first stochastic one; or why what entered it is not read."""
    reason = label_obstacle(observation)
    if reason is not None:
        return reason
    if observation.batch_size > 1:
        return f"layers are read from the gradient of one image, not of {observation.batch_size}"
    if concealed(observation):
        both = last_features(observation)
        if isinstance(both, str):
            return both
        (place, value), = both.items()
        return Last(place, value, None, place, value, last_of_two(observation)[1])
    whole = [name for name in observation.shared if parts_left(observation, name) is None]
    if (reason := alteration(observation, whole)) is not None:
        return f"layers are read from gradients as they were computed, and {reason}"
    if replay_obstacle(observation) is None:
        if told_by_codes(observation):
            (name, layer), code = next(iter(observation.stochastic.items())), codes(observation)[0]
            return Last(name, *layer.told(code), f"{name}.{layer.reads_code}", code)
        found: dict[str, Tensor] | str = features_before_sampling(observation)
        if not found:
            return "the features before the stochastic layer do not enter a linear layer"
    else:
        found = last_features(observation)
    if isinstance(found, str):
        return found
    place, value = next(iter(found.items()))
    where = seen_inputs(observation, place)
    if where is not None:  # the others are taken for as large as these, so that the error behind them is nearly right
        middle = (value * where).sum(-1, keepdim=True) / where.sum(-1, keepdim=True).clamp_min(1)
        value = torch.where(where, value, middle)
    return Last(place, value, where, place, value, _behind(observation, place) if where is not None else None)


def _behind(observation: Observation, linear: str) -> Tensor | None:
    """The derivative by what leaves a linear layer, [N, 1, o], which is the gradient of its bias, where that is as it was computed:
    it does not depend on features that are not known."""
    bias = f"{linear}.bias" if linear else "bias"
    return None if observation.releases()[bias].stages else observation.shared[bias][:, None]


def begun(observation: Observation, last: Last) -> tuple[Known, Observation]:
    """What is known at a layer of which the input is, and the gradients as they were before all were scaled by one factor: what
    enters a linear layer tells its own gradient, and that the factor."""
    if last.behind is not None:
        weight = observation.module.get_parameter(f"{last.linear}.weight" if last.linear else "weight").detach()
        return Known(last.value, last.behind @ weight, last.where), observation
    known, behind = _errors(observation, last)
    releases = observation.releases()
    if not any(release.stages and parts_left(observation, name) is None for name, release in releases.items()):
        return known, observation
    own = torch.einsum("no,ni->noi", behind, last.entered.flatten(1)).flatten(1)
    shared = observation.shared[f"{last.linear}.weight"].flatten(1)
    tiny = torch.finfo(own.dtype).tiny
    factor = ((shared * own).sum(1) / own.square().sum(1).clamp_min(tiny)).clamp_min(tiny)
    unscaled = {name: g / factor.view(-1, *[1] * (g.dim() - 1)) for name, g in observation.shared.items()}
    return known, replace(observation, shared=unscaled)


def _errors(observation: Observation, last: Last) -> tuple[Known, Tensor]:
    """What enters a layer with the derivative of the client's loss by it, through the layers behind it, all of which is known; and
    the derivative by what leaves it [N, outputs]."""
    features = last.value.flatten(1).detach().clone().requires_grad_()
    labels = known_or_inferred_labels(observation)
    stochastic = list(observation.stochastic.values())
    sampled = [code.flatten(0, 1) for code in codes(observation)] if replay_obstacle(observation) is None else []
    images = observation.mean.new_zeros(len(observation), *observation.image_shape)

    outputs: list[Tensor] = []

    def put_in(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
        return (features.view_as(arguments[0]), *arguments[1:])

    with ExitStack() as restored:
        layer = observation.module.get_submodule(last.place)
        restored.callback(layer.register_forward_pre_hook(put_in).remove)
        samples: list[Tensor] | None = None
        if sampled:  # to the client the samples were constants, not the codes, through which the features are felt
            with torch.no_grad():
                samples = samples_of_codes(stochastic, sampled, lambda: observation.module(images))
        restored.callback(layer.register_forward_hook(lambda module, arguments, output: outputs.append(output)).remove)
        restored.enter_context(sampling(stochastic, samples))
        loss = client_loss(observation.defense, observation.module, images, labels.flatten(0, 1)).sum()
        error, behind = torch.autograd.grad(loss, (features, outputs[0]))
    return Known(features.detach()[:, None], error[:, None], last.where), behind.flatten(1)
